"""Whether a job that waits for a limit of many jobs exceeds it alone, by the controller's own figures.

`scontrol show assoc_mgr` gives each limit as `gres/gpu=8(16)`: the limit, and what is used; N is no limit. Tried on
Slurm 22.05; the fields are the same in 20.11 and 26.05.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nemodeploy.schedulers.reasons import Heals, Limit, heals, instead_of, limit_of, meaning_of
from nemodeploy.schedulers.slurm_preflight import seconds_of

PARENTS = 6
SOON_DAYS = 1.0  # a budget that heals within a day is worth the wait
_FIELDS = {"": "GrpTRES", "User": "MaxTRESPU", "Account": "MaxTRESPA"}
_FIGURE = re.compile(r"([A-Za-z][\w/:.-]*)=(\d+(?:\.\d+)?)\((\d+(?:\.\d+)?)\)")


def script(job_id: str, reason: str) -> str:
    """POSIX shell: the job's own size, and the figures of its QOS and account with all its parents. Empty: the reason
    needs none."""
    if heals(reason) is not Heals.PERHAPS or not job_id.isdigit():
        return ""
    return f"""\
job=$(timeout 20 scontrol show job --oneliner {job_id} 2>/dev/null) || exit 1
printf 'job %s\n' "$job"
field() {{ printf ' %s\n' "$job" | sed -n "s/.* $1=\\([^ ]*\\).*/\\1/p"; }}
timeout 20 scontrol show config 2>/dev/null |
  sed -n 's/^\\(PriorityDecayHalfLife\\|PriorityUsageResetPeriod\\|AccountingStorageEnforce\\) *= */set \\1 /p'
qos=$(timeout 20 scontrol show partition --oneliner "$(field Partition)" 2>/dev/null |
  sed -n 's/.* QoS=\\([^ ]*\\).*/\\1/p')
for name in "$(field QOS)" "$qos"; do
  case $name in ''|N/A) ;; *) echo "record QOS"
    timeout 20 scontrol show assoc_mgr flags=qos qos="$name" 2>/dev/null | grep -e '^QOS=' -e 'TRES' -e 'GrpWall' ;;
  esac
done
account=$(field Account) left={PARENTS}
while [ -n "$account" ] && [ "$left" -gt 0 ]; do
  echo "record Assoc"
  said=$(timeout 20 scontrol show assoc_mgr flags=assoc accounts="$account" users="$(id -un)" 2>/dev/null |
    grep -e '^ClusterName=' -e 'ParentAccount=' -e 'Grp')
  printf '%s\n' "$said"
  account=$(printf '%s\n' "$said" | grep -A9 "Account=$account UserName= " |
    sed -n 's/.*ParentAccount=\\([^( ]*\\).*/\\1/p' | head -n 1)
  left=$((left - 1))
done
"""


def hopeless(reason: str, text: str) -> tuple[str, str] | None:
    """Why a job that waits for this reason will never start, and what to ask for instead; None: it may start.

    `text` is what `script` printed; without figures no job is hopeless.
    """
    limit = limit_of(reason)
    if heals(reason) is Heals.NEVER:
        return f"{reason}: {meaning_of(reason)}", instead_of(reason)
    said = _exceeded(limit, text) if limit and heals(reason) is Heals.PERHAPS else ""
    return (f"{reason}: {said}", instead_of(reason)) if said else None


def _exceeded(limit: Limit, text: str) -> str:
    """The figures that the job alone exceeds; empty: none, or they are not known."""
    size = _size(text)
    qos, assoc = _records(text, "QOS"), _records(text, "Assoc")
    if not size:
        return ""
    if limit.of == "QOS":
        # A limit of the partition's QOS takes the place of the job's, or the other way round: both must be exceeded.
        judged = [found for found in (_against(limit, record, size, text) for record in qos) if found]
        over = bool(judged) and all(any(one.exceeded for one in found) for found in judged)
        said = [one for found in judged for one in found if one.exceeded]
    else:  # what a QOS limits is not looked up in the account
        taken = {one.name for record in qos for one in _against(limit, record, size, text)}
        said = [one for record in assoc for one in _against(limit, record, size, text) if one.exceeded]
        said = [one for one in said if one.name not in taken]
        over = bool(said)
    return said[0].words if over else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Figure:
    """One limit against the job: whether the job alone exceeds it, and both figures in words."""

    name: str
    exceeded: bool
    words: str


def _against(limit: Limit, record: str, size: Mapping[str, float], text: str) -> list[_Figure]:
    """The figures of a record for what the limit counts."""
    return [
        _compare(limit, name, most, used, size, text)
        for name, most, used in _figures(limit, record)
        if name in size and (limit.resource and name.startswith(limit.resource))
    ]


def _compare(limit: Limit, name: str, most: float, used: float, size: Mapping[str, float], text: str) -> _Figure:
    minutes = size["wall"]
    if limit.unit == "Run":
        own = size[name] * minutes
        return _Figure(
            name=name, exceeded=own > most, words=f"{own:.0f} minutes of {name} are asked for, and {most:.0f} allowed"
        )
    if limit.unit or limit.resource == "wall":
        # Slurm lets a job begin that may outlast a budget, unless the site says `safe`.
        safe = "safe" in _setting(text, "AccountingStorageEnforce")
        own = (minutes if name == "wall" else size[name] * minutes) if safe else 0.0
        spent = used >= most if not own else used + own > most
        words = f"{used:.0f} of {most:.0f} minutes of {name} are spent"
        return _Figure(name=name, exceeded=spent and not _heals_soon(most - own, used, text), words=words)
    words = f"{size[name]:.0f} {name} are asked for, and {most:.0f} allowed"
    return _Figure(name=name, exceeded=size[name] > most, words=words)


def _heals_soon(left: float, used: float, text: str) -> bool:
    """Whether what is spent will be forgotten within a day: by the site's half-life, or by its reset."""
    if _setting(text, "PriorityUsageResetPeriod").upper() in ("NOW", "DAILY"):
        return True
    half_life_s = seconds_of(_setting(text, "PriorityDecayHalfLife"))
    if not half_life_s or left <= 0:
        return False
    return half_life_s / 86400 * math.log2(max(used / left, 1.0)) < SOON_DAYS


def _setting(text: str, key: str) -> str:
    found = re.search(rf"^set {key} (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _size(text: str) -> dict[str, float]:
    """What the job asks for: its resources by Slurm's names, memory in MB, and `wall` in minutes."""
    job = re.search(r"^job (.*)$", text, re.MULTILINE)
    tres = re.search(r" (?:Req)?TRES=(\S+)", job[1]) if job else None
    time = re.search(r" TimeLimit=(\S+)", job[1]) if job else None
    if not tres or not time:
        return {}
    found = dict(_counts(tres[1]))
    minutes = (seconds_of(time[1]) or 0) / 60
    return {**found, "wall": minutes} if minutes else {}


def _counts(text: str) -> Iterator[tuple[str, float]]:
    units = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}
    for name, number, unit in re.findall(r"([A-Za-z][\w/:.-]*)=(\d+(?:\.\d+)?)([KMGTP]?)", text):
        yield name, float(number) * (units[unit] if name == "mem" else 1.0)


def _records(text: str, kind: str) -> list[str]:
    """Of QOS, or of accounts; an account's limits for another partition are left out."""
    parts = re.split(r"^record (QOS|Assoc)$", text, flags=re.MULTILINE)
    found = [body for of, body in zip(parts[1::2], parts[2::2], strict=True) if of == kind]
    if kind == "QOS":
        return found
    own = re.search(r"^job .* Partition=(\S+)", text, re.MULTILINE)
    single = [one for body in found for one in re.split(r"^(?=ClusterName=)", body, flags=re.MULTILINE)]
    return [one for one in single if re.search(rf" Partition=({re.escape(own[1]) if own else ''})? ", one)]


def _figures(limit: Limit, record: str) -> Iterator[tuple[str, float, float]]:
    """Name, limit and use of all that a record limits in this way."""
    if limit.resource == "wall":
        for most, used in re.findall(r"\bGrpWall=(\d+(?:\.\d+)?)\((\d+(?:\.\d+)?)\)", record):
            yield "wall", float(most), float(used)
        return
    ending = {"Minutes": "Mins", "Run": "RunMins"}.get(limit.unit, "")
    field = "GrpTRES" + ending if not limit.per else _FIELDS[limit.per] if not ending else _per(limit)
    for line in re.findall(rf"\b{field}=(\S+)", record):
        for name, most, used in _FIGURE.findall(line):
            yield name, float(most), float(used)


def _per(limit: Limit) -> str:
    return "MaxTRESRunMinsPU" if limit.per == "User" else "MaxTRESRunMinsPA"
