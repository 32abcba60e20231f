"""What is wanted, as types: a model, the hardware, a site, and the deployment that joins them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemodeploy.core.documents import Origin, Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompting:
    """How a model is spoken to: templates with `{system}` and `{prompt}`, and where its answers stop."""

    template: str
    system: str
    stop: tuple[str, ...]
    probe: str

    def compose(self, prompt: str) -> str:
        """The whole text a server is sent for one question; values are put in as they are."""
        before, _, after = self.template.partition("{prompt}")
        return before.replace("{system}", self.system) + prompt + after.replace("{system}", self.system)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Facts about what is served. Sizes are counts; `parameters_b` is in billions; `context` in tokens."""

    name: str
    description: str
    parameters_b: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    prompting: Prompting
    engines: tuple[str, ...]
    precisions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One kind of GPU; `memory_gib` is what nvidia-smi reports."""

    type: str
    memory_gib: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a model is cut over GPUs."""

    tensor_parallel: int
    pipeline_parallel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What the server must have room for: tokens per sequence, and sequences at once."""

    max_length: int
    max_batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ssh:
    """How a site's login host is reached; `host` may be an alias of ssh_config (or of the file `config`)."""

    host: str
    user: str = ""
    port: int | None = None
    config: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmOptions:
    """A site's own words to sbatch; empty: not said."""

    partition: str = ""
    account: str = ""
    exclusive: bool = True
    extra_args: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A site: how to reach it, where things are on it, and how it asks for GPUs."""

    name: str
    description: str
    notice: str
    when_unreachable: str
    transport: str
    ssh: Ssh
    root: str
    endpoint_host: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Everything that was asked for, with the origin of every value; nothing is decided yet."""

    name: str
    profile: str
    model: Model
    engine: str
    precision: str
    layout: Layout
    serving: Serving
    gpu: Gpu
    nodes: int
    gpus_per_node: int
    time_s: int
    port: int | None
    requeue: bool
    grace_s: int
    cluster: Cluster
    slurm: SlurmOptions
    gpu_request: str
    runtime: str
    image: str
    checkpoint: str
    program: tuple[str, ...]
    mounts: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    lease_minimum_s: int
    origins: Mapping[Path, Origin]
