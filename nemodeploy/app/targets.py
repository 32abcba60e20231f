"""What is to be taken back, and the words for it: one call for all that the queue has just listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nemodeploy.core.run_directory import revoke_script
from nemodeploy.schedulers.base import Scheduler
from nemodeploy.values import Token


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A submission that is to be taken back: its token; `job_id`: the id under which the queue has just listed its job,
    empty where it lists none; `renamed`: that job has another name by now, so no signal by name reaches it."""

    token: Token
    job_id: str = ""
    renamed: bool = False


def cancel_script(
    scheduler: Scheduler,
    root: str,
    targets: Sequence[Target],
    directory: Callable[[Token], str],
    *,
    gently: bool,
    reason: str,
) -> str:
    """POSIX shell: leave each the mark that keeps a late start from serving, with the reason, then signal the jobs.
    Ends with the last status that was not 0. `root` and directories are shell text."""
    lines = [*(revoke_script(directory(target.token), reason) for target in targets), "worst=0"]
    listed = [target for target in targets if target.job_id and not target.renamed]
    together = scheduler.cancel_listed_script([one.job_id for one in listed], gently=gently)
    if len(listed) > 1 and together:
        lines.append(f"(\n{together}) || worst=$?")
        targets = [target for target in targets if target not in listed]
    for one in targets:
        renamed = one.job_id if one.renamed else ""
        script = scheduler.cancel_script(str(one.token), root, gently=gently, renamed=renamed)
        lines.append(f"(\n{script}) || worst=$?")
    return "\n".join((*lines, "exit $worst"))
