"""A port of this machine that leads to a deployment's server, for as long as somebody wants it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from typing import Any

from nemodeploy.adapters.forwarding import LOOPBACK, Forwarder
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site
from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.readiness import CAUSES, judge
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable
from nemodeploy.values import Endpoint, Token

RENEWALS_A_LEASE = 5
REFRESH_EVERY_S = 15.0  # reading the run directory asks no controller
TEND_EVERY_S = 1.0
AGAIN_AFTER_S = 5.0
OPENAI = "openai"  # the protocol of that name


class Connection:
    """Follows the server to another node when its job is requeued, and renews the lease meanwhile."""

    def __init__(self, site: Site, ports: Ports, token: Token, plan: Mapping[str, Any], endpoint: Endpoint) -> None:
        """Nothing listens before `open`."""
        self.site, self.ports, self.token, self.plan = site, ports, token, plan
        self.endpoint: Endpoint | None = endpoint
        self.forwarder: Forwarder | None = None
        self._over = threading.Event()
        self._ended = ""
        self._absent = 0

    def open(self, port: int) -> None:
        """Listen, and keep its lease if it has one. Raises BadInput when the port is taken."""
        self.forwarder = Forwarder(port, self._dial)
        self.forwarder.start()
        threading.Thread(target=self._tend, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it can be reached on this machine, once it is open."""
        assert self.forwarder is not None
        return f"http://{LOOPBACK}:{self.forwarder.port}"

    def variables(self) -> dict[str, str]:
        """What tells a program where the server is. The key for OpenAI's clients is none, so that nobody's own key goes
        to this server."""
        endpoint = self.endpoint
        found = {"NEMODEPLOY_ENDPOINT": self.url, "NEMODEPLOY_NAME": self.token.name}
        if endpoint:
            found |= {"NEMODEPLOY_PROTOCOL": endpoint.protocol, "NEMODEPLOY_MODEL": endpoint.model}
        if endpoint and endpoint.protocol == OPENAI:
            found |= {"OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_API_KEY": "none"}
        return found

    def close(self) -> None:
        """Take no more connections, renew no more, and say no more of its end. Waits for nothing."""
        self._over.set()
        if self.forwarder:
            self.forwarder.close()

    @property
    def has_ended(self) -> bool:
        """Whether the job said that it ended, and stays so."""
        return bool(self._ended)

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
        directory = self.site.look(controller=False).directory(self.token)
        self.endpoint = directory.endpoint
        return directory

    def _tend(self) -> None:
        """Renew in time, and know where the server is; what fails is tried again soon."""
        renew_at: float | None = 0.0
        refresh_at = 0.0
        while not self._over.wait(TEND_EVERY_S):
            now = self.ports.clock.now()
            try:
                if renew_at is not None and now >= renew_at:
                    ttl_s = self.site.renew(self.token)
                    renew_at = None if ttl_s is None else now + ttl_s / RENEWALS_A_LEASE
                if now >= refresh_at:
                    self._notice(self._refresh())
                    refresh_at = now + REFRESH_EVERY_S
            except (ClusterUnreachable, AuthenticationFailed):
                self._over.wait(AGAIN_AFTER_S)

    def _notice(self, directory: RunDirectory) -> None:
        """Say once that the server is gone for good: its files were archived, or it said so itself; of a job that may
        be requeued only Slurm knows that. One look that shows nothing is none."""
        self._absent = 0 if directory.manifest else self._absent + 1
        if self._ended or (directory.exit is None and self._absent < 2):
            return
        if self.plan.get("requeue") and directory.manifest:
            look = self.site.look()
            if not judge(self.site.see(look, look.directory(self.token))).gone:
                return
        if not self._over.is_set():
            self._ended = CAUSES.get(directory.exit.cause, directory.exit.cause) if directory.exit else "it is gone"
            self.ports.reporter.say("ended", f"{self.token.name} has ended: {self._ended}")
