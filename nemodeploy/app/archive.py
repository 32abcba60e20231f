"""What has ended and was put away: the newest runs of all names, of one name, or one token."""

from __future__ import annotations

from dataclasses import dataclass

from nemodeploy.app.look import row_of
from nemodeploy.app.site import Site
from nemodeploy.core import observation, run_directory
from nemodeploy.core.masking import hide_in
from nemodeploy.core.readiness import Seen
from nemodeploy.values import Token

MOST = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Archived:
    """The newest of them, the latest last, of how many in all."""

    found: tuple[Seen, ...]
    of: int


def archived(site: Site, *, of: Token | str = "", within_s: float | None = None, most: int = MOST) -> Archived:
    """The newest of those that were archived, so lately if at all; of one token, of one name, or of all. The host picks
    them. Raises ClusterUnreachable where that cannot be told."""
    pattern = str(of) if isinstance(of, Token) else f"nd-{of or '*'}-{'?' * 26}"
    minutes = None if within_s is None else max(1, round(within_s / 60))
    answer = site.ask({"archive": run_directory.archive_script(site.root, pattern, minutes=minutes, most=most)})[
        "archive"
    ]
    site.base(answer)
    directories = sorted(observation.parse_list(answer.text), key=lambda one: one.token.text.rpartition("-")[2])
    found = (
        Seen(
            told_by=site.scheduler.called,
            directory=hide_in(one, site.hidden),
            answered=True,
            row=row_of(one.final),
            job_id=one.final.job_id if one.final else site.scheduler.parse_job_id(one.submit_out),
            refused=site.was_refused(one),
            gone=True,
        )
        for one in directories
    )
    return Archived(found=tuple(found), of=run_directory.parse_count(answer.text))
