"""Questions to the login host itself: its programs, its clock, and the root directory."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

from nemodeploy.core.checks import Check, failed, ok, unanswered, warning
from nemodeploy.core.sections import Section

PROGRAMS = ("awk", "base64", "cat", "cut", "date", "grep", "head", "ln", "mkdir", "mktemp", "mv", "nohup", "readlink")
MORE_PROGRAMS = ("find", "sed", "setsid", "sort", "stat", "tail", "timeout", "tr", "touch", "wc", "xargs")
# File systems of one machine alone; what is not here may be shared.
LOCAL = ("tmpfs", "ramfs", "devtmpfs", "squashfs", "iso9660")
MAYBE_LOCAL = ("ext2/ext3", "ext4", "xfs", "btrfs", "overlayfs", "overlay", "zfs")
LEAST_FREE_MB = 200
CLOCK_S = 60
# Takes away `new` and what is below it on the way to `r`, where it is empty.
TAKE_AWAY = 'cd /; while [ -n "$new" ]; do rmdir "$r" 2>/dev/null; [ "$r" != "$new" ] || new=; r=${r%/*}; done'


def note_new(directory: str) -> str:
    """Shell text: `r`, a directory, and `new`, the first on the way there that does not exist yet, or nothing."""
    return f'r={directory}; p=$r; new=; while [ -n "$p" ] && [ ! -d "$p" ]; do new=$p; p=${{p%/*}}; done'


def parts(root: str) -> Mapping[str, str]:
    """Shell texts; `root` as shell text."""
    names = " ".join((*PROGRAMS, *MORE_PROGRAMS))
    return {
        "clock": "date +%s",
        "programs": f"for p in {names}; do command -v $p >/dev/null 2>&1 || echo $p; done",
        "root": (
            f"{note_new(root)}\ntrap {shlex.quote(TAKE_AWAY)} EXIT\n"
            'mkdir -p "$r" 2>&1 || exit 1\n'
            'cd "$r" && pwd -P && d=$(mktemp -d ./.doctor.XXXXXX) 2>&1 || exit 1\n'
            '{ head -c 65536 /dev/zero >"$d/a" && ln -s a "$d/b" && mv "$d/b" "$d/c"; } 2>&1; s=$?\n'
            'rm -rf "$d"; [ $s = 0 ] || exit 1\n'
            'stat -f -c "type %T" . 2>/dev/null; df -Pm . 2>/dev/null | tail -n 1; stat -c "mode %a" .'
        ),
    }


def judge(answers: Mapping[str, Section], *, now_s: float, root: str, one_machine: bool) -> Iterator[Check]:
    """`now_s`: this machine's clock, seconds since the Epoch, in the middle of the question; `one_machine`: nobody
    else has to see the root directory."""
    there = answers["clock"].text.strip()
    if there.isdigit():
        skew = int(there) - now_s
        off = f"the cluster's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
        fine = abs(skew) <= CLOCK_S
        yield (
            ok("clock", f"within {CLOCK_S} s of this machine's")
            if fine
            else warning("clock", f"{off}; leases do not mind, times that are shown do", "ask whose clock is wrong")
        )
    missing = answers["programs"].text.split()
    yield (
        failed("login host", f"it lacks {', '.join(missing)}", "ask the site for coreutils and util-linux")
        if missing
        else ok("login host", "a POSIX shell, and every program that is needed")
    )
    yield from _root(answers["root"], root, one_machine=one_machine)


def _root(answer: Section, root: str, *, one_machine: bool) -> Iterator[Check]:
    said = answer.text.strip()
    if answer.status:
        full = re.search(r"No space left|quota", said, re.IGNORECASE)
        what = "is full, or your quota is" if full else "cannot be written"
        last = said.splitlines()[-1] if said else "no reason was given"
        yield failed("root", f"{root} {what}: {last}", "another root: in the cluster file, on shared storage")
        return
    path = said.splitlines()[0]
    kind = re.search(r"^type (\S+)", said, re.MULTILINE)
    free = re.search(r"^\S+ +\d+ +\d+ +(\d+) ", said, re.MULTILINE)
    if free and int(free[1]) < LEAST_FREE_MB:
        yield failed("root", f"{path} has {free[1]} MB left", "make room there, or another root: in the cluster file")
        return
    where = kind[1] if kind else "an unknown file system"
    if not one_machine and where in LOCAL:
        yield failed("root", f"{path} is on {where}, which compute nodes do not see", "root: on shared storage")
    elif not one_machine and where in MAYBE_LOCAL:
        says = f"{path} is on {where}, which is one machine's own unless it is exported"
        yield warning("root", says, "root: on storage that compute nodes see at the same path")
    else:
        yield ok("root", f"{path} can be written ({where})")


def noise(stdout: str, nonce: str) -> Check:
    """What a login prints around the answers."""
    lines = [line for line in re.split(rf"^{re.escape(nonce)} .*$", stdout, flags=re.MULTILINE)[0].splitlines() if line]
    if not lines:
        return ok("login noise", "none")
    return ok("login noise", f"{len(lines)} lines, passed over: {lines[0][:60]}")


def quoted(path: str) -> str:
    """A path of a cluster file as shell text; `$HOME` is expanded there."""
    return '"$HOME"' + shlex.quote(path[5:]) if path.startswith("$HOME") else shlex.quote(path)


def no_answer(name: str) -> Check:
    """A part that did not come back."""
    return unanswered(name, "the question was not answered", "run it again")
