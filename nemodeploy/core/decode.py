"""From documents to types. Every key a profile, model or cluster file may hold is read here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nemodeploy.core.cluster_files import read_cluster
from nemodeploy.core.documents import Document, Origin
from nemodeploy.core.model_files import PRECISIONS
from nemodeploy.core.reading import REQUIRED, Reader, near
from nemodeploy.core.spec import (
    ANY_KIND,
    Choices,
    Cluster,
    Draft,
    Gpu,
    Hardware,
    Host,
    Model,
    Option,
    SlurmOptions,
)
from nemodeploy.errors import BadInput

IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
IMAGE = r"(?!.*:[^/@]*@(?!sha256:))(\$oauthtoken@)?[A-Za-z0-9./_][A-Za-z0-9@#:/._+-]*"
LIKE_IMAGE = "an image without spaces, quotes or USER:PASSWORD@ (credentials belong in the runtime's own file)"
MOUNT = r"(?!.*/\.\.(/|:|$))/[^:,\x00-\x1f]*(:/[^:,\x00-\x1f]*(:(ro|rw)(\+[a-z-]+)*)?)?"
LIKE_MOUNT = "/source:/target[:ro], both absolute, without .. and commas"
# Names that the loader, Slurm, or nemodeploy itself gives a meaning.
NOT_OURS = (
    r"(?!LD_PRELOAD$|LD_LIBRARY_PATH$|PATH$|HOME$|IFS$|BASH_ENV$|ENV$|E?UID$|PPID$|SHELLOPTS$|BASHOPTS$"
    r"|SLURM_|SBATCH_|NEMODEPLOY_)"
)
RESERVED = NOT_OURS + r"(?!(?i:.*(TOKEN|PASS|PASSWORD|PASSWD|SECRETS?|API_?KEY|ACCESS_?KEY|CREDENTIALS?))$)"
LIKE_VARIABLE = "letters, digits and _, and none of the loader's or Slurm's; tokens and passwords go to secrets: [NAME]"

SHORTEST_S = 120
LONGEST_S = 366 * 86400
ONLY_IN_CLUSTER_FILES = (
    "ssh",
    "root",
    "transport",
    "scheduler",
    "when_unreachable",
    "prolog",
    "allow_raw",
    "registries",
)
SLURM_ONLY_IN_CLUSTER_FILES = ("cluster", "path")
_NOT_OF_A_GPU = ("model", "extends", "gpu", "gpus", "gpus_per_node", "description")

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d{1,3}):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]\d)")
_SHORT_TIME = re.compile(r"(?P<count>[1-9]\d{0,4})(?P<unit>[mhd])")
_UNIT_S = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugins:
    """The names that settings may choose from, and the options of each engine.

    `models`: those that may stand below `checkpoints:`, each with its kinds; None: any, since a model may be given by
    its path.
    """

    engines: Mapping[str, Sequence[Option]]
    runtimes: Iterable[str]
    schedulers: Iterable[str]
    models: Mapping[str, Sequence[str]] | None = None


def read_settings(reader: Reader, *, name: str, profile: str, model: Model, cluster: str, plugins: Plugins) -> Draft:
    """Every key of profiles and clusters."""
    reader.ignore("model", "description", "extends")
    engine = reader.choice("engine", plugins.engines)
    hardware, nodes, host = read_hardware(profile, reader)
    layout, serving = reader.section("layout"), reader.section("serving")
    return Draft(
        name=name,
        profile=profile,
        model=model,
        engine=engine,
        options=_options(reader.section("options"), plugins.engines, engine),
        choices=Choices(
            precision=reader.choice("precision", PRECISIONS, None),
            nodes=nodes,
            tensor_parallel=layout.integer("tensor_parallel", None, most=4096),
            pipeline_parallel=layout.integer("pipeline_parallel", None, most=4096),
            max_batch=serving.integer("max_batch", None, most=4096),
        ),
        max_length=serving.integer("max_length", most=model.context),
        hardware=hardware,
        host=host,
        time_s=_time(reader),
        port=reader.integer_or("port", "auto", least=1024, most=65535),
        requeue=reader.flag("requeue"),
        grace_s=reader.integer("grace", least=1, most=600),
        hang_timeout_s=_duration(reader, "hang_timeout"),
        cluster=_cluster(cluster, reader, engine, plugins),
        slurm=_slurm(reader.section("slurm")),
        gpu_request=_gpu_request(reader, hardware),
        runtime=reader.choice("runtime", plugins.runtimes),
        image=_of_many(reader, "images", engine, plugins.engines, pattern=IMAGE, like=LIKE_IMAGE),
        version=_of_many(reader, "versions", engine, plugins.engines),
        checkpoint_paths=_paths(reader.section("checkpoints"), model, plugins.models),
        program=_programs(reader, engine, plugins.engines),
        mounts=reader.texts("mounts", pattern=MOUNT, like=LIKE_MOUNT),
        environment=reader.table("env", names=RESERVED + IDENTIFIER, like=LIKE_VARIABLE),
        secrets=reader.texts(
            "secrets", pattern=NOT_OURS + IDENTIFIER, like="the names of environment variables", shown=False
        ),
        origins=reader.document.origins,
    )


def gpu_type(document: Document) -> str:
    """The type of GPU that settings ask for, or `cpu`."""
    gpu = document.data.get("gpu")
    return str(gpu.get("type")) if isinstance(gpu, Mapping) and document.data.get("gpus_per_node") != 0 else "cpu"


def defaults_for_gpu(cluster: Document, kind: str) -> Document:
    """What a cluster file sets for one type of GPU: `gpus: {TYPE: {defaults: {…}}}`. Raises BadInput for what cannot
    depend on that."""
    found = cluster.section("gpus").section(kind).section("defaults")
    others = ((found.origin((key,)), key) for key in _NOT_OF_A_GPU if key in found.data)
    for origin, key in (*only_in_cluster_files(found), *others):
        raise BadInput(f"{origin.exact}: {key} cannot depend on the type of GPU")
    return found


def decode_hardware(name: str, document: Document) -> Hardware:
    """The hardware of a profile file alone, to say where a model would fit."""
    reader = Reader.of(document)
    hardware, _, _ = read_hardware(name, reader)
    reader.asked.update(document.data)
    reader.finish(f"profile {name}")
    return hardware


def read_hardware(name: str, reader: Reader) -> tuple[Hardware, int | None, Host | None]:
    """GPUs and nodes; the number of nodes when it is not left to the planner; CPU and memory of shared nodes."""
    per_node = reader.integer("gpus_per_node", least=0, most=64)
    fixed = reader.integer("nodes", None, most=1024)
    most = reader.integer("most_nodes", fixed if fixed is not None else 1, most=1024)
    place = reader.section("host")
    host = None
    if place.data or per_node == 0:
        host = Host(cpus=place.integer("cpus", most=4096), memory_gib=place.number("memory_gib"))
    section = reader.section("gpu")
    needed = REQUIRED if per_node else None
    gpu = Gpu(
        type=section.text("type", needed, pattern=r"[a-z0-9_.-]+", like="a GPU type such as h100"),
        memory_gib=section.number("memory_gib", needed),
        fp8=section.flag("fp8", False),
    )
    if per_node == 0 and host:
        gpu = Gpu(type="cpu", memory_gib=host.memory_gib)
    hardware = Hardware(
        name=name, gpu=gpu, nodes=fixed or most, gpus_per_node=per_node, fast_link=reader.flag("fast_link", False)
    )
    return hardware, fixed, host


def only_in_cluster_files(document: Document) -> Iterator[tuple[Origin, str]]:
    """The keys of other documents without which status, logs and down could not find a deployment."""
    for key in ONLY_IN_CLUSTER_FILES:
        if key in document.data:
            yield document.origin((key,)), key
    slurm = document.section("slurm")
    for key in SLURM_ONLY_IN_CLUSTER_FILES:
        if key in slurm.data:
            yield slurm.origin((key,)), f"slurm.{key}"


def _cluster(name: str, reader: Reader, engine: str | None, plugins: Plugins) -> Cluster:
    """How to reach it; what its notices say of this engine beats the general one."""
    found = read_cluster(name, reader, plugins.schedulers)
    return replace(found, notice=_of_many(reader, "notices", engine, plugins.engines) or found.notice)


def _slurm(reader: Reader) -> SlurmOptions:
    return SlurmOptions(
        partition=reader.text("partition", ""),
        account=reader.text("account", ""),
        qos=reader.text("qos", ""),
        reservation=reader.text("reservation", ""),
        constraint=reader.text("constraint", ""),
        exclusive=reader.flag("exclusive"),
        extra_args=reader.texts(
            "extra_args", pattern=r"-[^\x00-\x1f\x7f]+", like="sbatch options, each beginning with -"
        ),
    )


def _gpu_request(reader: Reader, hardware: Hardware) -> str:
    """How the site asks for this GPU; else Slurm's plain `--gpus-per-node`."""
    sections = reader.sections("gpus")
    for kind in sections.values():
        kind.ignore("defaults")  # laid over the cluster file before anything is read
    kinds = {
        name: kind.text(
            "request", "", pattern=r"--?[^\x00-\x1f\x7f]+", like="an sbatch option such as --gpus-per-node=h100:8"
        )
        for name, kind in sections.items()
    }
    if not hardware.gpus_per_node:
        return ""
    return kinds.get(hardware.gpu.type) or f"--gpus-per-node={hardware.gpus_per_node}"


def _options(reader: Reader, engines: Mapping[str, Sequence[Option]], chosen: str | None) -> dict[str, bool | float]:
    """The settings of every engine that has some are checked; those of the chosen one count."""
    found: dict[str, bool | float] = {}
    for engine, options in engines.items():
        section = reader.section(engine)
        for option in options:
            value: bool | float
            if isinstance(option.default, bool):
                value = section.flag(option.name, option.default)
            else:
                value = section.number(option.name, option.default, most=option.most)
            if engine == chosen:
                found[option.name] = value
    return found


def _known(section: Reader, names: Iterable[str]) -> Reader:
    """The section, with every key that is no such name complained of."""
    for name in section.data:
        if name not in names and name != "*":
            section.complain(name, "is not an engine", near(name, names))
    return section


def _of_many(reader: Reader, key: str, wanted: str | None, names: Iterable[str], **form: str) -> str:
    """One entry of a table of texts, such as the image of this engine; empty when it has none."""
    section = _known(reader.section(key), names)
    values = {name: section.text(name, **form) for name in section.data}
    return values.get(wanted or "") or ""


def _paths(reader: Reader, model: Model, models: Mapping[str, Sequence[str]] | None) -> dict[str, str]:
    """Where a model's checkpoints lie: one path for whatever is wanted, or one for each kind."""
    found: dict[str, str] = {}
    known = {**(models or {}), model.name: [one.kind for one in model.checkpoints]}
    for name, value in reader.data.items():
        if models is not None and name not in known:
            reader.complain(name, "is not a model", near(name, known))
        if isinstance(value, Mapping):
            kinds = reader.section(name)
            paths = {kind: _absolute(kinds, kind) for kind in kinds.data}
            for kind in kinds.data if name in known else ():
                if kind not in known[name]:
                    kinds.complain(kind, f"{name} has no such checkpoint", near(kind, known[name]))
        else:
            paths = {ANY_KIND: _absolute(reader, name)}
        if name == model.name:
            found = paths
    return found


def _absolute(reader: Reader, key: str) -> str:
    return str(reader.text(key, pattern=r"/[^\x00-\x1f\x7f]*", like="an absolute path on the cluster") or "")


def _programs(reader: Reader, engine: str | None, names: Iterable[str]) -> tuple[str, ...]:
    section = _known(reader.section("programs"), names)
    values = {name: section.texts(name) for name in section.data}
    return values.get(engine or "", ())


def _time(reader: Reader) -> int:
    """A finite time limit in seconds."""
    seconds = _duration(reader, "time")
    if 0 < seconds < SHORTEST_S:
        reader.complain("time", f"{reader.data['time']!r} is too short to start a server", "at least 00:02:00")
    return seconds


def _duration(reader: Reader, key: str) -> int:
    """Seconds from `HH:MM:SS`, `D-HH:MM:SS` or `90m`, `4h`, `2d`."""
    value = reader.text(key, pattern=r"(?!-?\d+$).*", like='"HH:MM:SS" or "4h", in quotes')
    seconds = parse_time(value) if isinstance(value, str) else 0
    if seconds > LONGEST_S:
        reader.complain(key, f"{value!r} is longer than a year", "a job ends some day; say when")
    if value is not None and not seconds:
        reader.complain(
            key, f"{value!r} is not a finite time", 'write "HH:MM:SS" (minutes 0-59), "D-HH:MM:SS", "90m" or "4h"'
        )
    return seconds


def parse_time(text: str) -> int:
    """Seconds, or 0 when the text is not a finite, positive time in one of the accepted forms."""
    match = _TIME.fullmatch(text)
    if match:
        part = {name: int(value or 0) for name, value in match.groupdict().items()}
        return part["days"] * 86400 + part["hours"] * 3600 + part["minutes"] * 60 + part["seconds"]
    short = _SHORT_TIME.fullmatch(text)
    return int(short["count"]) * _UNIT_S[short["unit"]] if short else 0


# What may be set from the environment: NEMODEPLOY_TIME, NEMODEPLOY_SLURM__PARTITION and so on.
FROM_ENVIRONMENT: tuple[str, ...] = (
    "engine",
    "precision",
    "nodes",
    "time",
    "port",
    "runtime",
    "requeue",
    "grace",
    "hang_timeout",
    "layout.tensor_parallel",
    "layout.pipeline_parallel",
    "serving.max_length",
    "serving.max_batch",
    "slurm.partition",
    "slurm.account",
    "slurm.qos",
    "slurm.reservation",
    "slurm.exclusive",
)
