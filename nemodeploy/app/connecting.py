"""A port of this machine that leads to a deployment's server, for as long as somebody wants it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

from nemodeploy.adapters.forwarding import LOOPBACK, listen
from nemodeploy.adapters.proxy import Proxy
from nemodeploy.app import asking
from nemodeploy.app.backend import Backend
from nemodeploy.app.gateway import Gateway, require, serve
from nemodeploy.app.pace import RENEWALS_A_LEASE
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site
from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.readiness import CAUSES, judge
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable
from nemodeploy.values import Endpoint, Secret, Token

REFRESH_EVERY_S = 15.0  # reading the run directory asks no controller
LEASE_LOOK_S = 60.0
TEND_EVERY_S = 1.0
AGAIN_AFTER_S = 5.0
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
OPENAI = "openai"  # the protocol of that name


class Door(Protocol):
    """What answers at the port."""

    def start(self) -> None:
        """Answer from now on."""

    def close(self) -> None:
        """Take no more connections."""


def check(protocol: str, *, raw: bool) -> None:
    """Raises BadInput where OpenAI's API was to be had and the extra for it is not installed."""
    if protocol != OPENAI and not raw:
        require()


class Connection:
    """Follows the server to another node when its job is requeued, and renews the lease meanwhile.

    It answers in OpenAI's protocol: a proxy passes requests on to a server that speaks it, and for others there is a
    gateway. `raw`: the proxy for every server, whatever it speaks over HTTP. Both want the key.
    """

    def __init__(
        self, site: Site, ports: Ports, token: Token, plan: Mapping[str, Any], endpoint: Endpoint, *, raw: bool = False
    ) -> None:
        """Nothing listens before `open`."""
        self.site, self.ports, self.token, self.plan = site, ports, token, plan
        self.endpoint: Endpoint | None = endpoint
        self.protocol = endpoint.protocol if raw else OPENAI
        self.door: Door | None = None
        self.port = 0
        self._over = threading.Event()
        self._ended = ""
        self._absent = 0

    def open(self, port: int) -> None:
        """Listen, and keep its lease if it has one. Raises BadInput when the port is taken, or the extra is missing."""
        assert self.endpoint is not None
        check(self.endpoint.protocol, raw=self.protocol != OPENAI)
        listener = listen(port)
        self.port = listener.getsockname()[1]
        if self.protocol == self.endpoint.protocol:
            self.door = Proxy(listener, self._dial, self.key)
        else:
            gateway = Gateway(Backend(self.plan, self._dial), self._serves, self.ports.nonce, self.key)
            self.door = serve(gateway, listener)
        self.door.start()
        self.tend()

    def tend(self) -> None:
        """From now on know where the server is, and keep its lease if it has one."""
        threading.Thread(target=self._tend, daemon=True).start()

    def backend(self, *, within_s: float) -> Backend:
        """Whoever asks from here, without a port; an answer may take so many seconds."""
        return Backend(self.plan, self._dial, within_s=within_s)

    @property
    def url(self) -> str:
        """Where it can be reached on this machine, once it is open."""
        return f"http://{LOOPBACK}:{self.port}"

    @cached_property
    def key(self) -> Secret:
        """What every request to the port has to carry; it does not reach the server."""
        return self.ports.key(self.token)

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What tells a program where the server is, and the key. Where its environment has proxies, they are not for
        this port."""
        model = asking.served_of(self.plan)
        found = {
            "NEMODEPLOY_ENDPOINT": self.url,
            "NEMODEPLOY_API_KEY": self.key.reveal(),
            "NEMODEPLOY_NAME": self.token.name,
            "NEMODEPLOY_PROTOCOL": self.protocol,
            "NEMODEPLOY_MODEL": model,
        }
        if self.protocol == OPENAI:
            found |= {"OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_API_KEY": self.key.reveal()}
            found |= {"OPENAI_MODEL": model, "OPENAI_MODEL_NAME": model}
        if any(environment.get(name) for one in PROXIES for name in (one, one.upper())):
            others = environment.get("no_proxy") or environment.get("NO_PROXY")
            found |= dict.fromkeys(("no_proxy", "NO_PROXY"), f"{others},{LOOPBACK}" if others else LOOPBACK)
        return found

    def close(self) -> None:
        """Take no more connections, renew no more, and say no more of its end. Waits for nothing."""
        self._over.set()
        if self.door:
            self.door.close()

    @property
    def has_ended(self) -> bool:
        """Whether the job said that it ended, and stays so."""
        return bool(self._ended)

    def _serves(self) -> bool:
        return self.endpoint is not None and not self._ended

    def _dial(self) -> socket.socket:
        """A stream to the server; where it was, else where it is now."""
        endpoint = self.endpoint
        try:
            if endpoint:
                return self._to(endpoint)
        except ClusterUnreachable:
            pass
        self._refresh()
        if self.endpoint is None:
            raise ClusterUnreachable(f"{self.token.name} is not serving")
        return self._to(self.endpoint)

    def _to(self, endpoint: Endpoint) -> socket.socket:
        return self.site.transport.tunnel(str(self.plan.get("endpoint_host") or endpoint.host), endpoint.port)

    def _refresh(self) -> RunDirectory:
        directory = self.site.look(controller=False, name=self.token.name).directory(self.token)
        self.endpoint = directory.endpoint
        return directory

    def _tend(self) -> None:
        """Renew in time, and know where the server is; what fails is tried again soon, and does not keep the other from
        being done. Who is refused is not going to ask again."""
        due = {self._renew: 0.0, self._watch: 0.0}
        try:
            while not self._over.wait(TEND_EVERY_S):
                for what in [one for one, at in due.items() if self.ports.clock.now() >= at]:
                    try:
                        pause = what()
                    except ClusterUnreachable:
                        pause = AGAIN_AFTER_S
                    due[what] = self.ports.clock.now() + pause
        except AuthenticationFailed as error:
            text = f"{self.token.name} is watched no more, and its lease not renewed: {error.message}"
            self.ports.reporter.say("refused", text)

    def _renew(self) -> float:
        """Renew the lease, and when to do so again, in seconds; somebody may give it one later."""
        ttl_s = self.site.renew(self.token)
        return LEASE_LOOK_S if ttl_s is None else ttl_s / RENEWALS_A_LEASE

    def _watch(self) -> float:
        """Look where the server is, and when to do so again, in seconds."""
        self._notice(self._refresh())
        return REFRESH_EVERY_S

    def _notice(self, directory: RunDirectory) -> None:
        """Say once that the server is gone for good: its files were archived, or it said so itself; of a job that may
        be requeued only Slurm knows that. One look that shows nothing is none."""
        self._absent = 0 if directory.manifest else self._absent + 1
        if self._ended or (directory.exit is None and self._absent < 2):
            return
        if self.plan.get("requeue") and directory.manifest:
            look = self.site.look(name=self.token.name)
            if not judge(self.site.see(look, look.directory(self.token))).gone:
                return
        if not self._over.is_set():
            self._ended = CAUSES.get(directory.exit.cause, directory.exit.cause) if directory.exit else "it is gone"
            self.ports.reporter.say("ended", f"{self.token.name} has ended: {self._ended}")
