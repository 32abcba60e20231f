"""What was seen of one deployment: its run directory's files, trusted only for the epoch that Slurm reports."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nemodeploy.core.diagnosis import clean
from nemodeploy.core.witnesses import Silence
from nemodeploy.values import Endpoint, Epoch, Token

MANIFEST_VERSION = 1
SAID_LETTERS = 240
DIGITS = 15  # of the largest number in a file; a float holds as many
LONGEST_GRACE_S = 86400.0
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """health.json: what the supervisor last said. `progress`: how much is loaded, in percent; None: it is not known.

    `port_held`: whether this job's processes listen on its port: ours, foreign, unproven; empty: an older job.

    `said`: the last words in a rank's log, after its name. `silent_ranks`: those whose node gives no sign of life.
    """

    epoch: Epoch
    phase: str
    elapsed_s: int
    ranks_joined: int
    ranks: int
    generated: bool
    progress: int | None = None
    said: str = ""
    silent_ranks: tuple[int, ...] = ()
    port_held: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """exit.json: how it ended. `rank` is the first that did, None when none had."""

    epoch: Epoch
    cause: str
    rank: int | None
    rank_status: int | None
    status: int
    port: int | None
    elapsed_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDirectory:
    """The small files of one token. Missing, torn or foreign ones are None, never an error.

    `ttl_s`: the job ends itself when its lease is not renewed for so many seconds; None: it has none. `revoked`: a
    client has taken it back. `has_secrets`: those of its server lie there. `answer`: what the server gave to the job's
    last question: status, newline, raw body; empty where that was not asked for.
    """

    token: Token
    manifest: Mapping[str, Any] = field(default_factory=dict)
    submitted: bool = False
    withheld: bool = False
    submit_status: int | None = None
    submit_out: str = ""
    submit_error: str = ""
    health: Health | None = None
    endpoint: Endpoint | None = None
    exit: Exit | None = None
    answer: str = ""
    ttl_s: int | None = None
    revoked: bool = False
    has_secrets: bool = False

    @property
    def plan(self) -> Mapping[str, Any]:
        """What was decided, as the manifest keeps it."""
        plan = self.manifest.get("plan")
        return plan if isinstance(plan, Mapping) and _is_sound(plan) else {}

    @property
    def grace_s(self) -> float:
        """How many seconds its server has to end by itself."""
        found = self.plan.get("grace_s")
        return min(max(float(found), 0.0), LONGEST_GRACE_S) if isinstance(found, int | float) else 10.0

    @property
    def from_newer_version(self) -> bool:
        """Whether a newer nemodeploy wrote it, so that its words may mean something else."""
        schema = str(self.manifest.get("schema", ""))
        version = schema.rpartition("@")[2]
        return re.fullmatch(r"[0-9]{1,9}", version) is not None and int(version) > MANIFEST_VERSION


def _is_sound(plan: Mapping[str, object]) -> bool:
    """Whether a plan has the parts that are read back, each of its kind."""
    layout, prompting = plan.get("layout"), plan.get("prompting")
    return (
        isinstance(plan.get("model"), str)
        and isinstance(layout, Mapping)
        and isinstance(layout.get("gpus"), int)
        and layout["gpus"] >= 0
        and isinstance(prompting, Mapping)
        and isinstance(prompting.get("stop"), list)
    )


ANSWER = "current/probe.body"  # the last: it may hold anything
FILES = (
    *("manifest.json", "submit/sbatch.rc", "submit/sbatch.out", "submit/sbatch.err", "lease"),
    *("current/health.json", "current/endpoint.json", "current/exit.json", ANSWER),
)
CAP_BYTES = 65536
_MARKS = '"$one"/submit/go "$one"/submit/withheld "$one"/revoked "$one"/secrets.env'
# Shell text: `now` becomes the time by the clock of the file system at hand, which stamps the files; where nothing can
# be written there, by this host's.
SHOW_MARK = '[ ! -e "$mark" ] || printf \'%s\\n\' "$mark"'
FILE_SYSTEM_TIME = "now=$(touch now.$$ 2>/dev/null && stat -c %Y now.$$ || date +%s); rm -f now.$$"


def silence_script(directory: str) -> str:
    """POSIX shell: for how many seconds the job has written nothing, by the file system's own clock."""
    return (
        f"cd {directory} 2>/dev/null || case $(stat {directory} 2>&1) in\n"
        '  *"No such file"*) echo gone; exit 0 ;; *) exit 1 ;;\nesac\n'
        "last=$(stat -L -c %Y current/health.json 2>/dev/null || stat -c %Y manifest.json) || exit 1\n"
        f"{FILE_SYSTEM_TIME}; echo $((now - last)) $last\n"
    )


def parse_silence(text: str) -> Silence:
    """What `silence_script` printed; where it failed no silence is proven."""
    if text.strip() == "gone":
        return Silence(age_s=None)
    found = re.fullmatch(r"(\d{1,10}) (\d{1,12})", text.strip())
    return Silence(age_s=int(found[1]), written_at=int(found[2])) if found else Silence(age_s=0)


def base_script(root: str, below: str = "deployments") -> str:
    """Shell text: print the directory of all run directories, as a job's own working directory would name it, and keep
    it in `d`. Ends where that is not one absolute path, and where it is there and cannot be read: no answer is not the
    answer no."""
    return f"""\
d=$(cd {root} 2>/dev/null && pwd || printf '%s\\n' {root})/{below}
case $d in *"
"* | [!/]*) printf 'not one absolute path: %s\\n' "$d"; exit 3 ;; esac
if [ -d "$d" ]; then
  [ -r "$d" ] && [ -x "$d" ] || {{ echo "$d: permission denied"; exit 4; }}
elif why=$(stat -L "$d" 2>&1 >/dev/null); then
  echo "$d is not a directory"; exit 4
elif [ -L "$d" ]; then
  printf '%s\\n' "$why"; exit 4
else
  case $why in *"No such file"* | *"Not a directory"*) ;; *) printf '%s\\n' "$why"; exit 4 ;; esac
fi
printf '%s\\n' "$d"
"""


def each_file(names: str) -> str:
    """Shell text: the names of those that are files, ended by NUL. Others are left out: to open a named pipe that
    somebody left in a run directory would block."""
    return f'for file in {names}; do [ ! -f "$file" ] || printf \'%s\\0\' "$file"; done'


def read_files(program: str) -> str:
    """Shell text: what `each_file` names, read by one process, each capped and after its name."""
    return f"xargs -0 -r {program} -v -c {CAP_BYTES} 2>/dev/null"


def list_script(root: str, name: str = "") -> str:
    """POSIX shell: the live tokens, then their small files, kind by kind, by one process. `root` is shell text, quoted
    already; `name`: those of one name only, and then what its server answered last, too. There may be many thousand
    stale names: no program is given them as arguments, and the shell looks for directories in them once."""
    files = FILES if name else [file for file in FILES if file != ANSWER]
    names, each = " ".join(files), each_file('"$one/$name"')
    of = name or "*"
    return (
        f"{base_script(root)}cd / || exit 1\n"
        '[ -d "$d" ] || exit 0\n'
        f'printf \'%s\\0\' "$d"/{of}/active "$d"/{of}/after.* | xargs -0 -r readlink 2>/dev/null\n'
        f'set -- "$d"/{of}/nd-*\n'
        f"for one; do for mark in {_MARKS}; do {SHOW_MARK}; done; done\n"
        f"for name in {names}; do for one; do {each}; done; done | {read_files('head')}\n"
        "exit 0\n"
    )


def archive_script(root: str, pattern: str, *, minutes: int | None, most: int) -> str:
    """POSIX shell: the same of archived tokens, the newest ones of those whose names match a pattern of the shell's and
    that were archived so many minutes ago or later; and how many there are in all. Only what is shown is read: there
    may be many thousand."""
    lately = "" if minutes is None else f" -mmin -{minutes}"
    names, each = " ".join(FILES), each_file('"$one/$name"')
    return f"""\
{base_script(root, "archive")}[ -d "$d" ] || exit 0
cd "$d" || exit 4
set -- $(
  find . -maxdepth 1 -type d -name '{pattern}'{lately} |
    awk '{{ print substr($0, length($0) - 25), substr($0, 3) }}' | sort -r |
    awk 'NR <= {most} {{ print $2 }} END {{ print NR }}'
)
for one; do printf '%s\\n' "$one"; done
for one; do one=$d/$one; for mark in {_MARKS}; do {SHOW_MARK}; done; done
for name in {names}; do for one; do one=$d/$one; {each}; done; done | {read_files("head")}
exit 0
"""


def parse_count(text: str) -> int:
    """How many archived tokens there are in all, of those that `archive_script` was asked for."""
    found = re.search(r"^(\d{1,9})$", text.partition("\n==> ")[0], re.MULTILINE)
    return int(found[1]) if found else 0


def parse_list(text: str) -> tuple[RunDirectory, ...]:
    """Every run directory that the answer of `list_script` shows as live, or that of `archive_script`, by name."""
    end = text.find("\n==> ")  # what stands before the files is short; of the files of a thousand no copy is made
    head = text if end < 0 else text[:end]
    lines = head.splitlines()
    if not lines:
        return ()
    base = lines[0]
    contents = _split(text, base)
    mark = rf"^{re.escape(base)}/(?:[^/]+/)?(nd-[a-z0-9-]+)/(?:submit/)?(go|withheld|revoked|secrets\.env)$"
    marks = set(re.findall(mark, head, re.MULTILINE))
    live = [read_token(line) for line in lines[1:]]
    found = {}
    for token in filter(None, live):
        files = contents.get(str(token), {})
        made = {mark for name, mark in marks if name == str(token)}
        if files or made:
            found[str(token)] = _directory(token, files, made)
    return tuple(found[key] for key in sorted(found))


def _split(text: str, base: str) -> dict[str, dict[str, str]]:
    """The output of `head -v`, by token and file name. What a server answered comes last and may hold anything: the
    first of a name counts."""
    parts = re.split(rf"^==> {re.escape(base)}/(?:[^/\n]+/)?(nd-[a-z0-9-]+)/([\w./-]+) <==\n", text, flags=re.MULTILINE)
    found: dict[str, dict[str, str]] = {}
    for token, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        found.setdefault(token, {}).setdefault(name, body)
    return found


def read_token(line: str) -> Token | None:
    """A token, or None when the text is not one."""
    try:
        return Token(line.strip())
    except ValueError:
        return None


def _directory(token: Token, files: Mapping[str, str], made: Collection[str]) -> RunDirectory:
    status = files.get("submit/sbatch.rc", "").strip()
    return RunDirectory(
        token=token,
        manifest=_mapping(files.get("manifest.json", "")),
        submitted="go" in made,
        withheld="withheld" in made,
        revoked="revoked" in made,
        has_secrets="secrets.env" in made,
        submit_status=int(status) if re.fullmatch(r"\d{1,3}", status) else None,
        submit_out=files.get("submit/sbatch.out", "").strip(),
        submit_error=files.get("submit/sbatch.err", "").strip(),
        health=read_health(files.get("current/health.json", "")),
        answer=files.get("current/probe.body", ""),
        endpoint=read_endpoint(files.get("current/endpoint.json", "")),
        exit=read_exit(files.get("current/exit.json", "")),
        ttl_s=read_ttl(files.get("lease", "")),
    )


def read_ttl(text: str) -> int | None:
    """The seconds of a lease as the job reads them; None when it would not."""
    word = text.partition(" ")[0].strip()
    return int(word) if re.fullmatch(r"[0-9]{1,7}", word) else None


def read_health(text: str) -> Health | None:
    """health.json, or None when it is not one."""
    data = _mapping(text)
    epoch, silent = Epoch.parse(data.get("epoch")), data.get("silent_ranks")
    if not epoch or not isinstance(data.get("phase"), str):
        return None
    return Health(
        epoch=epoch,
        phase=data["phase"][:40],
        elapsed_s=_number(data, "elapsed_s") or 0,
        ranks_joined=_number(data, "ranks_joined") or 0,
        ranks=_number(data, "ranks") or 0,
        generated=data.get("generated") is True,
        progress=_number(data, "progress"),
        said=clean(str(data.get("said", "")))[:SAID_LETTERS],
        silent_ranks=tuple(rank for rank in silent if isinstance(rank, int)) if isinstance(silent, list) else (),
        port_held=str(data.get("port_held", ""))[:10],
    )


def read_endpoint(text: str) -> Endpoint | None:
    """endpoint.json, or None when it is not one."""
    data = _mapping(text)
    epoch, port, host = Epoch.parse(data.get("epoch")), _number(data, "port"), data.get("host")
    if not epoch or not port or port > 65535 or not isinstance(host, str) or not _HOST.fullmatch(host):
        return None
    return Endpoint(
        host=host,
        port=port,
        protocol=str(data.get("protocol", "")),
        model=clean(str(data.get("model", ""))),
        epoch=epoch,
        nonce=str(data.get("nonce", "")),
        generation_s=(_number(data, "generation_ms") or 0) / 1000,
    )


def read_exit(text: str) -> Exit | None:
    """exit.json, or None when it is not one."""
    data = _mapping(text)
    epoch = Epoch.parse(data.get("epoch"))
    if not epoch or not isinstance(data.get("cause"), str):
        return None
    return Exit(
        epoch=epoch,
        cause=data["cause"][:40],
        rank=_number(data, "rank"),
        rank_status=_number(data, "rank_status"),
        status=_number(data, "status") or 0,
        port=_number(data, "port"),
        elapsed_s=_number(data, "elapsed_s") or 0,
    )


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text, parse_int=_bounded_int, parse_float=_bounded_float, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _bounded_int(word: str) -> int:
    """A number that every later sum can hold; ValueError for one that no program of ours has written."""
    if len(word) > DIGITS:
        raise ValueError(f"a number of {len(word)} digits")
    return int(word)


def _bounded_float(word: str) -> float:
    found = float(word)
    return found if abs(found) < 10.0**DIGITS else _no_number(word)


def _no_number(word: str) -> float:
    raise ValueError(f"{word[:20]} is out of bounds")


def _number(data: Mapping[str, Any], key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
