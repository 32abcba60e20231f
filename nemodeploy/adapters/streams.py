"""A command's standard input and output as one socket."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Sequence
from typing import IO


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
