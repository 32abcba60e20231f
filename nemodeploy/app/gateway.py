"""Between OpenAI's API and an engine that speaks another protocol: a service for one deployment."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemodeploy.app.backend import Backend, Job
from nemodeploy.core.openai_answers import Answering
from nemodeploy.core.openai_requests import read_request
from nemodeploy.errors import BadInput
from nemodeploy.values import Reply, Secret

if TYPE_CHECKING:
    from nemodeploy.adapters.asgi import HttpServer

MISSING = "pip install 'nemodeploy[gateway]', or --raw for the engine's own protocol"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request under way, and who is asked."""

    answering: Answering
    jobs: Sequence[Job]
    backend: Backend

    @property
    def futures(self) -> list[Future[Reply]]:
        """One for each choice."""
        return [job.future for job in self.jobs]

    def drop(self) -> None:
        """Nobody listens any more."""
        left = [job for job in self.jobs if not job.future.done()]
        if left:
            self.backend.drop(left)


class Gateway:
    """The service behind OpenAI's API on this machine, for one deployment and whoever knows its key."""

    def __init__(self, backend: Backend, serves: Callable[[], bool], nonce: Callable[[], str], key: Secret) -> None:
        """`serves`: whether there is a server at this moment; `nonce`: a word that nobody had before."""
        self.backend, self.serves, self.key = backend, serves, key
        self.model = backend.can.model
        self.loop = backend.loop
        mine = nonce()
        self._ids = (f"{mine}{number:06x}" for number in itertools.count())

    def accept(self, kind: str, raw: bytes, created: int) -> Conversation:
        """Check and take up a request. Raises Refused."""
        asked = read_request(kind, raw, self.backend.can)
        answering = Answering(asked=asked, id=next(self._ids), created=created, model=self.model)
        return Conversation(answering, self.backend.ask(asked), self.backend)

    def refuse(self) -> None:
        """In the loop: who waits and who comes is refused from now on."""
        self.backend.refuse()

    def close(self) -> None:
        """Nothing can be asked any more."""
        self.backend.close()


def require() -> None:
    """Raises BadInput where the extra is not installed."""
    try:
        from nemodeploy.adapters import asgi  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput(
            f"this engine needs nemodeploy's gateway, and {error.name} is not installed", hint=MISSING
        ) from None


def serve(gateway: Gateway, listener: socket.socket) -> HttpServer:
    """What answers on a socket that listens, once it is started."""
    from nemodeploy.adapters.asgi import HttpServer

    return HttpServer(listener, gateway)
