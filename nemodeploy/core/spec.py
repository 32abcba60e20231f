"""What is wanted, as types: a model, the hardware, a site, and the deployment that joins them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemodeploy.core.documents import Origin, Path

ANY_KIND = "*"  # a cluster that names one path for a model, whatever form of it is wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompting:
    """How a model is spoken to: a template with `{system}` and `{prompt}`, and where its answers stop.

    `turn`: what follows an answer when the talk goes on, up to where the next answer begins, with the next `{prompt}`;
    empty: it continues text and does not converse. `add_bos`: the server puts the tokenizer's begin-of-text token in
    front; false where the template has its own. `max_tokens`: how long an answer may be unless somebody says.
    """

    template: str
    system: str
    stop: tuple[str, ...]
    probe: str
    add_bos: bool = False
    turn: str = ""
    max_tokens: int = 256

    def compose(self, prompt: str, *, system: str | None = None) -> str:
        """The whole text a server is sent for one question; values are put in as they are."""
        said = self.system if system is None else system
        before, _, after = self.template.partition("{prompt}")
        return before.replace("{system}", said) + prompt + after.replace("{system}", said)

    def converse(self, prompts: Sequence[str], answers: Sequence[str], *, system: str | None = None) -> str:
        """The same for a talk: the first question, and each next one after the answer to the one before."""
        whole = self.compose(prompts[0], system=system)
        for answer, prompt in zip(answers, prompts[1:], strict=True):
            before, _, after = self.turn.partition("{prompt}")
            whole += answer.strip() + before + prompt + after
        return whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One form in which a model's weights exist, and the engines that read it.

    `size_gb` is decimal, on disk; `model_type` is the word by which NeMo's exporter knows the architecture.
    """

    kind: str
    precision: str
    size_gb: float
    source: str
    engines: tuple[str, ...]
    model_type: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Facts about what is served. Sizes are counts; `parameters_b` is in billions; `context` in tokens.

    `kv_heads` has one entry a layer, most first: models made by architecture search have layers with fewer, or none.
    """

    name: str
    description: str
    parameters_b: float
    layers: int
    hidden: int
    heads: int
    kv_heads: tuple[int, ...]
    head_size: int
    vocabulary: int
    context: int
    tied_embeddings: bool
    prompting: Prompting
    checkpoints: tuple[Checkpoint, ...]
    cannot: Mapping[str, str]
    trust_remote_code: bool
    licence: str
    gated: str
    card: str
    sampling: Mapping[str, Any]
    sources: Mapping[str, str]

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that can serve it, in the order of the file."""
        return tuple(dict.fromkeys(engine for one in self.checkpoints for engine in one.engines))

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions in which there is a checkpoint, in the order of the file."""
        return tuple(dict.fromkeys(one.precision for one in self.checkpoints))

    def checkpoints_for(self, engine: str) -> tuple[Checkpoint, ...]:
        """Those that an engine can read."""
        return tuple(one for one in self.checkpoints if engine in one.engines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One kind of GPU; `memory_gib` is what nvidia-smi reports. Type `cpu` stands for a host without any."""

    type: str
    memory_gib: float
    fp8: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What a job takes of each node that it does not have to itself: CPU cores, and memory in GiB."""

    cpus: int
    memory_gib: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What a profile offers. `gpus_per_node` 0: a host without GPUs, which then counts as one device.

    `fast_link`: the GPUs of all nodes are one NVLink domain, so tensor parallelism may cross nodes.
    """

    name: str
    gpu: Gpu
    nodes: int
    gpus_per_node: int
    fast_link: bool = False

    @property
    def devices_per_node(self) -> int:
        """What a model can be cut over on one node."""
        return max(self.gpus_per_node, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a model is cut over GPUs."""

    tensor_parallel: int
    pipeline_parallel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A setting of one engine: `options: {ENGINE: {NAME: VALUE}}`. `most` bounds numbers from above."""

    name: str
    default: bool | float
    about: str
    most: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What the server must have room for: tokens per sequence, and sequences at once."""

    max_length: int
    max_batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What may be left to the planner: None is open."""

    precision: str | None = None
    nodes: int | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    max_batch: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ssh:
    """How a site's login hosts are reached, in the order in which they are tried; each may be an alias of ssh_config
    (or of the file `config`).

    `host_keys`: the only ones that are trusted, as `ssh-ed25519 AAAA…`; none: known_hosts decides. `reconnect_wait_s`:
    the pause before a broken connection is tried again, and about which a submission in doubt waits between its three
    attempts.
    """

    hosts: tuple[str, ...]
    user: str = ""
    port: int | None = None
    config: str = ""
    host_keys: tuple[str, ...] = ()
    reconnect_wait_s: int = 15

    @property
    def host(self) -> str:
        """The first one; empty where nothing is to be reached by SSH."""
        return self.hosts[0] if self.hosts else ""

    @property
    def recovery_waits_s(self) -> tuple[float, ...]:
        """The pauses before each attempt to find out how far a broken submission came."""
        return (min(1.0, self.reconnect_wait_s), float(self.reconnect_wait_s), 2.0 * self.reconnect_wait_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmOptions:
    """A site's own words to sbatch; empty: not said."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    exclusive: bool = True
    extra_args: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """Where images come from, and who asks there: a host (with its port, if it has one), an account, and the name of
    the secret that is its password."""

    host: str
    user: str
    secret: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A site: how to reach it, where things are on it, and how it asks for GPUs. `stand_in`: other programs and
    weights take the place of the model's own. `modules` and `prolog`: what is loaded and run before anything starts.
    `partition`: the site's own, for whoever asks without a deployment. `secrets`: names of variables whose values its
    servers get. `path`: its file, where it goes by that and not by its name. `slurm_cluster`: which of several
    that a slurmdbd knows; `slurm_path`: where Slurm's commands lie on the login host, where its PATH does not say.
    """

    name: str
    description: str
    notice: str
    stand_in: bool
    when_unreachable: str
    transport: str
    ssh: Ssh
    root: str
    scheduler: str
    endpoint_host: str
    lease_minimum_s: int
    storage_gb_per_s: float
    modules: tuple[str, ...] = ()
    prolog: tuple[str, ...] = ()
    registries: tuple[Registry, ...] = ()
    partition: str = ""
    secrets: tuple[str, ...] = ()
    path: str = ""
    slurm_cluster: str = ""
    slurm_path: str = ""
    has_file: bool = True

    @property
    def called(self) -> str:
        """What names it on a command line; where it has no file yet, how ssh reaches it."""
        if not self.has_file and self.ssh.hosts:
            config = f" --ssh-config {shlex.quote(self.ssh.config)}" if self.ssh.config else ""
            return shlex.quote(self.ssh.hosts[0]) + config
        return shlex.quote(self.path or self.name)

    @property
    def option(self) -> str:
        """What a command needs to find a deployment on it, with a blank before it; empty: nothing."""
        return f" --cluster {self.called}" if self.path else ""

    def command(self, verb: str, name: str) -> str:
        """What to type to do that to a deployment on it."""
        return f"nemodeploy {verb} {name}{self.option}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Everything that was asked for, with the origin of every value; what is in `choices` is not decided yet."""

    name: str
    profile: str
    model: Model
    engine: str
    options: Mapping[str, bool | float]
    choices: Choices
    max_length: int
    hardware: Hardware
    host: Host | None
    time_s: int
    port: int | None
    requeue: bool
    grace_s: int
    hang_timeout_s: int
    cluster: Cluster
    slurm: SlurmOptions
    gpu_request: str
    runtime: str
    image: str
    version: str
    checkpoint_paths: Mapping[str, str]
    program: tuple[str, ...]
    mounts: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    origins: Mapping[Path, Origin]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec(Draft):
    """A draft with every choice made."""

    precision: str
    layout: Layout
    serving: Serving
    nodes: int
    checkpoint_kind: str

    @property
    def gpu(self) -> Gpu:
        """The kind of GPU."""
        return self.hardware.gpu

    @property
    def gpus_per_node(self) -> int:
        """GPUs that the job takes of each node."""
        return self.hardware.gpus_per_node

    @property
    def devices(self) -> int:
        """What the model is cut over, on all nodes."""
        return self.nodes * self.hardware.devices_per_node

    @property
    def checkpoint(self) -> str:
        """The path of the weights on the cluster; empty when the cluster file names none."""
        return self.checkpoint_paths.get(self.checkpoint_kind) or self.checkpoint_paths.get(ANY_KIND, "")
