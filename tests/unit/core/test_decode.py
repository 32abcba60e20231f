from __future__ import annotations

from typing import Any

import pytest

from nemodeploy.adapters import resources
from nemodeploy.adapters.yaml_files import parse
from nemodeploy.assembly import plugins
from nemodeploy.core import decode, planning, settings
from nemodeploy.core.cluster_files import decode_cluster
from nemodeploy.core.defaults import DEFAULTS
from nemodeploy.core.layering import merge
from nemodeploy.core.model_files import decode_model
from nemodeploy.core.spec import Draft, Spec
from nemodeploy.engines import ENGINES
from nemodeploy.errors import BadInput

SETTINGS = """
gpu: {type: h100, memory_gib: 79.6}
nodes: 2
gpus_per_node: 8
engine: nemo-eval
layout: {tensor_parallel: 8, pipeline_parallel: 2}
ssh: {host: login}
checkpoints: {nemotron-4-340b-instruct: /models/340b}
images: {nemo-eval: "nvcr.io#nvidia/nemo:24.01.framework"}
"""


def draft(more: str = "", name: str = "demo", model: str = "nemotron-4-340b-instruct") -> Draft:
    document = merge((DEFAULTS, parse(SETTINGS, "base.yaml"), parse(more, "mine.yaml")))
    return settings.decode_settings(
        document,
        name=name,
        profile="h100x16",
        model=decode_model(model, resources.find("models", model)),
        cluster="site",
        plugins=plugins(),
    )


def spec(more: str = "", name: str = "demo", model: str = "nemotron-4-340b-instruct") -> Spec:
    wanted = draft(more, name, model)
    return planning.decide(wanted, ENGINES[wanted.engine])


def problems(more: str) -> str:
    with pytest.raises(BadInput) as caught:
        spec(more)
    return "\n".join(caught.value.detail)


def test_a_whole_deployment_is_read() -> None:
    found = spec()
    assert (found.nodes, found.layout.pipeline_parallel, found.time_s, found.port) == (2, 2, 14400, 1424)
    assert found.cluster.ssh.host == "login"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("04:00:00", 14400), ("1-00:00:00", 86400), ("90m", 5400), ("4h", 14400), ("2d", 172800), ("00:30:00", 1800)],
)
def test_times_are_read_as_slurm_writes_them(text: str, seconds: int) -> None:
    assert decode.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "60", "UNLIMITED", "25:61:00", "-1", "4:00", "1:2:3:4", "00:00:00"])
def test_what_is_not_a_finite_time_is_refused(text: str) -> None:
    assert decode.parse_time(text) == 0


@pytest.mark.parametrize(
    ("yaml_text", "expected"),
    [
        ("nodez: 2", "did you mean nodes?"),
        ("time: 60", "time: must be"),
        ('time: "UNLIMITED"', "not a finite time"),
        ("nodes: 0", "a whole number from 1"),
        ("nodes: true", "a whole number from 1"),
        ("engine: nemoeval", "did you mean nemo-eval?"),
        ("layout: 8", "must be a mapping"),
        ("ssh: {host: 'a b'}", "a host name"),
        ("root: relative/path", "an absolute path"),
        ("env: {A-B: x}", "is not allowed as a name"),
        ("mounts: [relative:/x]", "/source:/target"),
        ("precision: fp9", "must be one of fp32"),
        ("port: 80", "from 1024"),
        ("modules: ['cuda; rm -rf /']", "the name of a module"),
        ("prolog: ['ulimit -l unlimited']", "allow_raw: true beside it"),
        ('prolog: ["one\\ntwo"]', "lines of shell"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(yaml_text: str, expected: str) -> None:
    text = problems(yaml_text)
    assert expected in text
    assert "mine.yaml:1" in text


def test_several_mistakes_are_told_at_once() -> None:
    text = problems("nodes: 0\nengine: x\ncolour: red\n")
    assert "mine.yaml:1:1  nodes" in text
    assert "mine.yaml:2:1  engine" in text
    assert "mine.yaml:3:1  colour" in text


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "x" * 41, "a/b", "a b"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="deployment name"):
        spec(name=name)


def test_whole_numbers_in_env_are_text() -> None:
    assert spec("env: {OMP_NUM_THREADS: 1, A: b}").environment == {"OMP_NUM_THREADS": "1", "A": "b"}


def test_port_auto_means_a_free_one() -> None:
    assert spec("port: auto").port is None


def test_a_sites_own_gpu_request_is_used() -> None:
    assert spec('gpus: {h100: {request: "--gres=gpu:8"}}').gpu_request == "--gres=gpu:8"
    assert spec().gpu_request == "--gpus-per-node=8"


def test_every_shipped_file_is_read() -> None:
    kinds: list[tuple[str, Any]] = [(kind, resources.names(kind)) for kind in ("profiles", "models")]
    assert all(resources.find(kind, name).data for kind, names in kinds for name in names)


def test_lines_of_shell_are_taken_where_somebody_vouches_for_them() -> None:
    assert spec("allow_raw: true\nprolog: ['ulimit -l unlimited']").cluster.prolog == ("ulimit -l unlimited",)


GPUS = "ssh: {host: login}\ngpus: {h100: {defaults: {time: 2h, KEY: 1}}, cpu: {defaults: {time: 1h}}}"


def test_a_type_of_gpu_has_defaults_of_its_own() -> None:
    site = parse(GPUS.replace(", KEY: 1", ""), "site.yaml")
    for wanted, time in (("gpu: {type: h100}", "2h"), ("gpu: {type: a100}", None), ("gpus_per_node: 0", "1h")):
        kind = decode.gpu_type(parse(wanted, "profile.yaml"))
        assert decode.defaults_for_gpu(site, kind).data.get("time") == time


@pytest.mark.parametrize("key", ["root", "scheduler", "prolog", "gpus_per_node", "model"])
def test_what_cannot_depend_on_the_type_of_gpu_is_refused(key: str) -> None:
    with pytest.raises(BadInput, match=rf"site.yaml:2:\d+: {key} cannot depend on the type of GPU"):
        decode.defaults_for_gpu(parse(GPUS.replace("KEY", key), "site.yaml"), "h100")


def test_the_cluster_of_a_slurmdbd_is_read_with_the_way_in_and_only_there() -> None:
    text = "ssh: {host: a}\nslurm: {cluster: mine, path: /opt/slurm/bin, partition: p}"
    one = decode_cluster("a", parse(text, "a.yaml"))
    assert (one.slurm_cluster, one.slurm_path, one.partition) == ("mine", "/opt/slurm/bin", "p")
    for wrong in ("slurm: {cluster: 'a,b'}", "slurm: {path: bin}", "slurm: {path: '/a b'}"):
        with pytest.raises(BadInput):
            decode_cluster("a", parse(f"ssh: {{host: a}}\n{wrong}", "a.yaml"))
    elsewhere = parse("slurm: {cluster: mine, partition: p}\nroot: /x", "profile.yaml")
    assert [key for _, key in decode.only_in_cluster_files(elsewhere)] == ["root", "slurm.cluster"]
    with pytest.raises(BadInput, match=r"slurm\.cluster cannot depend"):
        decode.defaults_for_gpu(parse("gpus: {h100: {defaults: {slurm: {cluster: x}}}}", "a.yaml"), "h100")


def test_a_notice_for_the_engine_beats_the_general_one() -> None:
    notices = "notice: all\nnotices: {vllm: other, nemo-eval: mine}"
    assert spec(notices).cluster.notice == "mine"
    assert spec("notice: all\nnotices: {vllm: other}").cluster.notice == "all"
