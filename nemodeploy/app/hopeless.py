"""Whether a job in the queue would wait for ever: by Slurm's reason, and by its figures where that names a limit."""

from __future__ import annotations

import contextlib

from nemodeploy.app.site import Site
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.schedulers.base import QueueRow


class Hopeless:
    """Asks for figures once for each reason."""

    def __init__(self, site: Site) -> None:
        """Nothing was asked yet."""
        self.site = site
        self.reason, self.limits = "", ""

    def why(self, row: QueueRow) -> tuple[str, str] | None:
        """Why it would wait for ever, and what to ask for instead; None: it may start."""
        scheduler = self.site.scheduler
        script = scheduler.limits_script(row.job_id, row.reason)
        if script and self.reason != row.reason:
            with contextlib.suppress(ClusterUnreachable):
                self.limits = self.site.ask({"limits": script})["limits"].text
                self.reason = row.reason
        return scheduler.hopeless(row.reason, self.limits if self.reason == row.reason else "")
