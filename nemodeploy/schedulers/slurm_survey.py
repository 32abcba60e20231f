"""Everything Slurm says about itself that a deployment depends on, in one remote call of cheap questions.

The fields are the same from 20.11 to 26.05. Source: the man pages of scontrol, sinfo, sacctmgr.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from nemodeploy.core.checks import Check, failed, ok, unanswered, warning
from nemodeploy.core.plan import Plan
from nemodeploy.core.rendering import duration
from nemodeploy.core.sections import Section
from nemodeploy.schedulers.node_states import Use, use_of, words_of
from nemodeploy.schedulers.slurm_gpus import Kind, asked_gpus, features_of, gpus_of, is_untold, told, wrong_type
from nemodeploy.schedulers.slurm_preflight import chosen, partitions_of, seconds_of
from nemodeploy.schedulers.survey import NodeKind, Partition, Survey

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
OLDEST = (20, 11)
SHORT_MEMORY_S = 60
_SETTINGS = "MinJobAge|AccountingStorageType|AccountingStorageHost|AccountingStorageEnforce|ClusterName|SelectType"

# A question to a controller that is away takes ten seconds; once one has failed the others are not put. `$$` is the
# same in all parts.
_MARK = '"${TMPDIR:-/tmp}/nemodeploy-$$.down"'
_UNLESS = f"[ ! -e {_MARK} ] || exit 1\n"


def parts() -> Mapping[str, str]:
    """Shell texts for one remote call, in this order."""
    asked = {
        "partitions": "timeout 20 scontrol show partition --oneliner 2>&1",
        "nodes": "timeout 20 sinfo --noheader --all -o '%R|%D|%G|%T|%c|%m|%f' 2>&1",
        "reasons": "timeout 20 sinfo --noheader --list-reasons -o '%N|%E' 2>&1",
        "settings": f"timeout 20 scontrol show config 2>&1 | grep -E '^({_SETTINGS}) '",
        "accounts": (
            'timeout 20 sacctmgr --noheader --parsable2 show user "$(id -un)" withassoc '
            "format=Account,QOS,Cluster,DefaultAccount 2>/dev/null"
        ),
        "accounting": "timeout 10 sacct --noheader -X --starttime=now 2>&1 >/dev/null",
    }
    return {
        "slurm.programs": f"for p in {' '.join(PROGRAMS)}; do command -v $p >/dev/null 2>&1 || echo $p; done",
        "slurm.version": "sinfo --version 2>&1",
        "slurm.ping": f"timeout 20 scontrol ping 2>&1; s=$?; [ $s = 0 ] || : >{_MARK}; exit $s",
        **{f"slurm.{name}": _UNLESS + text for name, text in asked.items()},
        "slurm.end": f"rm -f {_MARK}",
    }


def parse(answers: Mapping[str, Section]) -> Survey:
    """What the answers say together; a question that failed leaves its part empty."""
    version = re.search(r"(\d+)\.(\d+)[\w.-]*", answers["slurm.version"].text)
    ping = answers["slurm.ping"]
    accounts = answers["slurm.accounts"]
    settings = {
        key.strip(): value.strip()
        for key, _, value in (line.partition("=") for line in answers["slurm.settings"].text.splitlines())
        if value
    }
    return Survey(
        version=version[0] if version else "",
        missing=tuple(answers["slurm.programs"].text.split()),
        problem=_last(ping.text) if ping.status or _all_down(ping.text) else "",
        partitions=_partitions(answers["slurm.partitions"]),
        nodes=tuple(_nodes(answers["slurm.nodes"])),
        reasons=dict(_pairs(answers["slurm.reasons"])),
        accounts=_accounts(accounts.text, settings.get("ClusterName", "")) if accounts.status == 0 else None,
        accounting=answers["slurm.accounting"].status == 0,
        settings=settings,
    )


def _accounts(text: str, cluster: str) -> dict[str, tuple[str, ...]] | None:
    """The accounts of this user on this cluster, each with its QOS, the default one first; None: there are none.

    One slurmdbd may know several clusters, whose names it keeps in small letters.
    """
    found: dict[str, tuple[str, ...]] = {}
    default = ""
    for line in text.splitlines():
        account, qos, where, first = [*line.split("|"), "", "", ""][:4]
        if "|" not in line or not account or (where and cluster and where.lower() != cluster.lower()):
            continue
        found[account] = tuple(dict.fromkeys((*found.get(account, ()), *filter(None, qos.split(",")))))
        default = first or default
    return {name: found[name] for name in sorted(found, key=lambda name: name != default)} or None


def _all_down(text: str) -> bool:
    lines = [line for line in text.splitlines() if "Slurmctld" in line]
    return bool(lines) and all(" is DOWN" in line for line in lines)


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip("* ") and "RESTORE SLURMCTLD" not in line]
    return lines[-1].strip() if lines else "no answer"


def _partitions(section: Section) -> dict[str, Partition]:
    found = {}
    for name, fields in partitions_of(section).items():
        most = fields.get("MaxNodes", "")
        found[name] = Partition(
            name=name,
            is_default=fields.get("Default") == "YES",
            state=fields.get("State", "UP"),
            longest_s=seconds_of(fields.get("MaxTime", "")),
            most_nodes=int(most) if most.isdigit() else None,
            fields=fields,
        )
    return found


def _nodes(section: Section) -> Iterator[NodeKind]:
    for line in section.text.splitlines() if section.status == 0 else ():
        row = line.split("|")
        if len(row) == 7 and row[1].isdigit():
            yield NodeKind(
                partition=row[0],
                nodes=int(row[1]),
                gpus=gpus_of(row[2]),
                state=row[3],
                cpus=int(re.sub(r"\D.*", "", row[4]) or 0),
                memory_mb=int(re.sub(r"\D.*", "", row[5]) or 0),
                features=features_of(row[6]),
            )


def _pairs(section: Section) -> Iterator[tuple[str, str]]:
    for line in section.text.splitlines() if section.status == 0 else ():
        name, mark, reason = line.partition("|")
        if mark:
            yield name, reason


def judge(survey: Survey, plan: Plan | None, partition: str) -> Iterator[Check]:
    """What keeps a job of a partition from being taken, whichever it is; with a plan, this one."""
    if survey.missing:
        says = f"{', '.join(survey.missing)} not found on the login host"
        yield failed("slurm", says, "log in to a host with Slurm's commands, or put them on the PATH of ~/.bashrc")
        return
    if survey.problem:
        yield failed(
            "slurm", f"the controller does not answer: {survey.problem}", "ask the site; nothing can be submitted"
        )
        return
    yield _version(survey)
    yield from _memory(survey)
    names = chosen(plan, {name: one.fields for name, one in survey.partitions.items()}) if plan else ()
    own = partition or survey.default_partition
    for name in names or filter(None, (own,)):
        yield from _partition(survey, name, plan)
    if not names and not own and survey.partitions:
        there = ", ".join(survey.partitions)
        yield failed(
            "partition", "none is the default, and the cluster file names none", f"slurm.partition: one of {there}"
        )
    yield from _account(survey, plan)


def _version(survey: Survey) -> Check:
    numbers = tuple(int(part) for part in re.findall(r"\d+", survey.version)[:2])
    if not numbers:
        return unanswered("slurm", "it does not say its version")
    if numbers < OLDEST:
        oldest = ".".join(f"{part:02}" for part in OLDEST)
        return failed("slurm", f"version {survey.version} is older than {oldest}", "ask the site for a newer one")
    return ok("slurm", f"{survey.version}, and its controller answers")


def _memory(survey: Survey) -> Iterator[Check]:
    age = re.match(r"\d+", survey.settings.get("MinJobAge", ""))
    kept = f"for {age[0]} s" if age else "for some time"
    if survey.accounting:
        yield ok("accounting", "sacct knows what has ended")
    elif survey.settings.get("AccountingStorageType", "").endswith("slurmdbd"):
        where = survey.settings.get("AccountingStorageHost", "")
        yield warning(
            "accounting",
            f"the site has accounting, and sacct does not answer; Slurm itself remembers what has ended {kept}",
            f"ask the site whether slurmdbd runs{f' on {where}' if where else ''}; until then an end that nobody sees "
            "in time may stay unproven",
        )
    elif age and 0 < int(age[0]) < SHORT_MEMORY_S:
        yield warning(
            "accounting",
            f"the site has no accounting, and Slurm forgets what has ended after {age[0]} s",
            "an end that nobody sees in time is told by the job's own files only; ask for accounting",
        )
    else:
        yield ok("accounting", f"the site has none; Slurm itself remembers what has ended {kept}")


def _partition(survey: Survey, name: str, plan: Plan | None) -> Iterator[Check]:
    one = survey.partitions.get(name)
    if one is None:
        there = ", ".join(survey.partitions) or "none"
        yield failed("partition", f"there is no partition {name}", f"slurm.partition: one of {there}")
        return
    if one.state != "UP":
        yield failed("partition", f"{name} is {one.state}", "another slurm.partition, or ask the site")
        return
    if plan and one.longest_s is not None and plan.time_s > one.longest_s:
        allowed = duration(one.longest_s)
        yield failed(
            "time", f"{name} allows {allowed}, and the job asks for {duration(plan.time_s)}", f"--time {allowed}"
        )
    elif plan:
        longest = "no limit" if one.longest_s is None else duration(one.longest_s)
        yield ok("time", f"{duration(plan.time_s)} of {longest} in {name}")
    if plan and one.most_nodes is not None and plan.layout.nodes > one.most_nodes:
        yield failed(
            "nodes",
            f"{name} allows {one.most_nodes} nodes, and the job needs {plan.layout.nodes}",
            "another slurm.partition",
        )
        return
    yield from _up(survey, name, plan)
    yield from _gpus(survey, name, plan)


def _up(survey: Survey, name: str, plan: Plan | None) -> Iterator[Check]:
    kinds = survey.of(name)
    total, up = sum(one.nodes for one in kinds), sum(one.nodes for one in kinds if one.is_up)
    wanted = plan.layout.nodes if plan else 1
    away = [f"{one.nodes} {words_of(one.state)}" for one in kinds if use_of(one.state) is not Use.NOW]
    reasons = [f"{nodes}: {reason}" for nodes, reason in survey.reasons.items()]
    why = "; ".join((*away[:3], *reasons[:3]))
    later = f" ({'; '.join(away[:3])})" if away else ""
    if total and up < wanted:
        says = f"{up} of the {total} nodes of {name} are up, and the job needs {wanted}{f' ({why})' if why else ''}"
        yield failed("nodes", says, "ask the site when they are back, or another slurm.partition")
    elif up < total:
        yield warning(
            "nodes", f"{up} of the {total} nodes of {name} are up{f' ({why})' if why else ''}", "the queue is longer"
        )
    elif total:
        yield ok("nodes", f"all {total} of {name} are up{later}")


def _gpus(survey: Survey, name: str, plan: Plan | None) -> Iterator[Check]:
    kinds = survey.of(name)
    if plan is None or not plan.layout.gpus:
        return
    if not any(one.gpus for one in kinds):
        yield warning(
            "gpus", f"Slurm counts no GPUs in {name}", "gpus: {TYPE: {request: --constraint=…}} asks for them"
        )
        return
    alike = tuple(Kind(nodes=one.nodes, gpus=one.gpus, features=one.features) for one in kinds if one.gpus)
    wrong = wrong_type(plan, name, alike)
    if wrong:
        yield failed("gpus", *wrong)
        return
    asked = asked_gpus(plan)
    kind = (asked["type"] or "") if asked else ""
    needed = plan.layout.gpus_per_node
    enough = sum(one.nodes for one in alike if one.count(kind) >= needed)
    what = f"{needed} {kind or 'GPU'}{'s' if needed > 1 else ''}"
    if enough < plan.layout.nodes:
        there = told(alike)
        says = f"{name} has {enough} nodes with {what}, and the job needs {plan.layout.nodes}; it has {there}"
        yield failed("gpus", says, f"gpus: in the cluster file, or another profile; there is {there}")
    elif is_untold(plan, alike):
        says = f"{enough} nodes of {name} have {what}, and Slurm does not say whether they are {plan.gpu_type}"
        yield warning(
            "gpus", says, f'gpus: {{{plan.gpu_type}: {{request: "--gpus-per-node=8"}}}} in the cluster file says so'
        )
    else:
        yield ok("gpus", f"{enough} nodes of {name} have {what}")


def _account(survey: Survey, plan: Plan | None) -> Iterator[Check]:
    enforced = "assoc" in survey.settings.get("AccountingStorageEnforce", "").lower()
    words = dict(re.findall(r"--(account|qos)=(\S+)", " ".join(plan.submit_options))) if plan else {}
    account, qos = words.get("account", ""), words.get("qos", "")
    if survey.accounts is None:
        if enforced:
            yield unanswered("account", "sacctmgr does not say which accounts are yours")
        return
    there = ", ".join(survey.accounts)
    if account and account not in survey.accounts:
        yield failed("account", f"{account} is not one of yours", f"slurm.account: one of {there}")
        return
    yield ok("account", f"{account or 'your default one'}; yours are {there}")
    qoses = survey.accounts.get(account) or tuple({one for all_ in survey.accounts.values() for one in all_})
    if qos and qos not in qoses:
        yield failed("qos", f"{qos} is not one of yours", f"slurm.qos: one of {', '.join(sorted(qoses))}")
