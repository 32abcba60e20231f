"""Pure: looks the plugins up and turns a deployment spec into plan and bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from nemodeploy.core import planning, tempo
from nemodeploy.core.decode import Plugins
from nemodeploy.core.diagnosis import Cause
from nemodeploy.core.masking import FORGET_SECRETS
from nemodeploy.core.plan import Bundle, Plan, manifest
from nemodeploy.core.rendering import render
from nemodeploy.core.spec import Cluster, Draft, Hardware, Spec
from nemodeploy.engines import ENGINES, answers
from nemodeploy.engines.base import Engine, Phase, Probe
from nemodeploy.runtimes import RUNTIMES
from nemodeploy.runtimes.base import Runtime
from nemodeploy.schedulers import SCHEDULERS
from nemodeploy.schedulers.base import Scheduler

STARTUP_BASE_S = 300
PROBE_SCRIPT = "probe.sh"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What the templates need to know of engine and runtime."""

    program: tuple[str, ...]
    arguments: tuple[str, ...]
    mounts: tuple[str, ...]
    protocol: str
    joined_pattern: str
    progress_pattern: str
    phases: tuple[Phase, ...]
    cheap: Probe
    ask: Probe
    tempo: Mapping[str, int]
    invisible: str
    stop_signal: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Submit:
    """What the submit script needs to know of the scheduler."""

    words: tuple[str, ...]
    environment: tuple[str, ...]


def plugins() -> Plugins:
    """The names that settings may choose from."""
    return Plugins(
        engines={name: engine.options for name, engine in ENGINES.items()}, runtimes=RUNTIMES, schedulers=SCHEDULERS
    )


def causes(plan: Mapping[str, object], scheduler: str) -> tuple[Cause, ...]:
    """How a deployment's own engine, runtime and scheduler say what went wrong; `plan` is as a manifest keeps it."""
    found = (
        ENGINES.get(str(plan.get("engine"))),
        RUNTIMES.get(str(plan.get("runtime"))),
        SCHEDULERS.get(scheduler),
    )
    return tuple(cause for plugin in found if plugin for cause in plugin.causes)


def assemble(draft: Draft, templates: Mapping[str, str], others: Iterable[Hardware] = ()) -> tuple[Plan, Bundle]:
    """Decide and render. Raises BadInput when it cannot work; `others` is hardware to name when it does not fit."""
    engine, runtime, scheduler = ENGINES[draft.engine], RUNTIMES[draft.runtime], SCHEDULERS[draft.cluster.scheduler]

    def besides(spec: Spec) -> planning.Rules:
        return [*runtime.rules(spec), *scheduler.rules(spec), *_checkpoint(spec), *_program(spec)]

    spec = planning.decide(draft, engine, others, besides)
    values = _values(spec, engine, runtime, scheduler)
    scripts = {
        "nemo_inference.sh": render(templates, engine.template, **values),
        scheduler.script: render(templates, scheduler.script_template, **values),
        "submit.sh": render(templates, scheduler.submit_template, **values),
    }
    return values["plan"], Bundle(files=scripts)


def assemble_probe(draft: Draft, templates: Mapping[str, str], within_s: int) -> Mapping[str, str]:
    """The files of a short job that looks at the nodes a deployment would get; none where there is no scheduler.

    It is dropped when it is not over `within_s` seconds after its submission.
    """
    engine, runtime, scheduler = ENGINES[draft.engine], RUNTIMES[draft.runtime], SCHEDULERS[draft.cluster.scheduler]
    if not scheduler.probe_template:
        return {}
    values = _values(planning.decide(draft, engine), engine, runtime, scheduler)
    return {
        scheduler.script: render(templates, scheduler.probe_template, within_s=within_s, **values),
        PROBE_SCRIPT: render(templates, "common/probe.sh.j2", **values),
        "submit.sh": render(templates, scheduler.submit_template, **values),
    }


def _values(spec: Spec, engine: Engine, runtime: Runtime, scheduler: Scheduler) -> dict[str, Any]:
    """What templates are rendered with."""
    return {
        "plan": _plan(spec, engine, runtime, scheduler),
        "launch": _launch(spec, engine, runtime, scheduler.bind),
        "submit": Submit(words=scheduler.submit_words(spec), environment=scheduler.environment),
        "runtime_template": runtime.template,
        "site": spec.cluster,
        "forget_secrets": FORGET_SECRETS.splitlines(),
    }


def site_text(cluster: Cluster, templates: Mapping[str, str]) -> str:
    """What a site wants before anything is started, as shell text; empty: nothing."""
    return render(templates, "common/site.sh.j2", site=cluster)


def with_manifest(plan: Plan, bundle: Bundle) -> Mapping[str, str]:
    """The files that `render` writes."""
    return {**bundle.files, "manifest.json": manifest(plan, bundle)}


def difference(ours: Mapping[str, object], theirs: Mapping[str, object]) -> tuple[str, ...]:
    """The lines in which two manifests' plans differ: `layout.nodes: 2 here, 1 there`."""
    left, right = _flat(ours), _flat(theirs)
    return tuple(
        f"{key}: {left.get(key, 'nothing')} here, {right.get(key, 'nothing')} there"
        for key in sorted({*left, *right})
        if left.get(key) != right.get(key)
    )


def _flat(value: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(item)
    return found


def _plan(spec: Spec, engine: Engine, runtime: Runtime, scheduler: Scheduler) -> Plan:
    checkpoint = next(one for one in spec.model.checkpoints if one.kind == spec.checkpoint_kind)
    layout = planning.plan_layout(spec, engine)
    load_s = round(checkpoint.size_gb / spec.cluster.storage_gb_per_s)
    shared = None if spec.slurm.exclusive else spec.host
    return Plan(
        name=spec.name,
        profile=spec.profile,
        model=spec.model.name,
        engine=spec.engine,
        runtime=spec.runtime,
        cluster=spec.cluster.name,
        scheduler=scheduler.name,
        precision=spec.precision,
        serving=spec.serving,
        layout=layout,
        memory=planning.plan_memory(spec, engine),
        port=spec.port,
        protocol=engine.protocol,
        served=engine.served_name(spec, runtime.model_path(spec)),
        gpu_type=spec.gpu.type,
        time_s=spec.time_s,
        exclusive=shared is None and spec.slurm.exclusive,
        cpus_per_task=max(shared.cpus // layout.tasks_per_node, 1) if shared else None,
        memory_gib_per_node=ceil(shared.memory_gib) if shared else None,
        requeue=spec.requeue,
        grace_s=spec.grace_s,
        hang_timeout_s=spec.hang_timeout_s,
        load_estimate_s=load_s,
        startup_budget_s=STARTUP_BASE_S + load_s,
        image=spec.image,
        imported=runtime.imported(spec.image),
        checkpoint=spec.checkpoint,
        checkpoint_kind=spec.checkpoint_kind,
        checkpoint_gb=checkpoint.size_gb,
        environment=tuple(sorted(spec.environment.items())),
        modules=spec.cluster.modules,
        prolog=spec.cluster.prolog,
        secrets=spec.secrets,
        prompting=spec.model.prompting,
        endpoint_host=spec.cluster.endpoint_host,
        program=spec.program,
        mounts=spec.mounts,
        submit_options=scheduler.submit_words(spec),
        notices=_notices(spec, engine, runtime, scheduler, STARTUP_BASE_S + load_s),
        unknown=scheduler.unknown(spec),
        sources=_sources(spec),
    )


def _sources(spec: Spec) -> dict[str, str]:
    """Where every value comes from; what nobody said was decided here."""
    decided = ("precision", "nodes", "layout.tensor_parallel", "layout.pipeline_parallel", "serving.max_batch")
    written = {".".join(path): str(origin) for path, origin in spec.origins.items()}
    return dict(sorted({**dict.fromkeys(decided, "decided by nemodeploy"), **written}.items()))


def _exposure(engine: Engine, scheduler: Scheduler) -> str:
    if scheduler.bind == LOOPBACK and not engine.binds_all:
        return ""
    return "the server listens on every interface of its node, without a password"


def _notices(spec: Spec, engine: Engine, runtime: Runtime, scheduler: Scheduler, startup_s: int) -> tuple[str, ...]:
    said = (spec.cluster.notice, _exposure(engine, scheduler), engine.notice, runtime.notice, _gated(spec))
    return tuple(filter(None, (*said, *_doubts(spec, startup_s))))


def _doubts(spec: Spec, startup_s: int) -> Iterator[str]:
    """What is legal, and rarely meant."""
    if spec.time_s < startup_s:
        yield f"the time limit is shorter than the start-up may take: {startup_s} s"
    if not spec.slurm.exclusive and spec.host is None:
        yield "nodes are shared, and no host: {cpus, memory_gib} says what to take of them: the site decides"


def _gated(spec: Spec) -> str:
    return f"{spec.model.name}: {spec.model.gated}" if spec.model.gated else ""


def _launch(spec: Spec, engine: Engine, runtime: Runtime, bind: str) -> Launch:
    path = runtime.model_path(spec)
    served = engine.served_name(spec, path)
    return Launch(
        program=runtime.program(spec, engine.program),
        arguments=engine.arguments(spec, path, bind),
        mounts=runtime.mounts(spec),
        protocol=engine.protocol,
        joined_pattern=engine.joined_pattern,
        progress_pattern=engine.progress_pattern,
        phases=engine.phases,
        cheap=engine.cheap_probe(served),
        ask=engine.ready_probe(served, spec.model.prompting),
        tempo=tempo.TEMPO.hundredths,
        invisible=answers.INVISIBLE_SED,
        stop_signal=engine.stop_signal,
    )


def _checkpoint(spec: Spec) -> planning.Rules:
    model, kind = spec.model.name, spec.checkpoint_kind
    if spec.checkpoint.startswith("/"):
        return ()
    if spec.checkpoint:
        what = f"{spec.checkpoint!r} is not an absolute path"
        return ((f"checkpoints.{model}", what, "write the path on the cluster's shared storage"),)
    what = f"cluster {spec.cluster.name} does not say where the {kind} checkpoint of {model} lies"
    return ((f"checkpoints.{model}", what, f"add its path: checkpoints: {{{model}: {{{kind}: /path}}}}"),)


def _program(spec: Spec) -> planning.Rules:
    """No shell reads the words, so nothing in them is expanded."""
    word = spec.program[0] if spec.program else ""
    if word.startswith("/") or not ("/" in word or word.startswith(("~", "$"))):
        return ()
    what = f"{word!r} is neither an absolute path nor the name of a command"
    return ((f"programs.{spec.engine}", what, "write the whole path, as the nodes see it"),)
