"""A command's standard input and output as one socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO

END_WITHIN_S = 1.0


def of_command(
    words: Sequence[str], *, stderr: IO[bytes] | int = subprocess.DEVNULL
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start it; it ends when the socket is closed. Raises OSError when it cannot be started."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=stderr, start_new_session=True
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    threading.Thread(target=process.wait, daemon=True).start()  # whoever ends is not left unburied
    return ours, process


def end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it has started, as ssh ends its proxy command; what heeds no SIGHUP is killed."""
    deadline = time.monotonic() + END_WITHIN_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGHUP)  # it leads a group of its own
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_WITHIN_S)
