"""The shell texts that read run directories, live and archived: which files there are, and what is never read.

`root` and directories are shell text, quoted already. A question that fails is not answered with no: where something is
there and cannot be read, the text ends with a status other than 0.
"""

from __future__ import annotations

import re
import shlex

from nemodeploy.core import sections
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.masking import FORGET_SECRETS
from nemodeploy.core.witnesses import Silence
from nemodeploy.values import NAME

ANSWER = "current/probe.body"  # the last: it may hold anything
FILES = (
    *("manifest.json", "submit/sbatch.rc", "submit/sbatch.out", "submit/sbatch.err", "lease", "revoked"),
    *("current/health.json", "current/endpoint.json", "current/exit.json", "final.json", ANSWER),
)
CAP_BYTES = 65536
_MARKS = '"$one"/submit/go "$one"/submit/withheld "$one"/revoked "$one"/secrets.env'
# Shell text: `now` becomes the time by the clock of the file system at hand, which stamps the files; where nothing can
# be written there, by this host's.
SHOW_MARK = '[ ! -e "$mark" ] || printf \'%s\\n\' "$mark"'
FILE_SYSTEM_TIME = "now=$(touch now.$$ 2>/dev/null && stat -c %Y now.$$ || date +%s); rm -f now.$$"


def revoke_script(directory: str, reason: str) -> str:
    """Shell text: the mark that a token was taken back, with why as its content; the first reason is kept."""
    return f"(set -C; printf '%s\\n' {shlex.quote(wash_line(reason))} >{directory}/revoked) 2>/dev/null"


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


def put_away_script(root: str, directory: str, final: str) -> str:
    """POSIX shell: move the run directory of a verified-ended token to the archive, without its secrets, and with the
    scheduler's last word on it (`final.json`; the first one that was kept stays)."""
    keep = f"[ -e final.json ] || {{\n{sections.here_document('final.json', final)}}}" if final else ":"
    return f"""\
{{ umask 077; cd {directory} && {{
{FORGET_SECRETS}
{keep}
}}; cd / && mkdir -p {root}/archive &&
touch -c {directory} && mv {directory} {root}/archive/ # its age counts from here
}} 2>/dev/null; exit 0
"""


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


def names_script(root: str) -> str:
    """POSIX shell: every name that has or had a deployment, a line each, of the live ones and of those archived."""
    return f"""\
cd {root}/deployments 2>/dev/null && ls
cd {root}/archive 2>/dev/null && ls | sed -n 's/^nd-\\(.*\\)-[0-9a-z]\\{{26\\}}$/\\1/p' | sort -u
exit 0
"""


def parse_names(text: str) -> tuple[str, ...]:
    """What `names_script` printed."""
    return tuple(line for line in text.splitlines() if NAME.fullmatch(line))


def parse_count(text: str) -> int:
    """How many archived tokens there are in all, of those that `archive_script` was asked for."""
    found = re.search(r"^(\d{1,9})$", text.partition("\n==> ")[0], re.MULTILINE)
    return int(found[1]) if found else 0
