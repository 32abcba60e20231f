from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nemodeploy.adapters.yaml_files import parse
from nemodeploy.core.cluster_files import decode_cluster
from nemodeploy.sandbox import configuration
from nemodeploy.sandbox.configuration import Settings
from nemodeploy.sandbox.place import NODES, Place
from nemodeploy.sandbox.programs import words


def settings(*ports: int) -> Settings:
    return Settings(
        place=Place(Path("/s")),
        user="me",
        nodes=NODES,
        first_job_id=7,
        path="/usr/bin",
        ports=ports,
        hostname="here",
        address="127.0.0.1",
    )


def test_every_shipped_profile_finds_its_nodes() -> None:
    text = configuration.slurm_conf(settings())
    assert text.count("Gres=gpu:h100:8") == 2
    assert text.count("Gres=gpu:a100:8") == 2
    assert text.count("Gres=gpu:h200:8") == 1


def test_in_namespaces_nodes_have_addresses_and_no_munge() -> None:
    text = configuration.slurm_conf(settings())
    assert "NodeName=h100-1 NodeAddr=10.213.0.11" in text
    assert "auth/none" in text


def test_side_by_side_daemons_need_munge_and_the_loopback() -> None:
    text = configuration.slurm_conf(settings(1, 2, 3, 4, 5, 6))
    assert "auth/munge" in text
    assert "NoInAddrAny" in text
    assert "NodeHostname=here NodeAddr=127.0.0.1 Port=2" in text


def test_a_machine_whose_name_does_not_resolve_cannot_bind_to_it() -> None:
    text = configuration.slurm_conf(replace(settings(1, 2, 3, 4, 5, 6), resolves=False))
    assert "NoInAddrAny" not in text
    assert "auth/munge" in text


def test_no_line_is_given_twice() -> None:
    keys = [line.partition("=")[0] for line in configuration.slurm_conf(settings()).splitlines() if line]
    repeated = {key for key in keys if keys.count(key) > 1}
    assert repeated == {"NodeName", "PartitionName"}


def test_the_cluster_file_is_one_like_any_sites() -> None:
    software = configuration.Software(
        notice='a "notice"',
        stand_in=True,
        programs={name: words("/p y/python", "/x", name) for name in ("nemo-eval", "vllm")},
        checkpoints={"a": "/m.gguf", "b": {"hf": "/b"}},
        itself=("vllm",),
    )
    text = configuration.cluster_file(settings().place, software, plain=False)
    cluster = decode_cluster("sandbox", parse(text, "cluster.yaml"))
    assert cluster.ssh.host == "nemodeploy-sandbox"
    assert parse(text, "f").data["notices"] == {"nemo-eval": 'a "notice"'}
    assert parse(text, "f").data["programs"] == {
        "nemo-eval": ["/p y/python", "/x/megatron_gpt_eval.py"],
        "vllm": ["/p y/python", "/x/stand_in.py", "vllm"],
    }
    assert parse(text, "f").data["checkpoints"] == {"a": "/m.gguf", "b": {"hf": "/b"}}


def test_in_containers_the_cluster_file_names_their_runtime_and_image() -> None:
    plain = configuration.Software(
        notice="n", stand_in=True, programs={"vllm": ("/p/python", "/x.py")}, checkpoints={"a": "/m.gguf"}
    )
    for software, image in ((plain, {}), (replace(plain, runtime="apptainer", image="/i"), {"vllm": "/i"})):
        text = configuration.cluster_file(settings().place, software, plain=False)
        decode_cluster("sandbox", parse(text, "cluster.yaml"))
        assert parse(text, "f").data["images"] == image
        assert parse(text, "f").data["runtime"] == software.runtime
