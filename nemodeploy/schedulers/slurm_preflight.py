"""What a Slurm site would say to a job, asked before it is submitted: two cheap questions and `sbatch --test-only`.

Tried on the same Slurms as slurm.py; the fields of `scontrol show partition --oneliner` are the same in all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from nemodeploy.core import sections
from nemodeploy.core.plan import Plan
from nemodeploy.core.rendering import duration
from nemodeploy.core.sections import Section
from nemodeploy.schedulers import slurm_words
from nemodeploy.schedulers.base import Findings
from nemodeploy.schedulers.slurm_gpus import (
    Kind,
    asked_gpus,
    features_of,
    gpus_of,
    is_open,
    is_untold,
    told,
    wrong_type,
)

_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)")
_START = re.compile(r"to start at (\d{4}-\d\d-\d\d)T(\d\d:\d\d)")
# Not an answer to the question: the controller was busy or away.
_NO_ANSWER = (
    *("Socket timed out", "Unable to contact", "connect failure", "Zero Bytes", "send failure", "receive failure"),
    *("connection failure", "uthentication", "munge", "temporarily unavailable", "MaxJobCount"),
)
# A no for the moment: nodes that are down or drained count as none, but a real job would wait for them.
_FOR_NOW = (
    *("node configuration is not available", "partition configuration not available", "not available (down"),
    *("nodes are busy", "accounting/QOS policy", "nodes required for job"),
)


# What a user may name instead, for the advice on a refusal only.
_CHOICES = (
    'timeout 5 sacctmgr --noheader --parsable2 show assoc user="$(id -un)" format=Account,QOS 2>/dev/null |'
    " sed 's/^/nemodeploy-assoc|/'"
)


def parts(plan: Plan, files: Mapping[str, str]) -> Mapping[str, str]:
    """Shell texts for one remote call; the job's own files are tried, from a directory that is gone afterwards. Where
    Slurm says yes, its tables are asked for only if it may grant another type of GPU than the one that is meant."""
    uploads = "".join(sections.here_document(name, text) for name, text in files.items())
    unless_fine = "" if is_open(plan) else '[ "$status_test" != 0 ] || exit 0\n'
    return {
        "test": (
            'd=$(mktemp -d) && cd "$d" || exit 125\n'
            f'{uploads}timeout 60 sh submit.sh "$d" nd-preflight --test-only 2>&1; status=$?\n'
            f'[ "$status" = 0 ] || {_CHOICES}\n'
            'cd /; rm -rf "$d"; exit "$status"'
        ),
        "partitions": f"{unless_fine}timeout 20 scontrol show partition --oneliner 2>&1",
        "nodes": f"{unless_fine}timeout 20 sinfo --noheader --all -o '%R|%D|%G|%f' 2>&1",
    }


def judge(plan: Plan, answers: Mapping[str, Section]) -> Findings:
    """What stands against the job, and what is worth saying; a question without an answer stands against nothing."""
    partitions = partitions_of(answers["partitions"])
    nodes = answers["nodes"].text if answers["nodes"].status == 0 else ""
    test = answers["test"]
    wanted = chosen(plan, partitions)
    kinds = {name: _kinds(name, nodes) for name in wanted}
    others = filter(None, (wrong_type(plan, name, found) for name, found in kinds.items() if found))
    for problem in others:  # a request without a type is granted, whatever there is
        return Findings(problems=(problem,), says="")
    says = _says(plan, wanted, partitions, test)
    if any(is_untold(plan, found) for found in kinds.values()):
        says += f" · Slurm does not say whether its GPUs are {plan.gpu_type}"
    if test.status == 0 and _START.search(test.text):  # Slurm's own yes; a site may allow what its tables do not say
        return Findings(problems=(), says=says)
    against = [list(_against(plan, name, partitions, nodes)) for name in wanted] if partitions else []
    problems = next((found for found in against if found), []) if against and all(against) else []
    said = refusal(test)
    if said and not problems:
        problems = [
            (f"Slurm would refuse the job: {said}", slurm_words.advice_on(said, _choices(plan, partitions, test)))
        ]
    return Findings(problems=tuple(problems), says=says)


def refusal(test: Section) -> str:
    """The words in which Slurm said that it would never take the job; empty: it did not say that."""
    words = slurm_words.refusal_words(test.text)
    if not words or test.status in (0, 124) or any(word in test.text for word in (*_NO_ANSWER, *_FOR_NOW)):
        return ""
    return "; ".join(words)


def _choices(plan: Plan, partitions: Mapping[str, object], test: Section) -> Mapping[str, tuple[str, ...]]:
    """What the site lets this user name, by our key."""
    rows = re.findall(r"^nemodeploy-assoc\|([^|\n]+)\|([^|\n]*)$", test.text, re.MULTILINE)
    accounts = tuple(dict.fromkeys(account for account, _ in rows))
    own = re.findall(r"--account=(\S+)", " ".join(plan.submit_options))[-1:]
    qos = [name for account, names in rows if not own or account in own for name in names.split(",") if name]
    return {"slurm.account": accounts, "slurm.qos": tuple(dict.fromkeys(qos)), "slurm.partition": tuple(partitions)}


def chosen(plan: Plan, partitions: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The partitions that the job names, or the default one."""
    words = list(plan.submit_options)
    for index, word in reversed(list(enumerate(words))):  # the last one counts
        match = re.fullmatch(r"(?:--partition=|-p)(.+)", word)
        if match:
            return tuple(match[1].split(","))
        if word in ("-p", "--partition") and index + 1 < len(words):
            return tuple(words[index + 1].split(","))
    return tuple(name for name, fields in partitions.items() if fields.get("Default") == "YES")


def partitions_of(section: Section) -> dict[str, dict[str, str]]:
    """The fields of `scontrol show partition --oneliner` by partition; a question that failed has none."""
    found = {}
    for line in section.text.splitlines() if section.status == 0 else ():
        fields = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if "PartitionName" in fields:
            found[fields["PartitionName"]] = fields
    return found


def _against(
    plan: Plan, name: str, partitions: Mapping[str, Mapping[str, str]], nodes: str
) -> Iterator[tuple[str, str]]:
    """What one partition has against the job, each with what to write instead."""
    fields = partitions.get(name)
    if fields is None:
        yield f"there is no partition {name}", f"slurm.partition; there is {', '.join(partitions)}"
        return
    if fields.get("State", "UP") != "UP":
        yield f"partition {name} is {fields['State']}", "another slurm.partition, or ask the site"
    longest = seconds_of(fields.get("MaxTime", ""))
    if longest is not None and plan.time_s > longest:
        allowed = duration(longest)
        yield f"partition {name} allows {allowed}, and the job asks for {duration(plan.time_s)}", f"--time {allowed}"
    most = fields.get("MaxNodes", "")
    if most.isdigit() and plan.layout.nodes > int(most):
        yield (
            f"partition {name} allows {most} nodes, and the job asks for {plan.layout.nodes}",
            "another slurm.partition",
        )
    yield from _gpus(plan, name, nodes)


def _kinds(partition: str, nodes: str) -> tuple[Kind, ...]:
    """The nodes with GPUs of a partition; none where Slurm counts none."""
    rows = [line.split("|", 3) for line in nodes.splitlines() if line.count("|") >= 2]
    found = (
        Kind(nodes=int(row[1]), gpus=gpus_of(row[2]), features=features_of("".join(row[3:])))
        for row in rows
        if row[0] == partition and row[1].isdigit()
    )
    return tuple(one for one in found if one.gpus)


def _gpus(plan: Plan, name: str, nodes: str) -> Iterator[tuple[str, str]]:
    """Too few nodes with that many GPUs of the type asked for. Sites that count no GPUs say nothing either way."""
    asked, here = asked_gpus(plan), _kinds(name, nodes)
    if not asked or not plan.layout.gpus_per_node or not here:
        return
    kind = asked["type"] or ""
    enough = sum(one.nodes for one in here if one.count(kind) >= plan.layout.gpus_per_node)
    if enough < plan.layout.nodes:
        what = f"{plan.layout.gpus_per_node} {kind or 'GPU'}{'s' if not kind and plan.layout.gpus_per_node > 1 else ''}"
        yield (
            f"partition {name} has {enough} nodes with {what}, and the job needs {plan.layout.nodes}",
            f"it has {told(here)}",
        )


def seconds_of(text: str) -> int | None:
    """Of one of Slurm's times; None: no limit."""
    match = _TIME.fullmatch(text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def _says(plan: Plan, wanted: tuple[str, ...], partitions: Mapping[str, object], test: Section) -> str:
    nodes = f"{plan.layout.nodes} node{'s' if plan.layout.nodes > 1 else ''}"
    where = f"partition {','.join(wanted)}" if wanted else "the default partition"
    start = _START.search(test.text) if test.status == 0 else None
    said = [f"{where} allows {nodes} for {duration(plan.time_s)}"] if start or (partitions and wanted) else []
    if start:
        said.append(f"would start at {start[2]} (the cluster's clock)")
    soon = next((word for word in _FOR_NOW if word in test.text), "")
    if soon:
        said.append(f"Slurm says for now: {soon}")
    return " · ".join(said) or "the site did not answer the questions before the queue; going on"
