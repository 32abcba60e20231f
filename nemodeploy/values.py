"""Small frozen values that every floor of the house speaks in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_ULID = "0123456789abcdefghjkmnpqrstvwxyz"
_TOKEN = re.compile(rf"nd-(?P<name>{NAME.pattern})-(?P<ulid>[{_ULID}]{{26}})")
_EPOCH = re.compile(r"(?P<job>[0-9]{1,10})\.(?P<restart>[0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Token:
    """The unique id of one submission; it is the Slurm job name."""

    text: str

    def __post_init__(self) -> None:
        """Refuse what nemodeploy did not make; ValueError."""
        if not _TOKEN.fullmatch(self.text):
            raise ValueError(f"not a token: {self.text!r}")

    @classmethod
    def make(cls, name: str, *, milliseconds: int, entropy: int) -> Token:
        """`nd-<name>-<ULID>` from a wall-clock time and 80 random bits."""
        number = (milliseconds & (2**48 - 1)) << 80 | entropy & (2**80 - 1)
        return cls(f"nd-{name}-" + "".join(_ULID[number >> shift & 31] for shift in range(125, -1, -5)))

    @property
    def name(self) -> str:
        """The deployment it belongs to."""
        match = _TOKEN.fullmatch(self.text)
        assert match is not None
        return match["name"]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Epoch:
    """One run of a job: a requeued job keeps its id and gets a new epoch."""

    job_id: str
    restart: int = 0

    @classmethod
    def parse(cls, text: object) -> Epoch | None:
        """`48213.0`, or None when it is not of that form."""
        match = _EPOCH.fullmatch(text) if isinstance(text, str) else None
        return cls(match["job"], int(match["restart"])) if match else None

    def __str__(self) -> str:
        return f"{self.job_id}.{self.restart}"


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that prints masked; `reveal` is the one way to read it."""

    _text: str = field(repr=False)

    def reveal(self) -> str:
        """The value itself; for the 0600 file on the cluster, or whoever is to use it, and nothing else."""
        return self._text

    def __str__(self) -> str:
        return "********"

    def __repr__(self) -> str:
        return "Secret(********)"

    def __format__(self, spec: str) -> str:
        return format("********", spec)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A POSIX shell text for the login host. It goes over standard input, so it appears in no process list."""

    script: str
    deadline_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """What came back: exit status, and both streams, each cut at a cap that is far above any honest answer.

    `is_cut`: standard output is not whole.
    """

    status: int
    stdout: str
    stderr: str
    is_cut: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where a server answers, written by the job itself; to be trusted for its own epoch only.

    `nonce` is new for each run of the job, for whoever compares two of them. `generation_s`: how long its first answer
    took.
    """

    host: str
    port: int
    protocol: str
    model: str
    epoch: Epoch
    nonce: str
    generation_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpRequest:
    """A request to an engine's own protocol."""

    method: str
    path: str
    body: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How text is to be generated. `temperature` 0 is greedy; `seed` None: the server's own; `stop`: beside the
    model's own stop strings.
    """

    max_tokens: int
    temperature: float = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What an engine's answer says for one prompt: the generated text, or what is wrong with it.

    `refused`: the request was at fault, not the server; `away`: the server cannot at the moment. `stopped`: the text
    ended by itself, at a stop string; False: nobody says why it ended. Tokens as the server counted them, None: it does
    not say.
    """

    text: str = ""
    problem: str = ""
    refused: bool = False
    away: bool = False
    stopped: bool = False
    prompt_tokens: int | None = None
    tokens: int | None = None
