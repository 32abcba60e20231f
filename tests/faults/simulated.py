"""A cluster in memory: Slurm, which may apply a request late, the run directories, and what a job's supervisor does.

`SimulatedSite` takes the place of `Site`; tests/contract/test_site.py runs the same cases against both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nemodeploy.app.look import Look
from nemodeploy.app.site import Site, Taking
from nemodeploy.app.targets import Target
from nemodeploy.core.observation import Exit, Health, RunDirectory
from nemodeploy.core.plan import Plan
from nemodeploy.core.readiness import Seen
from nemodeploy.core.remains import Remains
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster
from nemodeploy.core.submission import Receipt
from nemodeploy.core.witnesses import Silence, Trace, Word
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.schedulers.base import Findings, QueueRow
from nemodeploy.schedulers.slurm import Slurm
from nemodeploy.values import Endpoint, Epoch, Token

START_S, LOAD_S, PURGE_S, LATE_S = 1.0, 3.0, 300.0, 40.0
LOST = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
DOWN = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"


@dataclass
class Job:
    """What slurmctld and the node know of one job."""

    job_id: str
    token: str
    state: str = "PENDING"
    restart: int = 0
    since: float = 0.0
    ended: float = 0.0
    serving: bool = False
    exit: Exit | None = None
    lease_seen: tuple[str, float] = ("", 0.0)
    forgotten: bool = False

    @property
    def alive(self) -> bool:
        return self.state in ("PENDING", "RUNNING")


@dataclass
class Directory:
    """A run directory."""

    manifest: Mapping[str, Any]
    ttl_s: int | None = None
    lease: str = ""
    go: bool = False
    withheld: bool = False
    revoked: bool = False
    claim: str = ""
    receipt: Receipt | None = None
    out: str = ""
    job: Job | None = None
    where: str = "deployments"


@dataclass
class World:
    """Everything there is, and a clock that only moves when somebody waits."""

    time: float = 0.0
    controller: bool = True
    blind: bool = False  # squeue answers, and lists nothing
    accounting: bool = True
    no_database: bool = False  # accounting is not down: there is none
    jobs: list[Job] = field(default_factory=list)
    directories: dict[str, Directory] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    late: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)
    next_id: int = 100

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        end = self.time + max(seconds, 0.0)
        while self.time < end:
            self.time = min(end, self.time + 1.0)
            self.tick()

    def tick(self) -> None:
        """Late requests are applied, jobs start, load, serve, and end themselves."""
        for due in [one for one in self.late if one[0] <= self.time]:
            self.late.remove(due)
            due[1]()
        for job in self.jobs:
            if job.state == "PENDING" and self.controller and self.time - job.since >= START_S:
                if not any(other.state == "RUNNING" and other.token == job.token for other in self.jobs):  # singleton
                    self._begin(job)
            elif job.state == "RUNNING":
                self._run(job)
            elif job.ended and self.time - job.ended > PURGE_S:
                job.forgotten = True

    def _begin(self, job: Job) -> None:
        directory = self.directories.get(job.token)
        job.state, job.since, job.serving, job.exit = "RUNNING", self.time, False, None
        if directory is None or directory.where == "archive" or directory.revoked:
            return self.end(job, "COMPLETED")
        directory.claim = directory.claim or job.job_id
        if directory.claim != job.job_id:
            return self.end(job, "COMPLETED")
        directory.job = job
        job.lease_seen = (directory.lease, self.time)
        return None

    def _run(self, job: Job) -> None:
        directory = self.directories[job.token]
        if directory.revoked:
            return self.end(job, "COMPLETED", "revoked")
        if directory.lease != job.lease_seen[0]:
            job.lease_seen = (directory.lease, self.time)
        if directory.ttl_s is not None and self.time - job.lease_seen[1] > directory.ttl_s:
            return self.end(job, "COMPLETED", "lease_expired")
        job.serving = self.time - job.since >= LOAD_S
        return None

    def end(self, job: Job, state: str, cause: str = "") -> None:
        job.state, job.ended, job.serving = state, self.time, False
        if cause:
            epoch = Epoch(job.job_id, job.restart)
            job.exit = Exit(epoch=epoch, cause=cause, rank=None, rank_status=None, status=0, port=None, elapsed_s=0)

    def sbatch(self, token: str) -> str:
        job = Job(str(self.next_id), token, since=self.time)
        self.next_id += 1
        self.jobs.append(job)
        self.submitted.append(token)
        return job.job_id

    def of(self, token: object) -> list[Job]:
        return [job for job in self.jobs if job.token == str(token)]


class SimulatedTransport:
    """A connection that opens."""

    def __init__(self, site: SimulatedSite) -> None:
        self.site = site

    def open(self) -> None:
        self.site.happen("open", lambda: None)

    def close(self) -> None:
        pass


class SimulatedSite(Site):
    """Every question and every deed of `Site`, on a world in memory. `fault(what)` may break any of them."""

    def __init__(self, cluster: Cluster, world: World, fault: Callable[[str], str] = lambda what: "") -> None:
        self.cluster, self.world, self.fault = cluster, world, fault
        self.scheduler = Slurm()
        self.count = 0
        self.transport = SimulatedTransport(self)  # type: ignore[assignment]

    def happen(self, what: str, deed: Callable[[], Any]) -> Any:
        """A remote call: done; or cut before, after, or in doubt and then done late."""
        self.world.tick()
        fault = self.fault(what)
        if fault == "after":
            deed()
        elif fault == "late":
            self.world.late.append((self.world.time + LATE_S, deed))
        if fault in ("before", "after", "late"):
            raise ClusterUnreachable(f"the connection broke ({what})")
        return deed()

    # -- questions -----------------------------------------------------------------------------------------------

    def look(self, *, controller: bool = True, name: str = "") -> Look:
        return self.happen("look", lambda: self._look(controller, name))  # type: ignore[no-any-return]

    def _look(self, controller: bool, name: str) -> Look:
        rows: dict[str, tuple[QueueRow, ...]] = {}
        answered = self.world.controller if controller else None
        for job in self.world.jobs if answered and not self.world.blind else ():
            if not job.forgotten:
                rows[job.token] = (*rows.get(job.token, ()), self._row(job))
        live = []
        for token in sorted(set(self.world.links.values())):
            directory = self.world.directories.get(token)
            if directory and directory.where == "deployments":
                live.append(self._read(Token(token), directory))
        known = {str(one.token) for one in live}
        strays = [
            token for token, found in rows.items() if token not in known and any(r.kind != "ended" for r in found)
        ]
        live += [RunDirectory(token=Token(stray), submitted=True) for stray in strays]
        return Look(
            answered=answered, rows=rows, directories=tuple(one for one in live if name in ("", one.token.name))
        )

    def _row(self, job: Job) -> QueueRow:
        elapsed = int(self.world.time - job.since) if job.state == "RUNNING" else 0
        return QueueRow(
            job_id=job.job_id,
            restart=job.restart,
            state=job.state,
            reason="None",
            elapsed_s=elapsed,
            left_s=3600,
            start="",
            name=job.token,
            nodes="n1" if job.state == "RUNNING" else "",
        )

    def _read(self, token: Token, directory: Directory) -> RunDirectory:
        found = RunDirectory(
            token=token,
            manifest=directory.manifest,
            submitted=directory.go,
            withheld=directory.withheld,
            submit_status=directory.receipt.status if directory.receipt else None,
            submit_error=directory.receipt.error if directory.receipt else "",
            submit_out=directory.out or (directory.receipt.out if directory.receipt else ""),
            ttl_s=directory.ttl_s,
        )
        job = directory.job
        if job is None:
            return found
        epoch = Epoch(job.job_id, job.restart)
        if job.state == "RUNNING":
            phase, elapsed = "serving" if job.serving else "loading", int(self.world.time - job.since)
            found = replace(
                found,
                health=Health(
                    epoch=epoch, phase=phase, elapsed_s=elapsed, ranks_joined=1, ranks=1, generated=job.serving
                ),
            )
        if job.serving:
            model = str(directory.manifest["plan"]["served"])
            end = Endpoint(host="n1", port=1, protocol="openai", model=model, epoch=epoch, nonce="n")
            found = replace(found, endpoint=end)
        return replace(found, exit=job.exit)

    def trace(
        self, jobs: Mapping[Token, str], quiet: Sequence[Token] = (), *, after_s: float = 0.0
    ) -> Mapping[Token, Trace]:
        def ask() -> dict[Token, Trace]:
            found = {token: Trace() for token in quiet}
            for token, job_id in jobs.items():
                mine = self.world.of(token)
                found[token] = self._trace(mine[-1] if mine else None, job_id)
            return found

        self.world.sleep(after_s)
        return self.happen("trace", ask)  # type: ignore[no-any-return]

    def _trace(self, job: Job | None, job_id: str) -> Trace:
        queue, account = Word.SILENT, Word.MISSING if self.world.no_database else Word.SILENT
        if job_id and self.world.controller:
            listed = job is not None and not job.forgotten
            queue = (Word.ALIVE if job and job.alive else Word.ENDED) if listed else Word.ABSENT
        if self.world.accounting:
            account = Word.ABSENT if job is None else Word.ALIVE if job.alive else Word.ENDED
        state = job.state if job and account in (Word.ALIVE, Word.ENDED) else ""
        silence = Silence(age_s=None if job is None or not job.alive else 0)
        return Trace(
            job_id=job_id or (job.job_id if job and state else ""),
            queue=queue,
            account=account,
            state=state,
            silence=silence,
        )

    def preflight(self, plan: Plan, files: Mapping[str, str], *, unless_taken: bool) -> Findings | None:
        def ask() -> Findings | None:
            taken = self.world.links.get(plan.name) if unless_taken else None
            directory = self.world.directories.get(str(taken))
            return None if directory and directory.where == "deployments" else Findings(problems=(), says="fine")

        return self.happen("preflight", ask)  # type: ignore[no-any-return]

    # -- deeds ---------------------------------------------------------------------------------------------------

    def take(self, token: Token, files: Mapping[str, str], after: Token | None) -> Taking:
        import json

        def deed() -> Taking:
            world = self.world
            if str(token) in world.directories:
                return Taking(problem="the directory is there")
            live = world.links.get(token.name, "")
            while live and f"after.{live}" in world.links:
                live = world.links[f"after.{live}"]
            there = live and live in world.directories and world.directories[live].where == "deployments"
            if there and live != str(after):
                return Taking(held_by=Token(live))
            if live:
                world.links[f"after.{live}"] = str(token)
                if there:
                    world.directories[live].where = "archive"
            world.links[token.name] = str(token)
            lease = files.get("lease", "")
            world.directories[str(token)] = Directory(
                manifest=json.loads(files["manifest.json"]),
                lease=lease,
                ttl_s=int(lease.split()[0]) if lease else None,
            )
            if self.fault("between") == "cut":
                raise ClusterUnreachable("the upload ended before the second part")
            return Taking(receipt=self._submit(token))

        return self.happen("take", deed)  # type: ignore[no-any-return]

    def _submit(self, token: Token) -> Receipt:
        directory = self.world.directories.get(str(token))
        if directory is None or directory.where != "deployments" or str(token) not in self.world.links.values():
            return Receipt(ours=False)
        if not directory.go:
            directory.go = True
            directory.receipt = self._sbatch(token, self.fault("sbatch"))
        return directory.receipt or Receipt()

    def _sbatch(self, token: Token, fault: str) -> Receipt | None:
        if fault == "dies":  # the one-shot, between go and sbatch
            return None
        if not self.world.controller:
            return Receipt(status=1, error=DOWN)
        if fault == "refused":
            return Receipt(status=1, error="sbatch: error: Batch job submission failed: Invalid qos specification")
        if fault == "late":
            self.world.late.append((self.world.time + LATE_S, lambda: void(self.world.sbatch(str(token)))))
            return Receipt(status=1, error=LOST)
        job_id = self.world.sbatch(str(token))
        return Receipt(status=1, error=LOST) if fault == "lost" else Receipt(status=0, out=job_id)

    def receipt(self, token: Token) -> Receipt:
        return self.happen("receipt", lambda: self._submit(token))  # type: ignore[no-any-return]

    def keep_job_id(self, token: Token, job_id: str) -> None:
        def deed() -> None:
            directory = self.world.directories.get(str(token))
            if directory:
                directory.out = job_id

        self.happen("keep", deed)

    def renew(self, token: Token, ttl_s: int | None = None) -> int | None:
        def deed() -> int | None:
            directory = self.world.directories.get(str(token))
            if directory is None or directory.where != "deployments" or (ttl_s is None and directory.ttl_s is None):
                return None
            self.count += 1
            directory.ttl_s = ttl_s if ttl_s is not None else directory.ttl_s
            directory.lease = f"{directory.ttl_s} {self.count} {self.world.time}"
            return directory.ttl_s

        return self.happen("renew", deed)  # type: ignore[no-any-return]

    def drop_lease(self, token: Token) -> None:
        def deed() -> None:
            directory = self.world.directories.get(str(token))
            if directory:
                directory.ttl_s, directory.lease = None, ""

        self.happen("drop", deed)

    def cancel(self, targets: Sequence[Target], *, gently: bool, reason: str = "") -> Section:
        def deed() -> Section:
            for target in targets:
                self._mark(target.token)
            if not self.world.controller:
                return Section(1, "scancel: error: Unable to contact slurm controller (connect failure)")
            for job in (job for target in targets for job in self.world.of(target.token)):
                if job.state == "RUNNING" or (job.state == "PENDING" and not gently):
                    self.world.end(job, "CANCELLED", "cancelled" if job.state == "RUNNING" else "")
            return Section(0, "")

        return self.happen("cancel", deed)  # type: ignore[no-any-return]

    def _mark(self, token: Token) -> None:
        directory = self.world.directories.get(str(token))
        if directory and directory.where == "deployments":
            directory.revoked = True

    def revoke(self, token: Token, reason: str = "") -> None:
        self.happen("revoke", lambda: self._mark(token))

    def withhold(self, token: Token) -> bool:
        def deed() -> bool:
            directory = self.world.directories.setdefault(str(token), Directory(manifest={}))
            if directory.withheld:
                return True
            if directory.go:
                return False
            directory.go = directory.withheld = directory.revoked = True
            return True

        return self.happen("withhold", deed)  # type: ignore[no-any-return]

    def archive(self, ended: Mapping[Token, str]) -> None:
        def deed() -> None:
            for token in ended:
                directory = self.world.directories.get(str(token))
                if directory:
                    directory.where = "archive"

        self.happen("archive", deed)

    def remains(self) -> Remains:
        return Remains()

    def logs_of(self, token: Token, *, tail_bytes: int = 65536) -> Mapping[str, str]:
        return {}

    def see_all(self, look: Look, directories: Sequence[RunDirectory]) -> tuple[Seen, ...]:
        return super().see_all(look, directories)


def void(_: object) -> None:
    """Nothing."""
