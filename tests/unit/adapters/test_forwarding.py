"""A port of this machine, and who is in the way."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from nemodeploy.adapters.forwarding import listen
from nemodeploy.errors import BadInput


def test_only_this_machine_can_use_it() -> None:
    with contextlib.closing(listen(0)) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_who_has_the_port_is_named() -> None:
    said = rf"is taken by .* \(process {os.getpid()}\)"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadInput, match=said):
        listen(taken.getsockname()[1])
