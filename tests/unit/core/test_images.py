"""Images that were imported once: their names, what was noted of them, and what is said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemodeploy.core import images
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Registry
from nemodeploy.runtimes import RUNTIMES
from nemodeploy.values import Secret

IMAGE = "nvcr.io#nvidia/nemo:24.01.framework"


def noted(text: str) -> Section:
    return Section(status=0, text=text)


def test_every_image_has_a_name_of_its_own_that_can_be_read() -> None:
    names = [
        images.file_name(image, "sqsh") for image in (IMAGE, IMAGE.replace("#", "/"), "docker://a b/c:1", "x" * 300)
    ]
    assert len(set(names)) == len(names)
    assert names[0].startswith("nvcr.io-nvidia-nemo-24.01.framework-")
    assert all(len(name) < 100 and name.isascii() and "/" not in name and " " not in name for name in names)


@pytest.mark.parametrize("text", ["", "image x\nbytes many\nseconds 1\n", "bytes 1\nseconds 1\n", "image x\nbytes 1\n"])
def test_what_is_not_noted_whole_is_not_there(text: str) -> None:
    assert images.parse(noted(text), "x") is None


def test_another_images_note_is_nobody_elses() -> None:
    text = f"image {IMAGE}\nbytes 1\nseconds 1\n"
    assert images.parse(noted(text), IMAGE)
    assert images.parse(noted(text), IMAGE + "x") is None


def test_what_is_noted_is_told_in_minutes() -> None:
    found = images.parse(noted(f"image {IMAGE}\nbytes 20000000000\nseconds 700\n"), IMAGE)
    assert found == images.Imported(image=IMAGE, bytes=20_000_000_000, seconds=700)
    assert found.saves == "12 min"


@pytest.mark.parametrize(
    ("image", "said"),
    [(IMAGE, True), ("nvcr.io/nvidia/nemo:1", True), ("vllm/vllm-openai:v1", False), ("ghcr.io#a/b:1", False)],
)
def test_who_expects_a_key_on_the_nodes_is_told_that_there_is_none(image: str, said: bool) -> None:
    known = (Registry(host="nvcr.io", user="$oauthtoken", secret="NGC_API_KEY"),)
    assert ("own credentials file" in images.how_nodes_ask(image, known)) == said
    assert images.how_nodes_ask(image, ()) == ""


def test_only_runtimes_that_share_files_import() -> None:
    assert {name for name, runtime in RUNTIMES.items() if runtime.imported("a/b:1")} == {"pyxis", "apptainer"}
    assert {runtime.imported("/shared/x.sif") for runtime in RUNTIMES.values()} == {""}


@pytest.mark.parametrize(("size", "whole"), [(4, True), (3, False), (0, False)])
def test_an_image_counts_only_with_the_size_that_was_noted(tmp_path: Path, size: int, whole: bool) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/it.sif").write_bytes(b"x" * size)
    (tmp_path / "images/it.sif.txt").write_text("image a\nbytes 4\nseconds 9\n")
    script = images.look_script(str(tmp_path), "it.sif")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert (images.parse(noted(done.stdout), "a") is not None) is whole


def test_the_newest_words_of_a_log_that_redraws_itself() -> None:
    assert images.last_words("first\n\x1b[2K 10%\r 20%\r\n\n") == "20%"
    assert images.last_words("") == ""


@pytest.mark.parametrize(
    ("image", "host"),
    [
        (IMAGE, "nvcr.io"),
        ("docker://127.0.0.1:5000/a/b:1", "127.0.0.1:5000"),
        ("$oauthtoken@nvcr.io#nvidia/nemo:1", "nvcr.io"),
        ("vllm/vllm-openai:v1", ""),
        ("ubuntu@sha256:12", ""),
        ("/shared/x.sqsh", ""),
    ],
)
def test_an_image_names_its_registry_or_none(image: str, host: str) -> None:
    assert images.registry_of(image) == host


@pytest.mark.parametrize(
    ("image", "registry", "repository", "tag"),
    [
        ("nemo:24.09", "", "nemo", "24.09"),
        ("nvcr.io/nvidia/nemo:24.09", "nvcr.io", "nvidia/nemo", "24.09"),
        ("nvcr.io/nvidia/nemo:24.09@sha256:" + "25" * 32, "nvcr.io", "nvidia/nemo", "24.09"),
        ("nvcr.io/nvidia/nemo@sha256:" + "25" * 32, "nvcr.io", "nvidia/nemo", ""),
        ("localhost/nemo:24.09", "localhost", "nemo", "24.09"),
        ("own.site:24000/nemo", "own.site:24000", "nemo", ""),
        ("docker://own.site:5000/nvidia/nemo:24.05.llama3.1", "own.site:5000", "nvidia/nemo", "24.05.llama3.1"),
        ("$oauthtoken@nvcr.io#nvidia/nemo:24.09", "nvcr.io", "nvidia/nemo", "24.09"),
        ("nvidia+nemo+24.09.sqsh", "", "nvidia/nemo", "24.09"),
        ("/images/nvidia+nemo+24.01.framework.sqsh", "", "nvidia/nemo", "24.01.framework"),
        ("/images/nvidia+nemo.sqsh", "", "nvidia/nemo", ""),
        ("/images/nemo_24.09.sif", "", "nemo", "24.09"),
        ("./nemo_24.05.llama3.1.sif", "", "nemo", "24.05.llama3.1"),
        ("/images/nemo-24.09.sqsh", "", "nemo", "24.09"),
        ("/images/nemo:24.09.sqsh", "", "nemo", "24.09"),
        ("/r/images/" + images.file_name("nvcr.io#nvidia/nemo:24.09", "sqsh"), "", "nvcr.io-nvidia-nemo", "24.09"),
        ("/images/24.09/nemo.sqsh", "", "nemo", ""),
        ("/images/unpacked/nemo_24.09/", "", "nemo", "24.09"),
        ("/images/llama-3.1-70b+nemo+24.09.sqsh", "", "llama-3.1-70b/nemo", "24.09"),
    ],
)
def test_an_image_is_read_in_every_spelling(image: str, registry: str, repository: str, tag: str) -> None:
    found = images.read_name(image)
    assert (found.registry, found.repository, found.tag) == (registry, repository, tag)


@pytest.mark.parametrize(
    ("host", "password", "machines", "word"),
    [
        ("nvcr.io", "canary-'\"$x `id`", ("nvcr.io", "authn.nvidia.com"), "canary-'\"$x `id`"),
        ("own.site:5000", "canary", ("own.site",), "canary"),
        ("own.site", "$canary", ("own.site",), "$registry_password"),  # it evaluates that, and nothing else
    ],
)
def test_enroot_reads_who_asks_from_its_file_and_nothing_of_it_stays(
    tmp_path: Path, host: str, password: str, machines: tuple[str, ...], word: str
) -> None:
    """The script itself, with a program in enroot's place that shows what it was given."""
    registry = Registry(host=host, user="$oauthtoken", secret="NGC_API_KEY")
    work = tmp_path / "it.work"
    work.mkdir()
    (work / "credentials").write_text(images.credentials_text(registry, Secret(password)))
    show = 'cat "$ENROOT_CONFIG_PATH/.credentials" >../shown; env >../env; printf hsqs >"$part"'
    login = RUNTIMES["pyxis"].login_words
    script = images.import_script(IMAGE, "it.sqsh", f"{{ {show}; }}", RUNTIMES["pyxis"].is_image, login, "")
    (work / "import.sh").write_text(script)
    subprocess.run(["sh", work / "import.sh", work], check=True)
    lines = (tmp_path / "shown").read_text().splitlines()
    assert lines == [f"machine {machine} login $oauthtoken password {word}" for machine in machines]
    assert (f"registry_password={password}" in (tmp_path / "env").read_text()) == (word != password)
    assert (tmp_path / "it.sqsh").read_text() == "hsqs"
    for name in ("shown", "env"):
        (tmp_path / name).unlink()
    assert [file.name for file in tmp_path.rglob("*") if file.is_file() and b"canary" in file.read_bytes()] == []


def sh(script: str) -> str:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def watched(root: Path) -> str:
    return sh(images.watch_parts(str(root), "it.sqsh")["alive"])


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen[bytes]]:
    """Another program's process group, which has the process id of an import that is over."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def start_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


@pytest.mark.parametrize("noted", ["", "{pid} 1 {boot}", "{pid} {start} another-boot", "{pid}  {boot}"])
def test_a_foreign_process_with_the_id_of_an_import_is_left_alone(
    tmp_path: Path, foreign: subprocess.Popen[bytes], noted: str
) -> None:
    work = tmp_path / "images/it.sqsh.work"
    work.mkdir(parents=True)
    (work / "pid").write_text(f"{foreign.pid}\n")
    (work / "host").write_text(f"{os.uname().nodename}\n")
    if noted:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (work / "process").write_text(noted.format(pid=foreign.pid, start=start_of(foreign.pid), boot=boot) + "\n")
    assert watched(tmp_path) == ""
    sh(images.end_script(str(tmp_path), "it.sqsh"))
    assert not work.exists()
    assert foreign.poll() is None


@pytest.mark.parametrize("older", [False, True])
def test_an_import_is_known_and_ended_with_all_that_it_started(tmp_path: Path, older: bool) -> None:
    """`older`: an older version began it, and noted its process id only."""
    text = "mkfifo wait\nsleep 600 &\necho $! >child.new; mv child.new child\nread -r _ <wait"
    sh(images.start_script(str(tmp_path), "it.sqsh", f"{text}\n", images.ON_LOGIN_HOST))
    work = tmp_path / "images/it.sqsh.work"
    while not (work / "child").exists():
        os.sched_yield()
    pid, child = (int((work / name).read_text()) for name in ("pid", "child"))
    if older:
        (work / "process").unlink()
    assert watched(tmp_path) == "yes"
    assert sh(images.start_script(str(tmp_path), "it.sqsh", "exit 1\n", images.ON_LOGIN_HOST)) == "under way"
    sh(images.end_script(str(tmp_path), "it.sqsh"))
    for one in (pid, child):
        while is_running(one):
            os.sched_yield()
    assert not work.exists()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
