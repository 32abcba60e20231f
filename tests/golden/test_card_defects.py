"""The 31 defects of the five model cards, one test each; a test fails when its defect comes back.

Numbers are those of the list that the project was started from; `docs/models.md` says what was judged differently.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from nemodeploy.adapters import resources
from nemodeploy.app.wanted import Wanted, Wish, known_model, resolve
from nemodeploy.core.model_files import decode_model
from nemodeploy.engines import ENGINES
from nemodeploy.errors import BadInput
from tests.combinations import Site

B340, BASE, L70, L51, N8 = (
    "nemotron-4-340b-instruct",
    "nemotron-4-340b-base",
    "llama-3.1-nemotron-70b-instruct",
    "llama-3.1-nemotron-51b-instruct",
    "nemotron-3-8b-chat-4k-rlhf",
)


@cache
def wanted(profile: str, model: str = "", runtime: str = "pyxis", engine: str = "", without: str = "") -> Wanted:
    """The deployment on a site of one runtime; `without`: less one key of the cluster file."""
    lines = [line for line in Site(runtime).text.splitlines() if not (without and line.startswith(without))]
    chosen = (("model", model, "flag --model"), ("engine", engine, "flag --engine"))
    settings = tuple(setting for setting in chosen if setting[1])
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("\n".join(lines))
        file.flush()
        return resolve(Wish(profile=profile, name=None, cluster=file.name, settings=settings), {}, needs_site=False)


def files(*names: str) -> dict[str, str]:
    return dict(wanted(*names).bundle.files)


def job(*names: str) -> str:
    return files(*names)["nemo_inference.sbatch"]


def rank(*names: str) -> str:
    return files(*names)["nemo_inference.sh"]


def test_01_every_mount_source_is_an_absolute_path() -> None:
    mounts = re.findall(r"^mounts\+=,(.*)$", job("h100x16"), re.M)
    assert mounts[0] == f"/models/{B340}:/model:ro"
    assert all(mount.strip("'").startswith("/") for mount in mounts)


def test_02_no_variable_is_used_that_is_not_set() -> None:
    for text in files("h100x16").values():
        assert re.search(r"^set -e?u", text, re.M)
    with pytest.raises(BadInput, match="names no image"):
        wanted("h100x16", without="images:")


def test_03_pyxis_gets_a_hash_after_the_registry() -> None:
    assert "\ncontainer_image='nvcr.io#nvidia/nemo:24.01.framework'\n" in job("h100x16")
    assert '--container-image="$container_image"' in job("h100x16")


@pytest.mark.parametrize("model", [B340, BASE])
def test_04_nodes_follow_from_the_layout(model: str) -> None:
    layout = wanted("h100x16", model).plan.layout
    assert layout.nodes * layout.gpus_per_node == layout.tensor_parallel * layout.pipeline_parallel == 16
    assert "#SBATCH --nodes=2" in job("h100x16", model)


def test_05_ready_is_generated_text_not_any_answer() -> None:
    for answer in ("404\n<html>", "200\n", '200\n"tokens_to_generate must be an integer greater than 0"'):
        for name, engine in ENGINES.items():
            expression = engine.ready_probe("m", known_model(B340).prompting).success
            done = subprocess.run(["bash", "-c", "[[ $1 =~ $2 ]]", "x", answer, expression], check=False)
            assert done.returncode == 1, (name, answer)


def test_06_waiting_for_the_server_watches_the_step_and_the_clock() -> None:
    text = job("h100x16")
    assert 'kill -0 "$step" 2>/dev/null || ended_by_itself step_ended' in text
    assert "#SBATCH --time=04:00:00" in text


def test_07_nothing_is_killed_by_name_and_nothing_by_kill_first() -> None:
    for profile in resources.names("profiles"):
        for text in files(profile, "", "docker" if profile != "cpu" else "none").values():
            assert "pkill" not in text
            assert "killall" not in text
    assert rank("h100x16").count('kill -TERM "$server"') == 1
    assert "kill -9" not in rank("h100x16")
    assert "--kill-on-bad-exit=1" in job("h100x16")


def test_08_the_servers_own_status_is_the_ranks_status() -> None:
    assert rank("h100x16").rstrip().endswith('exit "$status"')
    assert 'wait "$server"\nstatus=$?' in rank("h100x16")


def test_09_a_refusal_with_status_200_is_no_answer() -> None:
    reply = ENGINES["nemo-eval"].read(200, '"temperature must be a positive number"', served="m", prompt="p", stop=())
    assert reply.problem
    assert not reply.text


def test_10_the_prompt_is_not_cut_off_by_counting_letters() -> None:
    body = '{"sentences": ["System\\n\\nUser\\nHi\\nAssistant\\nHello there."]}'
    prompt = known_model(B340).prompting.compose("Hi")
    assert ENGINES["nemo-eval"].read(200, body, served="m", prompt=prompt, stop=()).text == "Hello there."


@pytest.mark.parametrize("model", [B340, N8])
def test_11_an_empty_system_prompt_keeps_its_line(model: str) -> None:
    text = known_model(model).prompting.compose("Hi")
    assert text == "<extra_id_0>System\n\n<extra_id_1>User\nHi\n<extra_id_1>Assistant\n"


def test_12_every_rank_has_a_log_of_its_own() -> None:
    assert "--output=logs/%N.%t.log" in job("h100x16")


def test_13_the_jobs_own_log_has_a_place() -> None:
    text = files("h100x16")["submit.sh"]
    assert '--chdir="$run_dir"' in text
    assert "--output=slurm-%j.log" in text


def test_14_time_memory_and_cpus_are_asked_for() -> None:
    assert {"#SBATCH --time=04:00:00", "#SBATCH --mem=0", "#SBATCH --exclusive"} <= set(job("h100x16").splitlines())
    shared = job("h100x1").splitlines()
    assert {"#SBATCH --time=04:00:00", "#SBATCH --mem=100G", "#SBATCH --cpus-per-task=8"} <= set(shared)
    assert "--cpus-per-task=8" in next(line for line in shared if "--ntasks=" in line)


def test_15_every_expansion_that_could_split_is_quoted(tmp_path: Path) -> None:
    for name, text in files("h100x16").items():
        (tmp_path / name).write_text(text)
        words = ["shellcheck", "--shell=bash", "--include=SC2086,SC2068,SC2046", str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert not re.findall(r"SC2086|SC2068|SC2046", done.stdout), done.stdout


def test_16_no_heredoc_is_read_into_a_variable() -> None:
    assert not any("read -r -d ''" in text for text in files("h100x16").values())


def test_17_the_port_is_ours_to_choose_and_a_taken_one_ends_it() -> None:
    assert "finish port_in_use" in job("h100x16")
    assert "the server listens on every interface of its node, without a password" in wanted("h100x16").plan.notices
    assert resources.find("profiles", "cpu").data["port"] == "auto"


def test_18_eight_h200_have_a_profile_of_their_own() -> None:
    layout = wanted("h200x8").plan.layout
    assert (layout.tensor_parallel, layout.pipeline_parallel, layout.nodes) == (8, 1, 1)


def test_19_the_job_serves_until_it_is_told_to_stop() -> None:
    assert "call_server" not in "".join(files("h100x16").values())
    assert "while :; do" in job("h100x16")


def test_20_a_partition_is_said_by_the_site_or_not_at_all() -> None:
    assert "--partition=batch" in files("h100x16")["submit.sh"]
    assert not re.search(r"PARTITION|<[A-Z_]+>", job("h100x16"))


def test_21_docker_mounts_are_one_option_each() -> None:
    volumes = re.findall(r"^  --mount (.*)$", job("a100x2", L70, "docker"), re.M)
    assert len(volumes) == 3
    assert not any(":" in volume for volume in volumes)


def test_22_the_in_framework_script_gets_only_options_that_it_has() -> None:
    known = {"nemo_checkpoint", "triton_model_name", "triton_model_version", "triton_port", "triton_http_address"}
    known |= {"num_gpus", "max_batch_size", "debug_mode"}
    text = rank("a100x2")
    given = set(re.findall(r"--([a-z_]+)=", text[text.index("arguments=(") : text.index("\n)")]))
    assert given <= known
    assert {"nemo_checkpoint", "triton_model_name", "num_gpus", "triton_port"} <= given
    converting = rank("a100x2", L70, "pyxis", "nemo-trtllm")
    assert {"--model_type=llama", "--max_input_len=3072", "--max_output_len=1024"} <= set(converting.split())


def test_23_a_secret_that_is_named_and_not_set_is_an_error() -> None:
    from nemodeploy.app.wanted import secrets

    with pytest.raises(BadInput, match="not set here: HF_TOKEN"):
        secrets(["HF_TOKEN"], {"HF_TOKEN": ""})


def test_24_the_ports_that_triton_opens_besides_are_told() -> None:
    assert any("8001 (gRPC) and 8002 (metrics)" in notice for notice in wanted("a100x2").plan.notices)
    assert "--network=host" in job("a100x2", L70, "docker")


def test_25_only_gpus_that_can_compute_in_bf16_have_a_profile() -> None:
    kinds = {resources.find("profiles", name).data.get("gpu", {}).get("type") for name in resources.names("profiles")}
    assert kinds == {None, "a100", "a100-40g", "h100", "h200"}


def test_26_triton_is_ready_when_its_model_is() -> None:
    assert f"cheap_path=/v2/models/{L70}/ready" in job("a100x2")


def test_27_the_70b_is_asked_in_llamas_own_template() -> None:
    text = known_model(L70).prompting.compose("Hi")
    assert text.startswith("<|start_header_id|>system<|end_header_id|>\n\n")
    assert text.endswith("Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    assert known_model(L70).prompting.stop[0] == "<|eot_id|>"


def test_28_the_51b_has_a_server_and_not_a_snippet() -> None:
    plan = wanted("h100x1").plan
    assert (plan.model, plan.engine, plan.precision, plan.layout.gpus) == (L51, "vllm", "fp8", 1)
    assert "--trust-remote-code" in rank("h100x1")


@pytest.mark.parametrize("engine", [name for name in ENGINES if name.startswith("nemo-")])
def test_29_the_51b_is_not_offered_by_nemo(engine: str) -> None:
    with pytest.raises(BadInput, match="cannot serve"):
        wanted("h100x2", L51, "pyxis", engine)


def test_30_the_8b_has_a_command_that_exists() -> None:
    text = rank("a100x1")
    assert "--model_type=gptnext" in text
    assert "NemoQuery" not in text
    assert '"max_output_len"' in job("a100x1")


def test_31_greedy_is_said_once_and_not_contradicted() -> None:
    sampling = decode_model(N8, resources.find("models", N8)).sampling
    assert sampling["greedy"] is True
    body = ENGINES["nemo-trtllm"].ask("m", known_model(N8).prompting, "p", max_tokens=5).body
    assert '"top_k"' in body
    assert "temperature" not in body
