"""What the ranks said: the ends of their logs, or all of them as they come.

The reader remembers how far it has come in every file, in bytes of what really came, so a requeue, a log that appears
late, one that grows while it is read, or a connection that broke costs no line and shows none twice.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass

from nemodeploy.adapters.transports.base import OUTPUT_CAP
from nemodeploy.app.outage import Outage
from nemodeploy.app.pace import WATCHER_S
from nemodeploy.app.site import Site
from nemodeploy.core import diagnosis
from nemodeploy.core.masking import MASK_FUNCTION, hide
from nemodeploy.core.run_directory import base_script, each_file
from nemodeploy.core.submission import FOLLOW_LINKS
from nemodeploy.core.tails import split_tails
from nemodeploy.errors import BadInput, ClusterUnreachable
from nemodeploy.values import Token

TAIL_LINES = 20
FOLLOW_EVERY_S = 1.0
FIRST_EVERY_S = 5.0  # while nothing has been written yet
CHUNK_BYTES = 65536
SECRET_BYTES = 4096  # a secret is hidden whole where a log is cut, up to this length
INDEX_BYTES = 1_000_000
LOGS = "epochs/*/logs/*.log ./*.log submit/sbatch.err"
BREAKS_ENDURED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Whose logs: of one rank, of one node, or of all; and how much: the last lines of each, or, with `since_s`, all of
    so many seconds."""

    rank: int | None = None
    node: str | None = None
    lines: int = TAIL_LINES
    since_s: float | None = None

    def takes(self, path: str) -> bool:
        """Whether a log is one of them; what is not a rank's belongs to nobody."""
        node, _, rest = path.rpartition("/")[2].removesuffix(".log").rpartition(".")
        if self.rank is None and self.node is None:
            return True
        return "/logs/" in path and self.rank in (None, _number(rest)) and self.node in (None, node)


EVERYBODY = Wanted()


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def show(
    site: Site,
    name: str,
    say: Callable[[str], None],
    *,
    sleep: Callable[[float], None],
    follow: bool = False,
    wanted: Wanted = EVERYBODY,
    outage: Outage | None = None,
) -> None:
    """Print the logs of the live token of a name, else of its newest archived one, each line after its file's name.

    With `follow` it goes on until the job has ended for good, and tells `outage` of what breaks. Raises BadInput when
    there is no such name.
    """
    reader = _Reader(site, _find(site, name), say, wanted)
    if wanted.since_s is None:
        reader.read(last_lines=wanted.lines)
    else:
        reader.begin_at(wanted.since_s)
        while not follow and reader.read():
            pass
    breaks, outage = 0, outage or Outage(lambda *_: None, lambda: 0.0)
    while follow:
        try:
            over = reader.over
            with outage.waiting(f"cluster {site.cluster.name}"):
                news = reader.read()
            if over and not news and not _will_run_again(site, reader.token):
                break
            between_runs = over and not news  # Slurm was asked
            if not reader.behind:
                sleep(WATCHER_S if between_runs else FOLLOW_EVERY_S if reader.places else FIRST_EVERY_S)
            breaks = 0
            outage.over()
        except ClusterUnreachable as error:
            outage.broke(error.message)
            breaks += 1
            if breaks > BREAKS_ENDURED:
                raise
            sleep(max(site.cluster.ssh.reconnect_wait_s, FOLLOW_EVERY_S))
    reader.flush()


def _find(site: Site, name: str) -> Token:
    script = f"""\
d={site.root}/deployments/{name}
{FOLLOW_LINKS}
if [ -z "$live" ] || [ ! -d "$d/$live" ]; then
  live=; for x in {site.root}/archive/nd-{name}-??????????????????????????; do [ ! -d "$x" ] || live=${{x##*/}}; done
fi
echo "$live"
"""
    places = {below: base_script(site.root, below) for below in ("deployments", "archive")}
    answers = site.ask({**places, "find": script})
    for below in places:
        site.base(answers[below])
    try:
        return Token(answers["find"].text.strip())
    except ValueError as error:
        text = f"no deployment named {name!r} on {site.cluster.name}"
        raise BadInput(text, hint=site.cluster.command("status", "--all")) from error


def _will_run_again(site: Site, token: Token) -> bool:
    """Whether Slurm still holds it, though this run has ended; nobody is asked where that cannot be."""
    look = site.look(controller=False, name=token.name)
    if not look.directory(token).plan.get("requeue"):
        return False
    rows = site.look(name=token.name).rows.get(str(token), ())
    return any(row.kind != "ended" for row in rows)


@dataclass(slots=True)
class _Place:
    """How far a log has been read, in bytes: where the first line begins that was not shown, and how much of it came.
    `cut`: that line began earlier, so it is not shown. `rest`: what came of it."""

    line: int
    cut: bool = False
    rest: bytes = b""

    @property
    def end(self) -> int:
        """What lies beyond is news."""
        return self.line + len(self.rest)

    def take(self, came: bytes, most: int) -> list[str]:
        """The whole lines in what came from `line` on; one of more than `most` bytes is not waited for."""
        whole, newline, rest = came.rpartition(b"\n")
        if not newline and len(came) > most:  # a line without an end is shown in pieces
            whole, rest = came[:-SECRET_BYTES], came[-SECRET_BYTES:]
        self.line, self.rest = self.line + len(came) - len(rest), rest
        if len(came) == len(rest):
            return []
        lines = whole.decode(errors="replace").split("\n")
        cut, self.cut = self.cut, False
        return lines[1:] if cut else lines


class _Reader:
    """How far every log of a token has been read."""

    def __init__(self, site: Site, token: Token, say: Callable[[str], None], wanted: Wanted) -> None:
        self.site, self.token, self.say, self.wanted = site, token, say, wanted
        self.places: dict[str, _Place] = {}
        self.over, self.run, self.behind = False, "", False

    def begin_at(self, since_s: float) -> None:
        """Pass over what was written earlier: by the job's index, which is made once a minute, and by the dates of
        files. Where neither tells, a file is read from its beginning."""
        script = (
            f"{self.site.enter(self.token)}\ndate +now=%s\nstat -c '%Y %s %n' {LOGS} 2>/dev/null\n"
            f"{{\n{each_file('epochs/*/logs/index')}\n}} | xargs -0 -r tail -v -c {INDEX_BYTES} 2>/dev/null; exit 0"
        )
        text = self.site.ask({"index": script})["index"].text
        now = re.match(r"now=(\d+)\n", text)
        earliest = int(now[1]) - since_s if now else 0.0
        for path, body in split_tails(text).items():
            for at, size, log in re.findall(r"^(\d+) (\d+) ([\w.@:+-]+)$", body, re.MULTILINE):
                if int(at) <= earliest:
                    self.places[path.removesuffix("index") + log] = _Place(int(size))
        for changed, size, path in re.findall(r"^(\d+) (\d+) ([\w./@:+-]+/[\w.@:+-]+)$", text, re.MULTILINE):
            if int(changed) < earliest:
                self.places[path] = _Place(int(size))

    def read(self, *, last_lines: int | None = None) -> bool:
        """Say what is new; at first the last lines of every log of the present run. Returns whether there was any."""
        sizes = self._sizes()
        most = max(2 * SECRET_BYTES, min(CHUNK_BYTES, OUTPUT_CAP // 4 // max(len(sizes), 1)))
        for path, size in sizes.items():
            if path not in self.places:
                earlier = last_lines is not None and "/logs/" in path and not path.startswith(f"{self.run}/")
                start = 0 if last_lines is None else max(0, size - most)
                self.places[path] = _Place(size) if earlier else _Place(start, cut=start > 0)
        news = {path: size for path, size in sizes.items() if size > self.places[path].end}
        self.behind = False  # by what was there before this look
        return bool(news) and self._say_all(news, most, last_lines)

    def _sizes(self) -> dict[str, int]:
        """Sizes in bytes by path, of all runs; and whether the present one is over."""
        script = (
            f"{self.site.enter(self.token)}\n"
            "echo run $(readlink current)\n"
            "[ ! -e current/exit.json ] && [ ! -e submit/withheld ] || echo over\n"
            f"stat -c '%s %n' {LOGS} 2>/dev/null; exit 0\n"
        )
        text = self.site.ask({"sizes": script})["sizes"].text
        present = re.search(r"^run (epochs/[0-9.]+)$", text, re.MULTILINE)
        self.run = present[1] if present else ""
        self.over = "over" in text.splitlines() or not text.strip()
        found = {path: int(size) for size, path in re.findall(r"^(\d+) ([\w./@:+-]+)$", text, re.MULTILINE)}
        return {path: size for path, size in found.items() if self.wanted.takes(path)}

    def _say_all(self, news: dict[str, int], most: int, last_lines: int | None) -> bool:
        """Read each log from the line that was not shown yet up to the size that was seen; whether anything came."""
        parts = {f"log.{number}": self._part(path, size, most) for number, (path, size) in enumerate(news.items())}
        answers = self.site.ask(parts)
        came = {path: base64.b64decode(answers[f"log.{number}"].text) for number, path in enumerate(news)}
        grown = {path: text for path, text in came.items() if len(text) > len(self.places[path].rest)}
        for path, text in grown.items():
            lines = list(filter(diagnosis.is_worth_a_line, self.places[path].take(text, most)))
            if last_lines is not None:
                lines = lines[-last_lines:] if last_lines else []
            self._say(path, lines)
        self.behind = any(self.places[path].end < news[path] for path in grown)
        return bool(grown)

    def _part(self, path: str, size: int, most: int) -> str:
        """Shell text: that part of a log, masked as what it is in the whole log, in base64 since its bytes count."""
        place = self.places[path]
        line, count = place.line, min(size - place.line, len(place.rest) + most)
        before = min(line, SECRET_BYTES)
        return (
            f"{self.site.enter(self.token)}\n{MASK_FUNCTION}\ntail -c +{line - before + 1} '{path}' | mask |\n"
            f"  tail -c +{before + 1} | head -c {count} | base64"
        )

    def _say(self, path: str, lines: list[str]) -> None:
        name = path.rpartition("/")[2].removesuffix(".log")
        for line in lines:
            shown = diagnosis.shown(hide(line.rpartition("\r")[2] or line, self.site.hidden))
            if shown:
                self.say(f"{name} | {shown}")

    def flush(self) -> None:
        """Last lines that had no end."""
        for path, place in self.places.items():
            self._say(path, [place.rest.decode(errors="replace")])
            place.rest = b""
