"""Slurm's queue and accounting: the questions about jobs of ours, and the parsers of their answers.

Tried on Slurm 20.11.4, 22.05.8, 24.11.5 and 26.05.5; the formats are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from nemodeploy.core.witnesses import Trace, Word
from nemodeploy.schedulers.base import LIFE, Life, QueueRow

# Columns of `squeue -O` have a fixed width, so a value with any character in it stays in its own.
_COLUMNS = (
    ("JobID", 24),
    ("RestartCnt", 8),
    ("State", 24),
    ("Reason", 80),
    ("TimeUsed", 24),
    ("TimeLeft", 24),
    ("StartTime", 24),
    ("Name", 96),
    ("NodeList", 400),
    ("WorkDir", 600),
)
_ELAPSED = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")


def queue_script(root: str) -> str:
    """POSIX shell: every job of ours, one question to the controller. Ends with squeue's own status.

    A row is ours by its name or its working directory. A directory in another root is said to be `elsewhere` where it
    is there, and this root has no run directory of that token.
    """
    columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS)
    return f"""\
found=$({{ squeue --me --noheader --states=all -O '{columns}'; echo "squeue $?"; }} 2>&1 |
  grep -e '[ /]nd-' -e '^squeue' -e '^slurm_')
printf '%s\n' "$found"
root=$(cd {root} 2>/dev/null && pwd || printf '%s\n' {root})
printf '%s\n' "$found" | grep '/nd-' | grep -vF " $root/deployments/" | while read -r row; do
  dir=${{row##* }}; token=${{dir##*/}}; name=${{token#nd-}}
  [ -d "$dir" ] && [ ! -e "$root/deployments/${{name%-*}}/$token" ] && [ ! -e "$root/archive/$token" ] &&
    printf 'elsewhere %s\n' "$dir"
done
exit "${{found##*squeue }}"
"""


def parse_queue(text: str) -> tuple[QueueRow, ...]:
    """The rows of `queue_script`; a line that is not a row (a site's banner) is passed over."""
    elsewhere = set(re.findall(r"^elsewhere (/.+)$", text, re.MULTILINE))
    rows = filter(None, map(_row, text.splitlines()))
    return tuple(replace(row, elsewhere=row.directory in elsewhere) for row in rows)


def _row(line: str) -> QueueRow | None:
    cells, at = [], 0
    for _, width in _COLUMNS:
        cells.append(line[at : at + width].strip())
        at += width
    job_id, restart, state, reason, used, left, start, name, nodes, directory = cells
    if not job_id.isdigit() or not state:
        return None
    return QueueRow(
        job_id=job_id,
        restart=int(restart) if restart.isdigit() else 0,
        state=state.rstrip("*~#!%$@^+-"),
        reason=reason,
        elapsed_s=parse_elapsed(used),
        left_s=parse_elapsed(left),
        start="" if start in ("N/A", "Unknown") else start,
        name=name,
        nodes="" if nodes.startswith("(") else nodes,
        directory=directory,
    )


def parse_elapsed(text: str) -> int | None:
    """Slurm's `[D-][HH:]MM:SS` in seconds, None for anything else (`INVALID`, `UNLIMITED`)."""
    match = _ELAPSED.fullmatch(text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


ACCOUNTING_WITHIN_S = 10  # sacct itself waits for a slurmdbd that hangs much longer
# Accounting that does not exist cannot contradict; one that does not answer could.
_NO_ACCOUNTING = ("accounting storage is disabled", "not running a supported accounting", "not found")


# Shell text: who cancelled a job, and why the nodes of one that never began were drained (sacct adds a second --format
# to the first).
_WHY = r"""printf '%s\n' "$said" | sed -n 's/.*|CANCELLED by \([0-9]*\)|.*/\1/p' | sort -u | while read -r by; do
  echo "by $by $(id -un "$by" 2>/dev/null)"
done
if [ -n "$never" ] && [ "$status" = 0 ]; then
  ask --jobs="$never" --format=NodeList | while IFS='|' read -r id _ _ on; do
    case $on in '' | None*) continue ;; esac
    sinfo --noheader -N --nodes="$on" --format="node|$id|%N|%E" 2>/dev/null | grep -i -e prolog -e launch | head -n 4
  done
fi
"""


def trace_script(jobs: Mapping[str, tuple[str, str]]) -> str:
    """POSIX shell: one question to squeue and one to sacct for all jobs (id and run directory by token).

    Where the receipt has no id, the job's claim may. squeue says that a single id which was purged is invalid, and
    leaves it out of the answer for several. sacct looks back from an hour before the oldest run directory was made, by
    the cluster's own clock (without --starttime: since midnight), by name, and by id for those it does not find. Where
    there is no accounting, there may be a list of completed jobs, which knows no such filters.
    """
    each = "\n".join(f"one {token} '{int(job) if job else ''}' {where}" for token, (job, where) in jobs.items())
    return f"""\
ids=; pairs=; oldest=; week=; never=
one() {{
  id=$2
  [ -n "$id" ] || id=$(readlink "$3/claim") || id=
  case $id in *[!0-9]*) id= ;; esac
  echo "id $1 $id"; pairs="$pairs $1:$id"
  [ -z "$id" ] || ids=$ids${{ids:+,}}$id
  [ -z "$id" ] || [ -L "$3/claim" ] || never=$never${{never:+,}}$id
  made=$(stat -c %Y "$3/manifest.json" 2>/dev/null) || {{ week=now-7days; return; }}
  [ -n "$oldest" ] && [ "$oldest" -le "$made" ] || oldest=$made
}}
{each}
if [ -n "$ids" ]; then
  squeue --noheader --states=all --jobs="$ids" -o 'job|%i|%T|%U|%Z|%j' 2>&1; echo "squeue $?"
fi
echo "user $(id -u)"
since=$week
[ -n "$since" ] || since=$(date -d "@$((oldest - 3600))" +%Y-%m-%dT%H:%M:%S 2>/dev/null) || since=now-7days
ask() {{
  command -v sacct >/dev/null || {{ echo "sacct: not found"; return 127; }}
  timeout {ACCOUNTING_WITHIN_S} \\
    sacct --noheader --allocations --parsable2 --starttime="$since" --format=JobIDRaw,State,JobName "$@" 2>&1
}}
said=$(ask --name={",".join(jobs)})
status=$?
rest=
for pair in $pairs; do
  case $said in *"|${{pair%%:*}}"*) ;; *) rest=$rest${{pair#*:}}, ;; esac
done
rest=$(printf '%s' "$rest" | tr -s , | sed 's/^,//; s/,$//')
if [ "$status" = 0 ] && [ -n "$rest" ]; then
  said="$said
$(ask --jobs="$rest")" || status=$?
fi
printf '%s\n' "$said"
{_WHY}case $said in *"{_NO_ACCOUNTING[0]}"* | *"{_NO_ACCOUNTING[1]}"*)
  sacct --completion --noheader --parsable2 --format=JobID,State,JobName 2>/dev/null | grep '|nd-' ;;
esac
echo "sacct $status"
"""


def parse_trace(jobs: Mapping[str, tuple[str, str]], text: str) -> Mapping[str, Trace]:
    """What `trace_script` found out, by token. Every line is one witness's; whatever is no row of ours is noise."""
    asked = dict(re.findall(r"^id (\S+) (\d+)$", text, re.MULTILINE))
    found = {}
    for token, (job_id, _) in jobs.items():
        known = job_id or asked.get(token, "")
        account, state, other = _account(token, known, text)
        found[token] = Trace(
            job_id=known or other,
            queue=_queue(token, known, text, several=len(asked) > 1) if known else Word.SILENT,
            account=account,
            state=state,
            by=_by(known or other, text),
            failed=_failed(known or other, text),
        )
    return found


def _by(job_id: str, text: str) -> str:
    """The user who cancelled a job, by the accounting; empty: it does not say."""
    uid = re.search(rf"^{job_id}\|CANCELLED by (\d+)\|", text, re.MULTILINE) if job_id else None
    name = re.search(rf"^by {uid[1]} (\S+)$", text, re.MULTILINE) if uid else None
    return f"{name[1] if name else 'uid'} ({uid[1]})" if uid else ""


def _failed(job_id: str, text: str) -> str:
    """Why the nodes of a job that never began were drained."""
    nodes = dict.fromkeys(re.findall(rf"^node\|{job_id}\|([\w.-]+)\|([^|\n]{{1,80}})$", text, re.MULTILINE))
    return ", ".join(f"{name}: {reason.strip()}" for name, reason in nodes)


def _queue(token: str, job_id: str, text: str, *, several: bool) -> Word:
    """The controller's word on an id, out of an answer for one or for several.

    One that was given away belongs to another user, or to a job of another name and another place; a job whose name and
    place were both changed looks the same, so that is not believed alone.
    """
    status = re.search(r"^squeue (\d+)$", text, re.MULTILINE)
    if status is None or status[1] != "0":
        return Word.ABSENT if status and "Invalid job id specified" in text[: status.start()] else Word.SILENT
    user = re.search(r"^user (\d+)$", text, re.MULTILINE)
    for found in re.finditer(r"^job\|(\d+)\|([A-Z_]+)\|(\d+)\|(.*)\|(.*)$", text, re.MULTILINE):
        if found[1] != job_id:
            continue
        if user and found[3] != user[1]:
            return Word.ABSENT
        if token not in (found[5].strip(), found[4].rstrip("/").rpartition("/")[2]):
            return Word.MAYBE
        return Word.ENDED if LIFE.get(found[2], Life.UNKNOWN) is Life.ENDED else Word.ALIVE
    return Word.ABSENT if several else Word.SILENT


def _account(token: str, job_id: str, text: str) -> tuple[Word, str, str]:
    """The accounting's word, its own name for the state, and the id that it gives."""
    text = re.split(r"^user \d+$", text, maxsplit=1, flags=re.MULTILINE)[-1]
    number, name = (job_id, "[^|\n]*") if job_id else (r"\d+", token)
    rows = re.findall(rf"^({number})\|([^|\n]+)\|{name}$", text, re.MULTILINE)
    if rows:
        number, state = rows[-1]
        ended = LIFE.get(state.split()[0].rstrip("+"), Life.UNKNOWN) is Life.ENDED
        return (Word.ENDED if ended else Word.ALIVE), state.split()[0].rstrip("+"), number
    if any(word in text for word in _NO_ACCOUNTING):
        return Word.MISSING, "", ""
    said = re.search(r"^sacct (\d+)$", text, re.MULTILINE)
    return (Word.ABSENT if said and said[1] == "0" else Word.SILENT), "", ""
