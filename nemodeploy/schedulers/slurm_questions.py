"""Slurm's queue and accounting: the questions about jobs of ours, and the parsers of their answers.

Tried on Slurm 20.11.4, 22.05.8, 24.11.5 and 26.05.5; the formats are the same.
"""

from __future__ import annotations

import re
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


# Accounting that does not exist cannot contradict; one that does not answer could.
_NO_ACCOUNTING = ("accounting storage is disabled", "not running a supported accounting", "not found")


def trace_script(token: str, job_id: str, directory: str) -> str:
    """POSIX shell. squeue says a purged id is invalid, so it is asked for one id at a time; where the receipt has none,
    the job's claim may. sacct looks back from an hour before the run directory was made, by the cluster's own clock
    (without --starttime: since midnight), by name, and by id where that finds nothing. Where there is no accounting,
    there may be a list of completed jobs, which knows no such filters."""
    known = int(job_id) if job_id else ""
    return f"""\
id={known}
[ -n "$id" ] || id=$(readlink {directory}/claim) || id=
case $id in *[!0-9]*) id= ;; esac
echo "id $id"
if [ -n "$id" ]; then
  squeue --noheader --states=all --jobs="$id" -o 'job|%i|%T|%U|%Z|%j' 2>&1; echo "squeue $?"
fi
echo "user $(id -u)"
made=$(stat -c %Y {directory}/manifest.json 2>/dev/null) &&
  since=$(date -d "@$((made - 3600))" +%Y-%m-%dT%H:%M:%S 2>/dev/null) || since=now-7days
ask() {{
  sacct --noheader --allocations --parsable2 --starttime="$since" --format=JobIDRaw,State,JobName "$@" 2>&1
}}
said=$(ask --name={token})
status=$?
[ -n "$said" ] || [ -z "$id" ] || said=$(ask --jobs="$id") || status=$?
printf '%s\n' "$said"
case $said in *"CANCELLED by "[0-9]*)
  by=${{said#*CANCELLED by }}; by=${{by%%[!0-9]*}}; echo "by $(id -un "$by" 2>/dev/null) $by" ;;
esac
if [ ! -L {directory}/claim ] && [ -n "$id" ] && [ "$status" -eq 0 ]; then # it never began
  on=$(ask --jobs="$id" --format=NodeList | head -n 1)
  on=${{on##*|}}
  case $on in '' | None*) ;; *)
    sinfo --noheader -N --nodes="$on" --format='node|%N|%E' 2>/dev/null | grep -i 'prolog\\|launch' | head -n 4 ;;
  esac
fi
case $said in *"{_NO_ACCOUNTING[0]}"* | *"{_NO_ACCOUNTING[1]}"*)
  sacct --completion --noheader --parsable2 --format=JobID,State,JobName 2>/dev/null | grep -F '|{token}' ;;
esac
echo "sacct $status"
"""


def parse_trace(token: str, job_id: str, text: str) -> Trace:
    """What `trace_script` found out. Every line is one witness's; whatever is no row of ours is noise."""
    asked = re.search(r"^id (\d+)$", text, re.MULTILINE)
    known = job_id or (asked[1] if asked else "")
    account, state, other = _account(token, known, text)
    by = re.search(r"^by (\S*) (\d+)$", text, re.MULTILINE)
    nodes = dict.fromkeys(re.findall(r"^node\|([\w.-]+)\|([^|\n]{1,80})$", text, re.MULTILINE))
    return Trace(
        job_id=known or other,
        queue=_queue(token, known, text) if known else Word.SILENT,
        account=account,
        state=state,
        by=f"{by[1] or 'uid'} ({by[2]})" if by else "",
        failed=", ".join(f"{name}: {reason.strip()}" for name, reason in nodes),
    )


def _queue(token: str, job_id: str, text: str) -> Word:
    """The controller's word on an id. One that was given away belongs to another user, or to a job of another name and
    another place; a job whose name and place were both changed looks the same, so that is not believed alone."""
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
    return Word.SILENT


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
