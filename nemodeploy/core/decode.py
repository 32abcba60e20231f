"""From documents to types. Every key a profile, model or cluster file may hold is read here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nemodeploy.core.documents import Document
from nemodeploy.core.reading import Reader
from nemodeploy.core.spec import Cluster, Gpu, Layout, Model, Prompting, Serving, SlurmOptions, Spec, Ssh
from nemodeploy.errors import BadInput
from nemodeploy.values import NAME

TRANSPORTS = ("paramiko", "local")
HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
REMOTE_PATH = r"(/|\$HOME/)[^\x00-\x1f\x7f%\\]*"
IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
LIKE_PATH = "an absolute path on the cluster, or one that begins with $HOME/"

DEFAULTS = Document(
    {
        "time": "04:00:00",
        "precision": "bf16",
        "port": 1424,
        "requeue": False,
        "grace": 10,
        "root": "$HOME/.nemodeploy",
        "runtime": "pyxis",
        "transport": "paramiko",
        "slurm": {"exclusive": True},
        "serving": {"max_length": 4096, "max_batch": 8},
        "lease": {"minimum_s": 120},
    },
    source="built-in default",
)

SHORTEST_S = 120
ONLY_IN_CLUSTER_FILES = ("ssh", "root", "transport", "when_unreachable")

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d{1,3}):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]\d)")
_SHORT_TIME = re.compile(r"(?P<count>[1-9]\d{0,4})(?P<unit>[mhd])")
_UNIT_S = {"m": 60, "h": 3600, "d": 86400}


def decode_model(name: str, document: Document) -> Model:
    """The facts of a model file. Its `defaults:` are a layer of the deployment, read with that."""
    reader = Reader.of(document)
    reader.ignore("defaults", "licence", "source", "checkpoints")
    prompting = reader.section("prompt")
    model = Model(
        name=name,
        description=reader.text("description", ""),
        parameters_b=reader.number("parameters_b"),
        layers=reader.integer("layers"),
        hidden=reader.integer("hidden"),
        heads=reader.integer("heads"),
        kv_heads=reader.integer("kv_heads"),
        head_size=reader.integer("head_size"),
        vocabulary=reader.integer("vocabulary"),
        context=reader.integer("context"),
        prompting=Prompting(
            template=prompting.block("template"),
            system=prompting.block("system", ""),
            stop=prompting.texts("stop", pattern=r"[^\x00]+", like="strings"),
            probe=prompting.text("probe", "What is the capital of France?"),
        ),
        engines=reader.texts("engines"),
        precisions=reader.texts("precisions"),
    )
    reader.finish(f"model {name}")
    return model


def decode_spec(
    document: Document,
    *,
    name: str,
    profile: str,
    model: Model,
    cluster: str,
    engines: Iterable[str],
    runtimes: Iterable[str],
) -> Spec:
    """The merged settings of a deployment. Raises BadInput with every problem at once."""
    reader = Reader.of(document)
    reader.ignore("model", "description")
    gpu = _gpu(reader.section("gpu"))
    engine = reader.choice("engine", engines)
    spec = Spec(
        name=_name(name),
        profile=profile,
        model=model,
        engine=engine,
        precision=reader.choice("precision", model.precisions),
        layout=_layout(reader.section("layout")),
        serving=_serving(reader.section("serving"), model),
        gpu=gpu,
        nodes=reader.integer("nodes", most=1024),
        gpus_per_node=reader.integer("gpus_per_node", most=64),
        time_s=_time(reader),
        port=_port(reader),
        requeue=reader.flag("requeue"),
        grace_s=reader.integer("grace", least=1, most=600),
        cluster=_cluster(cluster, reader),
        slurm=_slurm(reader.section("slurm")),
        gpu_request=_gpu_request(reader, gpu.type),
        runtime=reader.choice("runtime", runtimes),
        image=_of_many(reader, "images", engine),
        checkpoint=_of_many(reader, "checkpoints", model.name),
        program=_programs(reader, engine),
        mounts=reader.texts("mounts", pattern=r"/[^:,]*(:/[^:,]*(:[a-z+]+)?)?", like="/source:/target[:ro]"),
        environment=reader.table("env"),
        secrets=reader.texts("secrets", pattern=IDENTIFIER, like="names of environment variables"),
        lease_minimum_s=reader.section("lease").integer("minimum_s", most=86400),
        origins=document.origins,
    )
    reader.finish(f"profile {profile} on cluster {cluster}")
    return spec


def decode_cluster(name: str, document: Document) -> Cluster:
    """The part of a cluster file that says how to reach it; enough for status, logs and down."""
    reader = Reader.of(document)
    cluster = _cluster(name, reader)
    if reader.problems:
        reader.asked.update(document.data)
        reader.finish(f"cluster {name}")
    return cluster


def _cluster(name: str, reader: Reader) -> Cluster:
    ssh = reader.section("ssh")
    return Cluster(
        name=name,
        description=reader.text("description", ""),
        notice=reader.text("notice", ""),
        when_unreachable=reader.text("when_unreachable", ""),
        transport=reader.choice("transport", TRANSPORTS, DEFAULTS.data["transport"]),
        ssh=Ssh(
            host=ssh.text("host", pattern=HOST, like="a host name or an alias of ssh_config"),
            user=ssh.text("user", "", pattern=r"[A-Za-z0-9_.@-]*", like="a user name"),
            port=ssh.integer("port", None, most=65535),
            config=ssh.text("config", ""),
        ),
        root=reader.text("root", DEFAULTS.data["root"], pattern=REMOTE_PATH, like=LIKE_PATH),
        endpoint_host=reader.text("endpoint_host", "", pattern=HOST, like="a host name"),
    )


def _gpu(reader: Reader) -> Gpu:
    kind = reader.text("type", pattern=r"[a-z0-9_.-]+", like="a GPU type such as h100")
    return Gpu(type=kind, memory_gib=reader.number("memory_gib"))


def _layout(reader: Reader) -> Layout:
    return Layout(
        tensor_parallel=reader.integer("tensor_parallel", most=4096),
        pipeline_parallel=reader.integer("pipeline_parallel", most=4096),
    )


def _serving(reader: Reader, model: Model) -> Serving:
    return Serving(
        max_length=reader.integer("max_length", most=model.context), max_batch=reader.integer("max_batch", most=4096)
    )


def _slurm(reader: Reader) -> SlurmOptions:
    return SlurmOptions(
        partition=reader.text("partition", ""),
        account=reader.text("account", ""),
        exclusive=reader.flag("exclusive"),
        extra_args=reader.texts(
            "extra_args", pattern=r"-[^\x00-\x1f\x7f]+", like="sbatch options, each beginning with -"
        ),
    )


def _gpu_request(reader: Reader, gpu_type: str | None) -> str:
    """How the site asks for this GPU; without its word, Slurm's plain `--gpus-per-node`."""
    kinds = {
        name: kind.text(
            "request", pattern=r"--?[^\x00-\x1f\x7f]+", like="an sbatch option such as --gpus-per-node=h100:8"
        )
        for name, kind in reader.sections("gpus").items()
    }
    return kinds.get(gpu_type or "") or f"--gpus-per-node={reader.data.get('gpus_per_node', 1)}"


def _of_many(reader: Reader, key: str, wanted: str | None) -> str:
    """One entry of a table of texts, such as the image of this engine; empty when it has none."""
    section = reader.section(key)
    values = {name: section.text(name) for name in section.data}
    return values.get(wanted or "") or ""


def _programs(reader: Reader, engine: str | None) -> tuple[str, ...]:
    section = reader.section("programs")
    values = {name: section.texts(name) for name in section.data}
    return values.get(engine or "", ())


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise BadInput(
            f"deployment name {name!r}: use 1 to 40 of a-z, 0-9 and -, not beginning or ending with -",
            hint="--name NAME",
        )
    return name


def _port(reader: Reader) -> int | None:
    """A fixed port, or None for `auto`: a free one chosen by the job."""
    if reader.data.get("port") == "auto":
        reader.ignore("port")
        return None
    port: int | None = reader.integer("port", least=1024, most=65535)
    return port


def _time(reader: Reader) -> int:
    """A finite time limit in seconds, from `HH:MM:SS`, `D-HH:MM:SS` or `90m`, `4h`, `2d`."""
    value = reader.text("time", pattern=r".*", like='"HH:MM:SS" or "4h", in quotes')
    seconds = parse_time(value) if isinstance(value, str) else 0
    if 0 < seconds < SHORTEST_S:
        reader.complain("time", f"{value!r} is too short to start a server", "at least 00:02:00")
    if value is not None and not seconds:
        reader.complain("time", f"{value!r} is not a finite time", 'write "HH:MM:SS", "D-HH:MM:SS", "90m" or "4h"')
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
FROM_ENVIRONMENT = (
    "engine",
    "precision",
    "nodes",
    "time",
    "port",
    "runtime",
    "requeue",
    "grace",
    "layout.tensor_parallel",
    "layout.pipeline_parallel",
    "serving.max_length",
    "serving.max_batch",
    "slurm.partition",
    "slurm.account",
    "slurm.exclusive",
)
