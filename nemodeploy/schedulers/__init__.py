"""Pure: one module a scheduler, one line here."""

from collections.abc import Mapping

from nemodeploy.schedulers.base import Scheduler
from nemodeploy.schedulers.none import PlainHost
from nemodeploy.schedulers.slurm import Slurm

SCHEDULERS: Mapping[str, Scheduler] = {"none": PlainHost(), "slurm": Slurm()}
