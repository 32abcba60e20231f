"""Input that is stopped at the door: exit code 2, one readable message, and no connection to anywhere.

The rows are those of a matrix of 44 inputs that other tools let through; its numbers are kept in the names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nemodeploy.cli.main import run
from tests.conftest import Home

CLUSTER = """\
ssh: {host: 127.0.0.1, port: 1}
slurm: {partition: batch}
images: {nemo-eval: "nvcr.io#nvidia/nemo:24.01.framework", vllm: "vllm/vllm-openai:v0.12.0"}
checkpoints: {nemotron-4-340b-instruct: /models/340b, llama-3.1-nemotron-70b-instruct: /models/70b}
"""
PROFILE = """\
gpu: {type: h100, memory_gib: 79.6}
nodes: 2
gpus_per_node: 8
model: nemotron-4-340b-instruct
"""


@dataclass(frozen=True)
class Row:
    """One bad input: what is added to a good profile and a good cluster, and what has to be said."""

    number: str
    says: str
    profile: str = ""
    cluster: str = ""
    words: tuple[str, ...] = ()
    whole: bytes | None = None
    silent: tuple[str, ...] = field(default=())


def env(name: str) -> str:
    return f"env: {{{name}: x}}\n"


ROWS = (
    Row("B01", "profile.yaml:5:7  time: 4:00:00 would be a number in base 60", "time: 4:00:00\n"),
    Row("B02", 'time: must be "HH:MM:SS" or "4h", in quotes, not 60', "time: 60\n"),
    Row("B03", "not a finite time", "time: UNLIMITED\n"),
    Row("B03-zero", "not '0'", "time: '0'\n"),
    Row("B03-negative", "not -1", "time: -1\n"),
    Row("B04", "minutes 0-59", 'time: "25:61:00"\n'),
    Row("B06", "would be a boolean to other YAML readers", cluster="slurm: {partition: on}\n"),
    Row("B07", "0123 would be an octal number", cluster="slurm: {account: 0123}\n"),
    Row("B08", "1.1; quote it", cluster="images: {nemo-eval: 1.10}\n"),
    Row("B09", "a number with underscores", "job: 123456_7\n"),
    Row("B10", "profile.yaml:5:1  nodes: duplicate key, also on line 2", "nodes: 3\n"),
    Row("B11", "did you mean tensor_parallel?", "layout: {tensor_paralel: 8}\n"),
    Row("B12", "profile.yaml:6:1", "layout:\n\ttensor_parallel: 8\n"),
    Row("B13", "tags", "name: !!python/object/apply:os.system [id]\n"),
    Row("B14-alias", "anchors and aliases", "a: &x [1]\nb: [*x, *x]\n"),
    Row("B14-deep", "nested deeper than 20", "a: " + "[" * 30 + "]" * 30 + "\n"),
    Row("B14-large", "too large", "# " + "x" * 1_100_000 + "\n"),
    Row("B15-empty", "is empty", whole=b""),
    Row("B15-comments", "is empty", whole=b"# nothing\n\n"),
    Row("B15-list", "(a mapping), not a list", whole=b"- nodes: 2\n"),
    Row("B16", "profile.yaml:2:9: not UTF-8 text (byte 0xff)", whole=b"nodes: 2\nmodel: x\xff\n"),
    Row("B17", "did you mean profile.yaml?", words=("--profile", "{directory}/profil.yaml")),
    Row("B17-name", "h100x16", words=("--profile", "h100x17")),
    Row("B18", "extend each other", "extends: ./profile.yaml\n"),
    Row(
        "B19",
        "TP 8 x PP 3 is 24 ranks, but 2 nodes x 8 GPUs are 16",
        "layout: {tensor_parallel: 8, pipeline_parallel: 3}",
    ),
    Row(
        "B20",
        "6 does not divide 64 attention heads",
        "layout: {tensor_parallel: 6}",
        words=("--model", "llama-3.1-nemotron-70b-instruct", "--set", "layout.tensor_parallel=6", "--engine", "vllm"),
    ),
    Row("B21", "16 crosses nodes of 8 GPUs", "layout: {tensor_parallel: 16}\nengine: vllm\n"),
    *(
        Row(f"B22-{value}", "a whole number from 1", words=("--set", f"nodes={value}"))
        for value in ("0", "-1", "1.5", "'2'")
    ),
    Row("B23", "does not fit", words=("--nodes", "1")),
    *(
        Row(f"B24-{number}", "deployment name", words=("--name", name))
        for number, name in enumerate(("a b", "a/b", "..", "a\nb", "x" * 41, "é", "-a"))
    ),
    Row("B25", "it has a control character at 13", cluster='slurm: {extra_args: ["--comment=ab\\nc"]}\n'),
    Row("B25-nul", "it has a control character at 3", cluster='slurm: {account: "ab\\0c"}\n'),
    Row("B26-space", "an image without spaces", cluster='images: {nemo-eval: "nvcr.io#nvidia/ne mo"}\n'),
    Row("B26-quote", "an image without spaces", cluster='images: {nemo-eval: "nvcr.io#nvidia/ne\'mo"}\n'),
    Row(
        "B26-password",
        "USER:PASSWORD@",
        cluster='images: {nemo-eval: "me:hunter2@nvcr.io#nvidia/nemo"}\n',
        silent=("hunter2",),
    ),
    *(
        Row(f"B27-{mount}", "/source:/target", cluster=f'mounts: ["{mount}"]\n')
        for mount in ("/a:/b:ro:x", "a:/b", "/a/../b:/c", "/a,b:/c")
    ),
    *(
        Row(f"B28-{name}", "is not allowed as a name", cluster=env(name))
        for name in ("A-B", "1A", "LD_PRELOAD", "SLURM_JOB_ID")
    ),
    Row("B30", "looks like a secret", cluster="env: {X: hf_abcDEF0123456789}\n", silent=("hf_abcDEF0123456789",)),
    Row("B30-name", "secrets:", cluster="env: {HF_TOKEN: hunter2}\n", silent=("hunter2",)),
    Row(
        "B30-set",
        "looks like a secret",
        words=("--set", "env.X=nvapi-0123456789abcdef"),
        silent=("nvapi-0123456789abcdef",),
    ),
    Row("B32", "not templates", cluster='slurm: {account: "{{ 7 * 7 }}"}\n'),
    Row("B32-set", "not templates", words=("--set", "slurm.account={% x %}")),
    *(
        Row(f"B35-{word}", "", cluster=f'slurm: {{extra_args: ["{word}"]}}\n')
        for word in ("--wrap=x", "--array=1-9", "--export=ALL", "--job-name=x", "--dependency=after:1", "-M", "hetjob")
    ),
    *(
        Row(f"B39-{value}", "from 1024 to 65535", words=("--set", f"port={value}"))
        for value in ("80", "70000", "8000 x", "9-8")
    ),
    Row("B41-command", "No such command"),
    Row("B41-missing", "Missing option '--profile'"),
)
CONNECTIONS: list[object] = []
_WATCHED: list[bool] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _WATCHED and event in ("socket.connect", "socket.sendto"):
        CONNECTIONS.append(arguments)


sys.addaudithook(_note)


@pytest.fixture
def site(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Use this very process as the command, with a cluster that it could try to reach."""
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NEMODEPLOY_CLUSTER", raising=False)
    (home.config / "clusters").mkdir(parents=True)
    CONNECTIONS.clear()
    _WATCHED.append(True)
    yield home
    _WATCHED.clear()


def merged(good: str, bad: str) -> str:
    """The good text with the bad keys put in place of its own, if the bad ones are of the same name."""
    own = {line.partition(":")[0] for line in bad.splitlines() if not line.startswith((" ", "\t", "#"))}
    if own == {"nodes"}:  # the duplicate is what is wrong
        return good + bad
    return "".join(line for line in good.splitlines(keepends=True) if line.partition(":")[0] not in own) + bad


def command(row: Row, site: Home) -> list[str]:
    """The command line of a row, with its files written."""
    profile = site.path / "profile.yaml"
    profile.write_bytes(row.whole if row.whole is not None else merged(PROFILE, row.profile).encode())
    (site.config / "clusters/site.yaml").write_text(merged(CLUSTER, row.cluster))
    if row.number == "B41-command":
        return ["lunch"]
    if row.number == "B41-missing":
        return ["up"]
    words = [word.format(directory=site.path) if "{directory}" in word else word for word in row.words]
    return ["up", *(() if "--profile" in words else ("--profile", str(profile))), *words]


MORE = (
    Row("extends-itself-by-a-detour", "extend each other", "extends: ./x/../profile.yaml\n"),
    Row("name-too-long", "cannot read", words=("--profile", "/" + "a" * 300 + ".yaml")),
    Row("device", "is not a file", words=("--profile", "/dev/zero")),
    Row("not-utf-8", "not UTF-8", words=("--set", "slurm.account=a\udcff")),
    Row("secret-as-a-name", "names of environment variables", cluster="secrets: [HF=hunter2]\n", silent=("hunter2",)),
    Row("secret-in-a-setting", "not allowed", words=("--set", "env.MY_TOKEN=hunter2"), silent=("hunter2",)),
    Row("forgotten-equals", "write KEY=VALUE", words=("--set", "hf_abcDEF0123456789"), silent=("hf_abcDEF",)),
    Row(
        "password-in-an-address",
        "looks like a secret",
        cluster="env: {P: 'http://u:hunter2@p:1'}\n",
        silent=("hunter2",),
    ),
    Row("reserved-secret", "names of environment variables", cluster="secrets: [LD_PRELOAD]\n"),
    Row("engine-typo", "did you mean vllm", cluster="images: {vlm: x}\n"),
    Row("program-home", "neither an absolute path nor", cluster="programs: {nemo-eval: [~/venv/bin/python, x.py]}\n"),
    Row("program-relative", "neither an absolute path nor", cluster="programs: {nemo-eval: [venv/bin/python, x.py]}\n"),
    Row("kind-typo", "has no such checkpoint", cluster="checkpoints: {nemotron-4-340b-instruct: {nemoo: /x}}\n"),
    Row("mount-over-the-model", "/model in the container is taken", cluster='mounts: ["/x:/model"]\n'),
    Row("nemo-without-gpus", "needs GPUs", "gpus_per_node: 0\nhost: {cpus: 2, memory_gib: 9000}\n"),
    Row(
        "tensor-over-a-corner",
        "crosses nodes of 6 GPUs",
        "gpus_per_node: 6\nlayout: {tensor_parallel: 4}\nengine: vllm\n",
    ),
    Row(
        "uneven-kv-heads",
        "neither divides 8 KV heads",
        "gpus_per_node: 6\nlayout: {tensor_parallel: 6}\nengine: vllm\n",
    ),
    Row("site-keys-in-a-cluster", "model belongs in the profile", cluster="model: tiny\n"),
    Row("time-in-years", "longer than a year", 'time: "9999-00:00:00"\n'),
    Row("B40", "--ttl 5 s is too short: the smallest lease on site is 120 s", words=("--ttl", "5s")),
    Row("B40-startup", "shorter than the weights take: about 00:56:50", words=("--startup-timeout", "60s")),
    Row("ttl-and-none", "contradict each other", words=("--ttl", "5m", "--no-ttl")),
    Row("ttl-for-ever", "longer than any job", words=("--ttl", "9999h")),
    Row("reconnect", "reconnect_wait_s", cluster="ssh: {host: x, reconnect_wait_s: -1}\n"),
    Row("storage", "storage_gb_per_s", cluster="storage_gb_per_s: 0\n"),
    Row("bidi", "must be text in one line", cluster='notice: "a\\u202eb"\n'),
)


@pytest.mark.parametrize("row", [*ROWS, *MORE], ids=[row.number for row in (*ROWS, *MORE)])
def test_it_is_stopped_with_one_message_and_no_connection(
    row: Row, site: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(command(row, site), as_json=False)
    said = capsys.readouterr()
    assert code == 2, said.err
    assert row.says in said.err
    assert said.err.count("error: ") == 1
    assert said.out == ""
    assert not [word for word in row.silent if word in said.err]
    assert not CONNECTIONS
    assert not list(site.path.rglob("journal*/*"))


def test_a_good_one_does_try_to_connect(site: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(Row("good", ""), site), as_json=False) == 11, capsys.readouterr().err
    assert CONNECTIONS


@pytest.mark.parametrize(
    ("spoil", "says", "instead"),
    [
        (lambda journal: (journal / "nd-x.json").write_text("garbage\n"), "line 1 is damaged", "try  rm "),
        (
            lambda journal: (journal / "nd-x.json").write_text('{"schema": "nemodeploy/journal@9", "token": "nd-x"}\n'),
            "a newer version of nemodeploy wrote it",
            "try  rm ",
        ),
        (lambda journal: journal.chmod(0o777), "others may write to the journal", "try  chmod 700 "),
        (lambda journal: (journal.rmdir(), journal.write_text("")), "is no directory", "try  mv "),
    ],
    ids=["corrupt", "newer", "world-writable", "no-directory"],
)
def test_b43_a_journal_that_cannot_be_trusted_is_refused_with_what_repairs_it(
    site: Home, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], says: str, instead: str
) -> None:
    journal = site.state / "journal"
    journal.mkdir(parents=True, mode=0o700)
    spoil(journal)
    assert run(command(Row("B43", ""), site), as_json=False) == 2
    said = capsys.readouterr().err
    assert says in said
    assert instead in said
    assert not CONNECTIONS


def test_an_owner_that_would_not_fit_into_a_manifest_is_refused(
    site: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEMODEPLOY_OWNER", 'a "b"')
    assert run(command(Row("owner", ""), site), as_json=False) == 2
    assert "NEMODEPLOY_OWNER must be one word" in capsys.readouterr().err
    assert not CONNECTIONS


def test_several_mistakes_in_several_files_are_told_at_once(site: Home, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("many", "", "colour: red\nlayout: {tensor_paralel: 8}\n", 'mounts: ["a:/b"]\nenv: {A-B: x}\n')
    assert run(command(row, site), as_json=False) == 2
    said = capsys.readouterr().err
    assert "4 problems" in said
    for place in (
        "profile.yaml:5:1  colour",
        "profile.yaml:6:10  layout.tensor_paralel",
        "site.yaml:5:1",
        "site.yaml:6:7",
    ):
        assert place in said


ACCEPTED = (
    ("B16-bom", b"\xef\xbb\xbf" + PROFILE.replace("\n", "\r\n").encode(), ""),
    ("B29", PROFILE.encode(), 'env: {X: "two\\nlines \'and\' \\"quotes\\" $(id) `id` \\\\"}\n'),
    ("B36", PROFILE.encode(), 'slurm: {extra_args: ["--comment=a#b", "--comment=it\'s", \'--comment=a\\\']}\n'),
)


@pytest.mark.parametrize(("number", "profile", "cluster"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_what_only_looks_dangerous_is_accepted(
    number: str, profile: bytes, cluster: str, site: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(Row(number, "", cluster=cluster, whole=profile), site)
    assert run(["plan", *words[1:]], as_json=False) == 0, capsys.readouterr().err


def test_files_are_checked_without_a_site(site: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(PROFILE)
    bad.write_text(PROFILE + "colour: red\n")
    assert run(["validate", str(good), str(bad)], as_json=False) == 2
    said = capsys.readouterr()
    assert said.out == f"{good}: a profile, and right\n"
    assert f"{bad}:5:1  colour: unknown key" in said.err


MODEL = Path("configs/models/tiny.yaml").read_text()
MISTAKES = (
    ("engine-none", MODEL.replace("engine: llamacpp", "max_length: 512"), ("engine: is missing",)),
    ("engine-other", MODEL.replace("engine: llamacpp", "engine: nemo-eval"), ("nemo-eval reads no checkpoint of",)),
    (
        "facts-and-settings",
        MODEL.replace("layers:", "layerz:").replace("defaults:\n", "defaults:\n  colour: red\n"),
        ("layers: is missing", "colour"),
    ),
    ("relative", CLUSTER.replace("/models/340b", "models/340b"), ("must be an absolute path on the cluster",)),
    ("relative-kind", CLUSTER.replace("/models/340b", "{nemo: ~/340b}"), ("must be an absolute path on the cluster",)),
    ("model-typo", CLUSTER.replace("nemotron-4-340b-i", "nemotron-4-430b-i"), ("did you mean nemotron-4-340b-i",)),
    ("kind-typo", CLUSTER.replace("/models/340b", "{nemoo: /x}"), ("did you mean nemo?",)),
    ("notice-typo", CLUSTER + "notices: {vlm: x}\n", ("did you mean vllm",)),
    ("stages", PROFILE + "colour: red\nlayout: {tensor_parallel: 3}\n", ("colour: unknown key", "does not divide 96")),
)


@pytest.mark.parametrize(("name", "text", "says"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_validate_tells_all_that_can_be_known(
    name: str, text: str, says: tuple[str, ...], site: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file.yaml").write_text(text)
    assert run(["validate", str(tmp_path / "file.yaml")], as_json=False) == 2
    said = capsys.readouterr().err
    assert [words for words in says if words not in said] == [], said


def test_a_cluster_file_may_name_the_models_of_the_same_command(site: Home, tmp_path: Path) -> None:
    model, cluster = tmp_path / "mine.yaml", tmp_path / "site.yaml"
    model.write_text(MODEL)
    cluster.write_text(CLUSTER.replace("checkpoints: {", "checkpoints: {mine: {gguf: /m}, "))
    assert run(["validate", str(cluster)], as_json=False) == 2
    assert run(["validate", str(cluster), str(model)], as_json=False) == 0


STAGES = (
    Row("reading-and-site", "colour: unknown|is taken", "colour: red\n", 'mounts: ["/x:/model"]\n'),
    Row(
        "reading-layout-and-options",
        "colour: unknown|does not divide 96|-N4 is set by",
        "colour: red\nlayout: {tensor_parallel: 5}\n",
        "slurm: {extra_args: [-N4]}\n",
    ),
    Row(
        "size-and-options",
        "does not fit|-N4 is set by",
        cluster="slurm: {extra_args: [-N4]}\n",
        words=("--set", "nodes=1"),
    ),
    Row("keys-of-clusters", "root belongs|allow_raw belongs", "root: /x\nallow_raw: true\n"),
)


@pytest.mark.parametrize("row", STAGES, ids=[row.number for row in STAGES])
def test_a_mistake_of_one_stage_hides_none_of_the_next(
    row: Row, site: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(row, site), as_json=False) == 2
    said = capsys.readouterr().err
    assert [words for words in row.says.split("|") if words not in said] == [], said


@pytest.mark.parametrize("wrong", ["nodes=two", "runtime=pixis"])
def test_what_rests_on_a_mistake_is_not_told(wrong: str, site: Home, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("", "", cluster='mounts: ["/x:/model"]\n', words=("--set", wrong))
    assert run(command(row, site), as_json=False) == 2
    said = capsys.readouterr().err
    assert ": must be" in said
    assert "is taken" not in said


def test_plan_shows_the_request_that_is_sent(site: Home, capsys: pytest.CaptureFixture[str]) -> None:
    request = 'gpus: {h100: {request: "--gpus-per-node=h100:8"}}\ncheckpoints: {tiny: /m}\nimages: {llamacpp: x}\n'
    words = command(Row("", "", cluster=request), site)
    assert run(["plan", "--profile", "h100x2", "--model", "tiny", *words[3:]], as_json=False) == 0
    said = capsys.readouterr().out
    assert "with --gpus-per-node=h100:2\n" in said, said
