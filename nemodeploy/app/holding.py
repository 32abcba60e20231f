"""What a command has held, as it saw it: so that a report can say it however the command ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Held:
    """`job_id`: empty while it is not known. `since`: when its nodes were first seen to be held, by the client's clock;
    None: they never were."""

    job_id: str = ""
    since: float | None = None

    def note(self, job_id: str, started: float | None) -> None:
        """After a look: the job, and when its start-up began; what was seen first stays."""
        self.job_id = job_id or self.job_id
        self.since = started if self.since is None else self.since

    def seconds(self, now: float) -> float:
        """For how long it has been holding something."""
        return 0.0 if self.since is None else max(now - self.since, 0.0)
