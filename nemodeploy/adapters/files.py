"""Files that are written whole: under a temporary name in the same directory, then renamed.

A rename replaces whatever stands at the name. So only a regular file, or a name that is free, is ever replaced; a
device, a named pipe, a socket or a directory is refused, and stays what it is. A symbolic link is followed and kept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MOST_LINKS = 40  # Linux follows no more, path_resolution(7)
# What these hold are the open files of processes and the kernel's own values: a new file there replaces nothing.
_NOT_PLAIN = (Path("/proc"), Path("/dev/fd"))
# The directory takes no new name, or the file is a mount point of its own (a container's): it can be written in place.
_NOT_BESIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)


class NotRegular(OSError):
    """The name is taken by something that is not a regular file."""

    def __init__(self, path: Path) -> None:
        """Name the path as the caller gave it."""
        super().__init__(errno.EINVAL, "it is not a regular file", str(path))


def plain(path: Path) -> Path:
    """The file that a path leads to, behind all symbolic links: a regular one, or one that is not there yet.

    Raises NotRegular for anything else, and OSError where the way cannot be followed.
    """
    at = Path.cwd() / path
    for _ in range(MOST_LINKS):
        parent = Path(os.path.realpath(at.parent))  # resolve() ends a circle of links with RuntimeError
        if any(parent.is_relative_to(top) for top in _NOT_PLAIN):
            raise NotRegular(path)
        at = parent / at.name
        if not at.is_symlink():
            break
        at = parent / at.readlink()
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(at.stat().st_mode):
            raise NotRegular(path)
    return at


def write_whole(path: Path, text: str | bytes, *, mode: int = 0o666, durable: bool = False) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part of it.

    A file that is there keeps its mode and, where that is allowed, its owner; a new one gets `mode` less the umask.
    `durable`: the bytes and the name are on the disk when it returns. Raises NotRegular or OSError.
    """
    target = plain(path)
    new = target.with_name(f".nemodeploy-{secrets.token_hex(8)}.new")
    with _made(new, mode, path) as file:
        with contextlib.suppress(FileNotFoundError):
            _as_before(file.fileno(), target.stat())
        file.write(_bytes(text))
        file.flush()
        if durable:
            os.fsync(file.fileno())
        new.replace(target)
    if durable:
        _settle(target.parent)


def write_new(path: Path, text: str | bytes, *, mode: int = 0o666) -> None:
    """Write a file that is not there yet; half of one is taken back. Raises FileExistsError, also for a link."""
    with _made(path, mode, path) as file:
        file.write(_bytes(text))


def write_out(path: Path, text: str | bytes) -> None:
    """Write what a user wants at a path: a regular file whole, and anything else (`/dev/stdout`, a pipe) straight.

    A file that cannot be renamed over, such as one that is mounted into a container, is written in place.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        other = isinstance(error, NotRegular)
        if not other and error.errno not in _NOT_BESIDE:
            raise
        with path.open("ab" if other else "wb") as file:  # what came through a descriptor before stays
            file.write(_bytes(text))


def check_out(path: Path) -> None:
    """See that `write_out` will be able to write; a new file is made, and what is there keeps its content.

    Raises OSError. A named pipe is not opened: its reader would take that for the end.
    """
    try:
        target = plain(path)
    except NotRegular:
        if path.is_dir() or not os.access(path, os.W_OK):
            why = errno.EISDIR if path.is_dir() else errno.EACCES
            raise OSError(why, os.strerror(why), str(path)) from None
        return
    with target.open("ab"):
        pass


@contextlib.contextmanager
def _made(new: Path, mode: int, path: Path) -> Iterator[BinaryIO]:
    """A new file, taken back when the block fails; its errors name the path that was asked for."""
    made = False
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        made = True
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def _as_before(descriptor: int, before: os.stat_result) -> None:
    """The owner first: to change it takes bits of the mode away."""
    with contextlib.suppress(OSError):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _settle(directory: Path) -> None:
    """Make the rename itself durable; a file system that cannot is as good as it gets."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _bytes(text: str | bytes) -> bytes:
    """UTF-8; a surrogate, which UTF-8 cannot say, is spelt out instead of losing the file."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
