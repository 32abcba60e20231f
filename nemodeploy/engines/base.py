"""What an engine has to know. One module an engine; everything else treats them alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nemodeploy.core.spec import Prompting, Spec
from nemodeploy.values import HttpRequest, Reply


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A step of the start-up, entered when a log line matches the extended regular expression."""

    name: str
    pattern: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A request, and the extended regular expression that its answer (status, newline, body) matches when good."""

    request: HttpRequest
    success: str

    @property
    def method(self) -> str:
        """HTTP method."""
        return self.request.method

    @property
    def path(self) -> str:
        """HTTP path."""
        return self.request.path

    @property
    def body(self) -> str:
        """HTTP body."""
        return self.request.body


class Engine(Protocol):
    """A server program: how it is launched, how it shows progress, how it is asked, how its answers are read."""

    @property
    def name(self) -> str:
        """As in profiles and registries."""

    @property
    def protocol(self) -> str:
        """What its endpoint speaks."""

    @property
    def template(self) -> str:
        """The template of its nemo_inference.sh."""

    @property
    def program(self) -> tuple[str, ...]:
        """Where the program lies in its own container."""

    @property
    def reserve_gib(self) -> float:
        """Memory per GPU that is not for weights and KV cache: context, buffers, fragmentation."""

    @property
    def joined_pattern(self) -> str:
        """The log line of a rank that has joined the others."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """In the order in which they come."""

    @property
    def notice(self) -> str:
        """What a user must know about this server, such as what it binds; empty: nothing."""

    def rules(self, spec: Spec) -> Sequence[tuple[str, str, str]]:
        """What this engine refuses: dotted key, what is wrong, what to write instead."""

    def arguments(self, spec: Spec, model_path: str) -> tuple[str, ...]:
        """The command line after the program; the port comes last, from the job."""

    def cheap_probe(self) -> Probe:
        """Is it this server? Takes no GPU and no lock."""

    def ready_probe(self, prompting: Prompting) -> Probe:
        """Does it generate? A real question in the model's own template."""

    def ask(self, prompting: Prompting, prompt: str, *, max_tokens: int) -> HttpRequest:
        """The request for one composed prompt."""

    def read(self, status: int, body: str, *, prompt: str, stop: Sequence[str]) -> Reply:
        """The generated text of an answer, or what is wrong with it. Never raises on what a server sends."""
