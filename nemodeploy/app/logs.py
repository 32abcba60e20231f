"""What the ranks said: the ends of their logs, or all of them as they come."""

from __future__ import annotations

from collections.abc import Callable

from nemodeploy.app.site import Site
from nemodeploy.core.diagnosis import clean
from nemodeploy.core.submission import FOLLOW_LINKS
from nemodeploy.core.tails import tail_header
from nemodeploy.errors import BadInput, ClusterUnreachable

TAIL_LINES = 20


def show(site: Site, name: str, say: Callable[[str], None], *, lines: int = TAIL_LINES, follow: bool = False) -> None:
    """Print the logs of the live token of a name, else of its newest archived one, each line after its file's name.

    With `follow` it goes on until the job's own `exit.json` appears. Raises BadInput when there is no such name.
    """
    prefix = _Prefix(say)
    status = site.transport.follow(_script(site, name, lines, follow), prefix.take)
    prefix.flush()
    if status == 3:
        raise BadInput(f"no deployment named {name!r} on {site.cluster.name}", hint="nemodeploy status")
    if status:
        raise ClusterUnreachable(f"the connection to {site.cluster.name} broke", hint="run the same command again")


def _script(site: Site, name: str, lines: int, follow: bool) -> str:
    """Shell text. `tail --follow=name` ends with the process it is told to watch: a loop that looks for exit.json."""
    find = f"""\
d={site.root}/deployments/{name}
{FOLLOW_LINKS}
if [ -z "$live" ] || ! cd "$d/$live" 2>/dev/null; then
  t=; for x in {site.root}/archive/nd-{name}-??????????????????????????; do [ ! -d "$x" ] || t=$x; done
  [ -n "$t" ] && cd "$t" || exit 3
fi
"""
    if not follow:
        return find + f"tail -v -n {int(lines)} current/logs/*.log ./*.log submit/sbatch.err 2>/dev/null; exit 0\n"
    return (
        find
        + f"""\
here=$(pwd -P)
over() {{ [ -e current/exit.json ] || [ ! -d "$here" ] || ! kill -0 "$client" 2>/dev/null; }}
client=$PPID # sshd's process for this connection: when it is gone, so are we
until ls current/logs/*.log >/dev/null 2>&1 || over; do sleep 0.5; done; sleep 0.5
( until over; do sleep 1; done ) & watcher=$!
tail -v -n {int(lines)} --pid="$watcher" --follow=name --retry current/logs/*.log ./*.log 2>/dev/null
exit 0
"""
    )


class _Prefix:
    """Turns `tail -v` over several files into lines that carry their file's name."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.rest, self.name = say, b"", ""

    def take(self, chunk: bytes) -> None:
        """Whole lines only; half a line waits for its rest."""
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        for raw in whole:
            self._line(raw.decode(errors="replace"))

    def flush(self) -> None:
        """The last line, if it had no end."""
        if self.rest:
            self._line(self.rest.decode(errors="replace"))
            self.rest = b""

    def _line(self, line: str) -> None:
        header = tail_header(line).rpartition("/")[2]
        if header:
            self.name = header.removesuffix(".log")
        elif line.strip():
            self.say(f"{self.name} | {clean(line)}")
