"""nemodeploy sandbox: a real Slurm on this machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import put_json, say, tell
from nemodeploy.errors import BadInput, ClusterUnreachable, PreflightFailed

if TYPE_CHECKING:
    from nemodeploy.sandbox.cluster import Sandbox
    from nemodeploy.sandbox.packs import Packs
    from nemodeploy.sandbox.slurms import Slurm, Slurms
    from nemodeploy.sandbox.state import State

START = "nemodeploy sandbox up"


def _sandbox() -> Sandbox:
    from nemodeploy.adapters.resources import sandbox_directory
    from nemodeploy.sandbox.cluster import Sandbox
    from nemodeploy.sandbox.place import Place

    return Sandbox(Place(sandbox_directory()))


def _running() -> Sandbox:
    sandbox = _sandbox()
    if sandbox.state() is None:
        raise ClusterUnreachable("the sandbox is not running", hint=START)
    return sandbox


def _packs() -> Packs:
    from nemodeploy.adapters.resources import engines_directory
    from nemodeploy.sandbox.packs import Packs

    return Packs(engines_directory())


def _slurms() -> Slurms:
    from nemodeploy.adapters.resources import slurm_directory
    from nemodeploy.sandbox.slurms import Slurms

    return Slurms(slurm_directory())


def _slurm(name: str | None) -> Slurm:
    """What `sandbox up` is to run: what was named; else the machine's own; else what was unpacked in its place."""
    from nemodeploy.sandbox.requirements import missing
    from nemodeploy.sandbox.slurms import MACHINE, OWN

    if name in (None, "", MACHINE.name):
        own = None if name or not missing(MACHINE) else _slurms().find(OWN)
        return own or MACHINE
    found = _slurms().find(_release(str(name)))
    if found is None:
        raise PreflightFailed(f"Slurm {name} is not here", hint=f"nemodeploy sandbox install {name}")
    return found


def _runtime(name: str) -> Path:
    from nemodeploy.adapters.resources import slurm_directory
    from nemodeploy.core.reading import near
    from nemodeploy.sandbox.runtimes import REAL

    if name not in REAL:
        known = ("none", *REAL)
        raise BadInput(f"unknown runtime {name!r}", hint=near(name, known) or f"one of {', '.join(known)}")
    found = REAL[name].find(slurm_directory())
    if found is None:
        raise PreflightFailed(f"{name} is not here", hint=f"nemodeploy sandbox install {name}")
    return found


def _release(name: str, *besides: str) -> str:
    """`besides`: what could be meant, too. Raises BadInput."""
    from nemodeploy.sandbox.slurms import RELEASES

    if name not in RELEASES:
        from nemodeploy.core.reading import near

        known = (*RELEASES, *besides)
        raise BadInput(f"unknown Slurm {name!r}", hint=near(name, known) or f"one of {', '.join(known)}")
    return name


@click.group("sandbox", short_help="A real Slurm cluster on this machine, for trying and testing.")
def command() -> None:
    """A whole Slurm cluster on this machine: 2×8 H100, 2×8 A100 and 1×8 H200, with fake GPUs, reached over SSH."""


@command.command("up")
@click.option(
    "--mode",
    type=click.Choice(("auto", "namespaces", "plain")),
    default="auto",
    show_default=True,
    help="namespaces: every node a host of its own; plain: daemons side by side.",
)
@click.option(
    "--engines",
    type=click.Choice(("stand-in", "real")),
    default="stand-in",
    show_default=True,
    help="real: the engines' own software, as far as `sandbox engines install` has put it here.",
)
@click.option(
    "--slurm",
    metavar="VERSION",
    envvar="NEMODEPLOY_SANDBOX_SLURM",
    help="One that `sandbox install` has unpacked, such as 24.11; default: the machine's own.",
)
@click.option(
    "--runtime",
    metavar="NAME",
    default="none",
    show_default=True,
    help="Every rank in a real container; `sandbox install NAME` gets what runs it.",
)
@click.option("--accounting", is_flag=True, help="With slurmdbd: accounts, QOS and limits; see docs/sandbox.md.")
@click.option(
    "--user", "guest", metavar="NAME", default="", help="An account of this machine that may log in and submit, too."
)
@options.as_json
def up(mode: str, engines: str, slurm: str | None, runtime: str, accounting: bool, guest: str, as_json: bool) -> None:
    """Start it, or say that it runs; returns when every node is idle."""
    from nemodeploy.adapters import files
    from nemodeploy.adapters.resources import config_directory
    from nemodeploy.sandbox import software
    from nemodeploy.sandbox.configuration import cluster_file as text_of
    from nemodeploy.sandbox.packs import PACKS
    from nemodeploy.sandbox.runtimes import REAL

    sandbox, begun, packs, chosen = _sandbox(), time.monotonic(), _packs(), _slurm(slurm)
    program = _runtime(runtime) if runtime != "none" else Path()
    serving = software.stand_ins() if engines == "stand-in" else software.real(packs)
    cluster_file = config_directory() / "clusters/sandbox.yaml"
    try:
        cluster_file.parent.mkdir(parents=True, exist_ok=True)
        before = sandbox.state()
        spank = REAL[runtime].spank(sandbox, program) if runtime != "none" else ""
        state = sandbox.up(mode, chosen, spank, accounting=accounting, guest=guest)
        if runtime != "none":
            serving = REAL[runtime].in_image(serving, sandbox, program)
        text = text_of(sandbox.place, serving, plain=state.mode == "plain", libraries=chosen.libraries)
        files.write_whole(cluster_file, text)
    except OSError as error:
        raise BadInput(
            f"cannot write {error.filename}: {error.strerror}", hint="check NEMODEPLOY_SANDBOX_DIR and XDG_CONFIG_HOME"
        ) from error
    if state.mode == "plain" and mode == "auto":
        tell("note: namespaces are refused here, so all nodes share this machine's network (loopback, munge)")
    if as_json:
        put_json({"schema": "nemodeploy/sandbox@1", "running": True, "mode": state.mode, "port": state.port})
        return
    verb = "runs already" if before else f"is up after {time.monotonic() - begun:.1f} s"
    how = (state.mode, *((f"Slurm {chosen.version}",) if chosen.version else ()), *_extras(state))
    say(f"the sandbox {verb}: 5 nodes, 40 fake GPUs, cluster name sandbox ({', '.join(how)})")
    if engines == "real":
        tell(f"  {serving.notice}")
        missing = [name for name, pack in PACKS.items() if not packs.installed(pack)]
        if missing:
            tell(f"  nemodeploy sandbox engines install {' '.join(missing)}")
    profile = "h200x8" if serving.one_host else "h100x16"
    tell(f"  nemodeploy up --profile {profile}")


def _extras(state: State) -> tuple[str, ...]:
    """What a sandbox has besides the usual, in words."""
    user = f" with user {state.guest}" if state.guest else ""
    return (f"accounting{user}",) if state.accounting else ()


@command.command("install")
@click.argument("version", required=False)
@options.as_json
def install_slurm(version: str | None, as_json: bool) -> None:
    """Unpack Slurm without root, and without installing anything on the machine.

    VERSION is 20.11, 22.05, 24.11 or newest (Debian's, from this machine's mirror); without it, the one that the
    machine's own package sources have, with an SSH server and whatever else is missing here. It may also be apptainer,
    podman or docker, for `sandbox up --runtime apptainer`; pyxis and enroot have to be on the machine.
    """
    from nemodeploy.sandbox.runtimes import REAL
    from nemodeploy.sandbox.slurms import OWN

    if version and version in REAL:
        from nemodeploy.adapters.resources import slurm_directory

        found = REAL[version].install(slurm_directory(), tell)
        if as_json:
            put_json({"schema": "nemodeploy/slurm@1", "name": version, "directory": str(found.parents[1])})
        else:
            say(f"{START} --runtime {version}")
        return
    name = _release(version or OWN, *REAL)
    slurm = _slurms().install(name, tell)
    if as_json:
        document = {
            "schema": "nemodeploy/slurm@1",
            "name": name,
            "version": slurm.version,
            "directory": str(slurm.home),
        }
        put_json(document)
    else:
        say(START if name == OWN else f"{START} --slurm {name}")


@command.command("status")
@options.as_json
def status(as_json: bool) -> None:
    """Say whether it runs, with which Slurm, and what that says of each node."""
    sandbox = _running()
    state, nodes = sandbox.state(), sandbox.node_states()
    slurm = sandbox.exec("sinfo", "--version").stdout.rpartition(" ")[2].strip()
    mode, port, extras = (state.mode, state.port, _extras(state)) if state else ("", 0, ())
    if as_json:
        about = {"running": True, "mode": mode, "port": port, "slurm": slurm, "accounting": bool(extras)}
        put_json({"schema": "nemodeploy/sandbox@1", **about, "nodes": dict(nodes)})
        return
    say(", ".join((mode, f"Slurm {slurm}", *extras)))
    for name, word in nodes.items():
        say(f"{name:<10} {word}")


@command.command("down")
@options.as_json
def down(as_json: bool) -> None:
    """Stop it; no process, mount or network link of it is left. Asking twice is fine."""
    ran = _sandbox().down()
    if as_json:
        put_json({"schema": "nemodeploy/sandbox@1", "running": False})
    else:
        say("the sandbox is down" if ran else "the sandbox was not running")


@command.command("shell")
def shell() -> None:
    """A shell on its login node."""
    words = _running().ssh_words("-t")
    os.execvp(words[0], words)


@command.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(words: tuple[str, ...]) -> None:
    """Run a command on its login node as `ssh HOST COMMAND` does: `nemodeploy sandbox exec -- 'sinfo; pwd'`.

    The words are joined with blanks and given to the login shell there; stdin and the exit code are passed on.
    """
    argv = [*_running().ssh_words(), "--", *words]
    os.execvp(argv[0], argv)


@command.group("engines")
def engines() -> None:
    """The engines' own software, to serve in the sandbox in place of the stand-ins."""


@engines.command("list")
@options.as_json
def list_packs(as_json: bool) -> None:
    """Say which packs there are, and which are here."""
    from nemodeploy.sandbox.packs import PACKS

    packs = _packs()
    here = {name: packs.installed(pack) for name, pack in PACKS.items()}
    if as_json:
        rows = [
            {"name": pack.name, "installed": here[pack.name], "engines": pack.engines, "size_gb": pack.size_gb}
            for pack in PACKS.values()
        ]
        put_json({"schema": "nemodeploy/engines@1", "directory": str(packs.directory), "packs": rows})
        return
    for pack in PACKS.values():
        state = "here" if here[pack.name] else f"not here, {pack.size_gb:.1f} GB"
        say(f"{pack.name:<9} {state:<16} {', '.join(pack.engines):<66} {pack.about}")


@engines.command("install")
@click.argument("names", nargs=-1)
@options.as_json
def install(names: tuple[str, ...], as_json: bool) -> None:
    """Build the packs NAMES, all by default; what is here already is left as it is."""
    from nemodeploy.core.reading import near
    from nemodeploy.sandbox.packs import PACKS

    for name in names:
        if name not in PACKS:
            raise BadInput(f"unknown pack {name!r}", hint=near(name, PACKS) or f"one of {', '.join(PACKS)}")
    packs, problems = _packs(), []
    for name in names or PACKS:
        try:
            packs.install(PACKS[name], tell)
        except PreflightFailed as error:
            problems.append(error)
            tell(f"{name}: skipped: {error}")
    if problems:
        raise PreflightFailed(
            f"{len(problems)} of {len(names or PACKS)} packs could not be built: {problems[0]}", hint=problems[0].hint
        )
    if as_json:
        put_json({"schema": "nemodeploy/engines@1", "installed": list(names or PACKS)})
    else:
        say("nemodeploy sandbox up --engines real")
