"""The plan (everything decided, nothing done) and the bundle (the files it renders to)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nemodeploy.core.planning import Memory, PlannedLayout
from nemodeploy.core.spec import Prompting, Serving

PLAN_SCHEMA = "nemodeploy/plan@1"
MANIFEST_SCHEMA = "nemodeploy/manifest@1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything decided about one deployment. `port` None: a free one, chosen by the job.

    `cpus_per_task` and `memory_gib_per_node` are asked for where nodes are shared. `unknown` is what only the site can
    tell: questions that `up` asks before it queues.
    """

    name: str
    profile: str
    model: str
    engine: str
    runtime: str
    cluster: str
    scheduler: str
    precision: str
    serving: Serving
    layout: PlannedLayout
    memory: Memory
    port: int | None
    protocol: str
    served: str
    gpu_type: str
    time_s: int
    exclusive: bool
    cpus_per_task: int | None
    memory_gib_per_node: int | None
    requeue: bool
    grace_s: int
    hang_timeout_s: int
    load_estimate_s: int
    startup_budget_s: int
    image: str
    imported: str
    checkpoint: str
    checkpoint_kind: str
    checkpoint_gb: float
    environment: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]
    prolog: tuple[str, ...]
    secrets: tuple[str, ...]
    prompting: Prompting
    endpoint_host: str
    program: tuple[str, ...]
    mounts: tuple[str, ...]
    submit_options: tuple[str, ...]
    notices: tuple[str, ...]
    unknown: tuple[str, ...]
    sources: Mapping[str, str]

    @property
    def warning_s(self) -> int:
        """How long before the time limit the job is told, in seconds; Slurm may be up to 60 s early."""
        return min(max(120, self.grace_s + 60), max(self.time_s // 4, 1))

    def as_json(self) -> dict[str, Any]:
        """The document of `plan --json`."""
        plain = asdict(self)
        plain.pop("prompting")
        plain["environment"] = dict(self.environment)
        plain["ports"] = {"http": plain.pop("port")}
        return {"schema": PLAN_SCHEMA, **plain}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Rendered files by name. Free of token and run directory, so equal plans give equal bytes."""

    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents; says whether two deployments are the same."""
        whole = hashlib.sha256()
        for name in sorted(self.files):
            whole.update(f"{name}\0{len(self.files[name].encode())}\0{self.files[name]}".encode())
        return whole.hexdigest()


def manifest(plan: Plan, bundle: Bundle, **extra: Any) -> str:
    """The manifest's JSON: what was decided, so that any client can read the deployment back; origins left out."""
    decided = asdict(plan)
    decided.pop("sources")
    decided.pop("unknown")
    decided["environment"] = dict(plan.environment)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(bundle.files.items())}
    document = {"schema": MANIFEST_SCHEMA, "digest": bundle.digest, "files": digests, "plan": decided, **extra}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
