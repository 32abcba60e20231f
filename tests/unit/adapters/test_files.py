"""Files are written whole, and nothing but a regular file is ever replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemodeploy.adapters import background, files
from nemodeploy.adapters.journal import Journal
from nemodeploy.adapters.transports.host_keys import UNKNOWN, HostKey
from nemodeploy.cli import run
from nemodeploy.errors import BadInput
from nemodeploy.values import Token
from tests.conftest import Home

TOKEN = Token.make("demo", milliseconds=1, entropy=2)


def _device(path: Path) -> None:
    """The like of /dev/null; nothing on the machine itself is risked."""
    if os.geteuid():
        pytest.skip("only root makes device files")
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        before = Path.cwd()
        os.chdir(path.parent)  # the path of a socket has at most 107 bytes
        try:
            one.bind(path.name)
        finally:
            os.chdir(before)


def _link_to_device(path: Path) -> None:
    _device(path.with_name("device"))
    path.symlink_to("device")


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


OTHERS: dict[str, Callable[[Path], None]] = {
    "device": _device,
    "pipe": os.mkfifo,
    "socket": _socket,
    "directory": Path.mkdir,
    "link to a device": _link_to_device,
    "link to a pipe": _link_to_pipe,
}
every_other = pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)


def kinds(directory: Path) -> dict[str, int]:
    """What every name in a directory is; a temporary file that stayed would be one of them."""
    return {path.name: stat.S_IFMT(path.lstat().st_mode) for path in directory.iterdir()}


def host_key(file: Path) -> HostKey:
    return HostKey(host="h", known_as="h", fingerprint="SHA256:x", line="ssh-ed25519 AAAA", state=UNKNOWN, file=file)


@every_other
def test_what_is_no_regular_file_is_refused_and_stays(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "it"
    make(path)
    before = kinds(tmp_path)
    with pytest.raises(files.NotRegular, match="it is not a regular file"):
        files.write_whole(path, "text")
    with pytest.raises(FileExistsError):
        files.write_new(path, "text")
    assert kinds(tmp_path) == before


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/self/comm"])
def test_descriptors_and_the_kernels_files_are_no_plain_files(name: str) -> None:
    with pytest.raises(files.NotRegular):
        files.plain(Path(name))


def test_a_descriptor_of_a_regular_file_is_none_either(tmp_path: Path) -> None:
    with (tmp_path / "it").open("w") as file, pytest.raises(files.NotRegular):
        files.plain(Path(f"/dev/fd/{file.fileno()}"))


def test_a_file_keeps_its_mode_and_a_new_one_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    old, new, secret = tmp_path / "old", tmp_path / "new", tmp_path / "secret"
    old.write_text("before")
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        for path in (old, new):
            files.write_whole(path, "after")
        files.write_whole(secret, b"after", mode=0o600, durable=True)
    finally:
        os.umask(before)
    assert [path.read_text() for path in (old, new, secret)] == ["after"] * 3
    assert [oct(path.stat().st_mode & 0o777) for path in (old, new, secret)] == ["0o640", "0o640", "0o600"]
    assert len(kinds(tmp_path)) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_text("before")
    os.chown(path, 12345, 12346)
    files.write_whole(path, "after")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_links_are_followed_and_stay_links(tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    (away / "there").write_text("before")
    (tmp_path / "directory").symlink_to("away")
    for name, target in (("one", "two"), ("two", "directory/there"), ("dangling", "away/made")):
        (tmp_path / name).symlink_to(target)
    files.write_whole(tmp_path / "one", "after")
    files.write_whole(tmp_path / "dangling", "made")
    assert {name: kind for name, kind in kinds(tmp_path).items() if name != "away"} == dict.fromkeys(
        ("directory", "one", "two", "dangling"), stat.S_IFLNK
    )
    assert {path.name: path.read_text() for path in away.iterdir()} == {"there": "after", "made": "made"}


def test_a_circle_of_links_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path / "a" / "below"):
        with pytest.raises(OSError) as caught:  # noqa: PT011 # the number says which
            files.write_whole(path, "text")
        assert caught.value.errno in (errno.ELOOP, errno.ENOENT)


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_text("before")
    with pytest.raises(AttributeError):
        files.write_whole(path, 7)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        files.write_new(tmp_path / "new", 7)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError) as caught:
        files.write_whole(tmp_path / "no/where", "text")
    assert caught.value.filename == str(tmp_path / "no/where")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"it": "before"}


def test_text_that_utf_8_cannot_say_is_spelt_out(tmp_path: Path) -> None:
    files.write_whole(tmp_path / "it", "é\udcff\n")
    assert (tmp_path / "it").read_bytes() == "é\\udcff\n".encode()


def test_output_goes_straight_into_a_pipe_which_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        files.check_out(pipe)  # not its end for the reader
        files.write_out(pipe, "text")
        assert reader.communicate()[0] == b"text"
    assert kinds(tmp_path) == {"pipe": stat.S_IFIFO}


def test_output_to_stdout_is_added_to_what_stands_there(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nemodeploy.adapters import files; print('first', flush=True); "
        "files.check_out(Path('/dev/stdout')); files.write_out(Path('/dev/stdout'), 'text')"
    )
    with (tmp_path / "it").open("w") as file:
        subprocess.run([sys.executable, "-c", program], check=True, stdout=file)
    assert (tmp_path / "it").read_text() == "first\ntext"


def test_output_to_a_device_leaves_the_device(tmp_path: Path) -> None:
    device = tmp_path / "device"
    _device(device)
    files.check_out(device)
    files.write_out(device, "text")
    assert kinds(tmp_path) == {"device": stat.S_IFCHR}


def test_output_is_looked_at_before_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("before")
    files.check_out(tmp_path / "there")
    files.check_out(tmp_path / "new")
    assert [(tmp_path / name).read_text() for name in ("there", "new")] == ["before", ""]
    for path in (tmp_path, tmp_path / "no/where"):
        with pytest.raises((IsADirectoryError, FileNotFoundError)):
            files.check_out(path)


@every_other
def test_no_host_key_is_recorded_in_what_is_no_regular_file(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    make(path)
    before = kinds(tmp_path)
    for deed in (host_key(path).check, host_key(path).record):
        with pytest.raises(files.NotRegular):
            deed()
    assert kinds(tmp_path) == before


def test_a_host_key_is_recorded_behind_a_link_that_leads_nowhere_yet(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").symlink_to("elsewhere/known_hosts")
    host_key(tmp_path / "known_hosts").record()
    made = tmp_path / "elsewhere/known_hosts"
    assert (made.read_text(), made.stat().st_mode & 0o777) == ("h ssh-ed25519 AAAA\n", 0o600)
    assert (tmp_path / "known_hosts").is_symlink()


@every_other
def test_the_journal_replaces_nothing_but_its_notes(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir(mode=0o700)
    make(tmp_path / f"journal/{TOKEN}.json")
    before = kinds(tmp_path / "journal")
    with pytest.raises(BadInput, match=r"cannot write the journal .*: it is not a regular file"):
        Journal(tmp_path).note(TOKEN, step="intent")
    assert kinds(tmp_path / "journal") == before


@pytest.mark.parametrize("kind", ["lock", "log", "json"])
@every_other
def test_no_tunnel_starts_where_its_files_are_something_else(
    make: Callable[[Path], None], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "tunnels").mkdir()
    make(tmp_path / f"tunnels/a.{kind}")
    tunnels = background.Tunnels(tmp_path)
    with pytest.raises(BadInput, match="it is not a regular file"), tunnels.alone("a"):
        tunnels.start("a", ["schema", "cluster"])


@every_other
def test_render_writes_no_script_over_something_else(make: Callable[[Path], None], home: Home) -> None:
    output = home.path / "out"
    output.mkdir()
    make(output / "submit.sh")
    before = kinds(output)["submit.sh"]
    done = home.run("render", "--profile", "h100x16", "--output", str(output))
    assert (done.returncode, "submit.sh: it is not a regular file" in done.stderr) == (2, True), done.stderr
    assert kinds(output)["submit.sh"] == before


@every_other
def test_an_artifact_replaces_nothing_else_and_the_next_one_is_kept(
    make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "manifest.json")
    before = kinds(tmp_path)
    for name in ("manifest.json", "logs/a\0b.log", "logs/a.0.log"):
        run._keep_one(tmp_path / name, "text")
    assert (tmp_path / "logs/a.0.log").read_text() == "text"
    assert kinds(tmp_path) == {**before, "logs": stat.S_IFDIR}
    said = capsys.readouterr().err
    assert "manifest.json could not be kept: it is not a regular file" in said
    assert "could not be kept: embedded null byte" in said


def test_a_report_may_go_to_a_device_and_not_to_a_directory(tmp_path: Path) -> None:
    device = tmp_path / "device"
    _device(device)
    run._check_writable(device, tmp_path / "artifacts")
    run._write(device, {})
    assert kinds(tmp_path) == {"device": stat.S_IFCHR, "artifacts": stat.S_IFDIR}
    assert kinds(tmp_path / "artifacts") == {}
    with pytest.raises(BadInput, match=r"--report .* cannot be written: Is a directory"):
        run._check_writable(tmp_path, None)
