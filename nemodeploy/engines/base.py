"""What an engine has to know. One module an engine; everything else treats them alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from nemodeploy.core.diagnosis import Cause
from nemodeploy.core.images import read_name
from nemodeploy.core.planning import BYTES_PER_VALUE, Rules, Server
from nemodeploy.core.spec import Option, Prompting, Spec
from nemodeploy.engines import answers
from nemodeploy.values import HttpRequest, Reply, Sampling

NO_TEXT = "the answer holds no text"
PROBE_TOKENS = 24
HOST_RESERVE_GIB = 1.0


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What was asked, as far as its answer is read by it: the model's name in requests, the composed prompts, the
    strings that end a text, and the most tokens of each; None: as many as come."""

    served: str
    prompts: Sequence[str]
    stop: Sequence[str] = ()
    most: int | None = None

    @property
    def cut_after(self) -> int | None:
        """Tokens after which each text is to be cut: of several prompts a server may go on with the short ones."""
        return self.most if len(self.prompts) > 1 else None


class Engine(Server, Protocol):
    """A server program: how it is launched, how it shows progress, how it is asked, how its answers are read."""

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
    def options(self) -> tuple[Option, ...]:
        """Its own settings."""

    @property
    def joined_pattern(self) -> str:
        """The log line of a rank that has joined the others."""

    @property
    def progress_pattern(self) -> str:
        """The log line that tells how much is loaded; its first group is the percentage without a sign. Empty: none."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """In the order in which they come."""

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Failures that only this program's log shows."""

    @property
    def notice(self) -> str:
        """What a user must know about this server, such as what it binds; empty: nothing."""

    @property
    def binds_all(self) -> bool:
        """Whether it listens on every interface whatever it is told."""

    @property
    def stop_signal(self) -> str:
        """The signal on which it ends in order."""

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """The command line after the program; `bind` is where to listen, the port is added by the template."""

    def served_name(self, spec: Spec, model_path: str) -> str:
        """The model's name in requests."""

    def cheap_probe(self, served: str) -> Probe:
        """Is it this server? Takes no GPU and no lock."""

    def ready_probe(self, served: str, prompting: Prompting) -> Probe:
        """Does it generate? A real question in the model's own template."""

    @property
    def samples_by(self) -> frozenset[str]:
        """Which of temperature, top_p and seed it can be told; without temperature it always answers greedily."""

    @property
    def shares_seed(self) -> bool:
        """Whether several answers to one prompt in a request with a seed differ."""

    @property
    def at_once(self) -> bool:
        """Whether it answers several requests at the same time; if not, they are better sent as one."""

    def longest_answer(self, max_length: int) -> int:
        """The most tokens it gives, where the deployment has so many for prompt and answer."""

    def asked(self, served: str, prompting: Prompting, prompts: Sequence[str], sampling: Sampling) -> HttpRequest:
        """The request for composed prompts, answered together."""

    def replies(self, status: int, body: str, question: Question) -> tuple[Reply, ...]:
        """What an answer holds for each prompt: its text, or what is wrong with it, also when another model than the
        served one gave it, as far as the protocol tells. Never raises on what a server sends."""

    def streamed(self, request: HttpRequest) -> HttpRequest | None:
        """The same request, answered piece by piece; None: it cannot."""

    def piece(self, line: str) -> Reply | None:
        """What a line of such an answer adds, and whether that is its end (`stopped`); None: nothing."""

    def ask(self, served: str, prompting: Prompting, prompt: str, *, max_tokens: int) -> HttpRequest:
        """The request for one composed prompt, greedily."""

    def read(self, status: int, body: str, *, served: str, prompt: str, stop: Sequence[str]) -> Reply:
        """Its answer's text without the white space around it; none at all is a problem."""


class Common:
    """What most engines share; each says for itself where it differs."""

    samples_by = frozenset({"temperature", "top_p", "seed"})
    at_once = False
    shares_seed = False

    options: tuple[Option, ...] = ()
    causes: tuple[Cause, ...] = ()
    progress_pattern = ""
    most_batch = 8
    reserve_gib = 6.0
    stop_signal = "TERM"
    notice = ""
    binds_all = False
    cuts_evenly = True

    def rules(self, spec: Spec) -> Rules:
        """Nothing of its own."""
        return ()

    def usable_gib(self, spec: Spec) -> float:
        """What is left beside context, buffers and fragmentation; without GPUs there is little of that."""
        reserve = self.reserve_gib if spec.gpus_per_node else min(self.reserve_gib, HOST_RESERVE_GIB)
        return spec.gpu.memory_gib - reserve

    def bytes_per_weight(self, spec: Spec) -> float:
        """As the checkpoint has it."""
        return BYTES_PER_VALUE[spec.precision]

    def tasks_per_node(self, spec: Spec) -> int:
        """One process a GPU."""
        return spec.hardware.devices_per_node

    def served_name(self, spec: Spec, model_path: str) -> str:
        """The model's own name."""
        return spec.model.name

    def longest_answer(self, max_length: int) -> int:
        """As long as there is room."""
        return max_length

    def asked(self, served: str, prompting: Prompting, prompts: Sequence[str], sampling: Sampling) -> HttpRequest:
        """Each protocol's own."""
        raise NotImplementedError

    def replies(self, status: int, body: str, question: Question) -> tuple[Reply, ...]:
        """Each protocol's own."""
        raise NotImplementedError

    def streamed(self, request: HttpRequest) -> HttpRequest | None:
        """The answer comes whole."""
        return None

    def piece(self, line: str) -> Reply | None:
        """There are no pieces."""
        return None

    def ask(self, served: str, prompting: Prompting, prompt: str, *, max_tokens: int) -> HttpRequest:
        """One of them, greedily."""
        return self.asked(served, prompting, (prompt,), Sampling(max_tokens=max_tokens))

    def read(self, status: int, body: str, *, served: str, prompt: str, stop: Sequence[str]) -> Reply:
        """The first."""
        reply = self.replies(status, body, Question(served=served, prompts=(prompt,), stop=stop))[0]
        text = reply.text.strip() if answers.visible(reply.text) else ""
        return replace(reply, text=text, problem=reply.problem or ("" if text else NO_TEXT))


def needs_gpus(spec: Spec) -> Rules:
    """The rule of a server that ends at once where there is no GPU."""
    return () if spec.gpus_per_node else (("gpus_per_node", f"{spec.engine} needs GPUs", "a profile that has some"),)


def takes_precision(spec: Spec, known: Collection[str]) -> Rules:
    """The rule of a server that knows some precisions only."""
    if spec.precision in known:
        return ()
    return (("precision", f"{spec.engine} cannot hold {spec.precision}", f"it takes {', '.join(sorted(known))}"),)


def shared_kv_heads(spec: Spec) -> Rules:
    """KV heads are cut evenly, or each is repeated on the same number of GPUs. Source: vLLM, TensorRT-LLM."""
    tensor = spec.layout.tensor_parallel
    odd = sorted({count for count in spec.model.kv_heads if count and count % tensor and tensor % count})
    if not odd:
        return ()
    return (
        ("layout.tensor_parallel", f"{tensor} neither divides {odd[0]} KV heads nor is a multiple", "use a divisor"),
    )


def one_node(spec: Spec, why: str) -> Rules:
    """The rule of a server that cannot span nodes."""
    return (("nodes", f"{spec.engine} serves from one node only: {why}", "--nodes 1"),) if spec.nodes > 1 else ()


def not_cut(spec: Spec, way: str, why: str) -> Rules:
    """The rule of a server that does not cut a model this way: tensor or pipeline."""
    key = f"layout.{way}_parallel"
    return ((key, why, f"--set {key}=1"),) if getattr(spec.layout, f"{way}_parallel") > 1 else ()


def whole_kv_heads(spec: Spec) -> Rules:
    """Megatron cannot cut KV heads finer than one a GPU. Source: megatron-core before 0.16, TransformerConfig."""
    least, tensor = max(spec.model.kv_heads), spec.layout.tensor_parallel
    if least % tensor == 0:
        return ()
    return (("layout.tensor_parallel", f"{tensor} does not divide {least} KV heads", f"use a divisor of {least}"),)


def image_release(spec: Spec, usual: str) -> str:
    """The release of NeMo's container: what the cluster file says, else the image's tag, else the card's own.

    The tags and what is in them: docs.nvidia.com/nemo-framework/user-guide/24.09/softwarecomponentversions.html
    """
    if spec.version:
        return spec.version
    tag = read_name(spec.image).tag
    return tag.removesuffix(".framework") if tag[:2].isdigit() and tag[2:3] == "." else usual


def unknown_release(spec: Spec, release: str, known: Sequence[str], why: str) -> Rules:
    """The rule of an engine whose options are known for some releases only."""
    if release in known:
        return ()
    what = f"release {release} {why}"
    return ((f"images.{spec.engine}", what, f"an image of {', '.join(known)}, or versions: {{{spec.engine}: …}}"),)
