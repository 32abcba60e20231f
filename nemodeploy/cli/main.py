"""The command `nemodeploy`: finds the command's module by its name, and turns every error into words and a code."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nemodeploy import interrupts
from nemodeploy.cli.failing import BUG_EXIT_CODE, report_bug, show_error
from nemodeploy.cli.words import tell
from nemodeploy.errors import BadInput, InterruptedBeforeSubmission, NemodeployError
from nemodeploy.version import __version__

CLOSED_PIPE = 141
COMMANDS = (
    *("up", "run", "status", "wait", "connect", "generate", "chat", "logs", "events", "keep", "down", "reap"),
    *("init", "doctor", "checkpoint", "image", "login", "logout", "trust"),
    *("plan", "render", "profiles", "models", "validate", "schema", "sandbox"),
)


class Commands(click.Group):
    """Commands by name; each module holds a click command called `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"nemodeploy.cli.{cmd_name}").command
        interrupts.release()
        return found


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 2 bad input, 10 login, 11 unreachable, 12 cannot run there, 20 refused by Slurm, "
    "30 ended early, 31 queue timeout, 32 start-up timeout, 40 cancelled, 50 unknown, 130 interrupted.",
)
@click.version_option(__version__, prog_name="nemodeploy")
def cli() -> None:
    """Large NeMo models on Slurm: from nothing to a server that has answered, and never a GPU left behind."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    _open_what_is_closed()
    _say_what_can_be_said()
    try:
        code = run(words, as_json=as_json)
        sys.stdout.flush()
    except OSError as error:  # nobody reads our answer, or there is no room for it
        code = CLOSED_PIPE if error.errno == errno.EPIPE else BUG_EXIT_CODE
        if error.errno != errno.EPIPE:
            tell(f"error: the answer could not be written: {error.strerror}")
        _silence(1)
    except KeyboardInterrupt:  # a second one, while the first was told
        code = InterruptedBeforeSubmission.exit_code
    interrupts.let_it_end()
    try:
        sys.stderr.flush()
    except OSError:  # nobody watches any more; Python's own attempt at its exit would change our code to 120
        _silence(2)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """A caller may have closed any of the three; then nothing comes in, and what goes out goes nowhere."""
    sys.stdin = sys.stdin or Path(os.devnull).open()  # noqa: SIM115
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


def _say_what_can_be_said() -> None:
    """What an encoding lacks is spelt out by its number, and no command ends because of it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence(descriptor: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def run(words: list[str], *, as_json: bool) -> int:
    """The exit code of one command line."""
    try:
        result: Any = cli.main(args=words, prog_name="nemodeploy", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        help_words = error.ctx.command_path + " --help" if error.ctx else "nemodeploy --help"
        return show_error(BadInput(error.format_message(), hint=help_words), as_json=as_json)
    except NemodeployError as error:
        return show_error(error, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        return show_error(InterruptedBeforeSubmission("interrupted"), as_json=as_json)
    except SystemExit as stop:  # click's own answer to a closed pipe
        return CLOSED_PIPE if stop.code == 1 else int(stop.code or 0)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC):
            raise
        report_bug(error, words, as_json=as_json)
        return BUG_EXIT_CODE
