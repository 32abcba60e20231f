"""Pure: looks the plugins up and turns a deployment spec into plan and bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from nemodeploy.core import planning
from nemodeploy.core.plan import Bundle, Plan, manifest
from nemodeploy.core.rendering import render
from nemodeploy.core.spec import Spec
from nemodeploy.engines import ENGINES
from nemodeploy.engines.base import Engine, Phase, Probe
from nemodeploy.runtimes import RUNTIMES
from nemodeploy.runtimes.base import Runtime
from nemodeploy.schedulers.slurm import Slurm

STARTUP_BASE_S = 300
LOAD_GB_PER_S = 0.2
ASK_WITHIN_S = 600
ASK_AGAIN_S = 1800


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What the templates need to know of engine and runtime."""

    program: tuple[str, ...]
    arguments: tuple[str, ...]
    mounts: tuple[str, ...]
    protocol: str
    joined_pattern: str
    phases: tuple[Phase, ...]
    cheap: Probe
    ask: Probe
    ask_within_s: int
    ask_again_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Submit:
    """What the submit script needs to know of the scheduler."""

    words: tuple[str, ...]


def assemble(spec: Spec, templates: Mapping[str, str]) -> tuple[Plan, Bundle]:
    """Decide and render. Raises BadInput when the layout cannot work."""
    engine, runtime, scheduler = ENGINES[spec.engine], RUNTIMES[spec.runtime], Slurm()
    memory = planning.plan_memory(spec, reserve_gib=engine.reserve_gib)
    rules = [*_served_by(spec), *engine.rules(spec), *runtime.rules(spec), *scheduler.rules(spec), *_checkpoint(spec)]
    planning.check(spec, memory, rules)
    plan = _plan(spec, engine, memory)
    launch = _launch(spec, engine, runtime)
    values = {"plan": plan, "launch": launch, "submit": Submit(words=scheduler.submit_words(spec))}
    scripts = Bundle(
        files={
            "nemo_inference.sh": render(templates, engine.template, **values),
            "nemo_inference.sbatch": render(
                templates, scheduler.script_template, runtime_template=runtime.template, **values
            ),
            "submit.sh": render(templates, scheduler.submit_template, **values),
        }
    )
    return plan, scripts


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


def _plan(spec: Spec, engine: Engine, memory: planning.Memory) -> Plan:
    weights_gb = spec.model.parameters_b * planning.BYTES_PER_VALUE[spec.precision]
    return Plan(
        name=spec.name,
        profile=spec.profile,
        model=spec.model.name,
        engine=spec.engine,
        runtime=spec.runtime,
        cluster=spec.cluster.name,
        precision=spec.precision,
        layout=planning.plan_layout(spec),
        memory=memory,
        port=spec.port,
        protocol=engine.protocol,
        gpu_type=spec.gpu.type,
        time_s=spec.time_s,
        exclusive=spec.slurm.exclusive,
        requeue=spec.requeue,
        grace_s=spec.grace_s,
        startup_budget_s=round(STARTUP_BASE_S + weights_gb / LOAD_GB_PER_S),
        image=spec.image,
        checkpoint=spec.checkpoint,
        environment=tuple(sorted(spec.environment.items())),
        secrets=spec.secrets,
        prompting=spec.model.prompting,
        endpoint_host=spec.cluster.endpoint_host,
        program=spec.program,
        mounts=spec.mounts,
        submit_options=Slurm().submit_words(spec),
        notices=tuple(filter(None, (spec.cluster.notice, engine.notice))),
        sources={".".join(path): str(origin) for path, origin in sorted(spec.origins.items())},
    )


def _launch(spec: Spec, engine: Engine, runtime: Runtime) -> Launch:
    return Launch(
        program=runtime.program(spec, engine.program),
        arguments=engine.arguments(spec, runtime.model_path(spec)),
        mounts=runtime.mounts(spec),
        protocol=engine.protocol,
        joined_pattern=engine.joined_pattern,
        phases=engine.phases,
        cheap=engine.cheap_probe(),
        ask=engine.ready_probe(spec.model.prompting),
        ask_within_s=ASK_WITHIN_S,
        ask_again_s=ASK_AGAIN_S,
    )


def _served_by(spec: Spec) -> list[tuple[str, str, str]]:
    if spec.engine in spec.model.engines:
        return []
    return [("engine", f"{spec.engine} cannot serve {spec.model.name}", f"use {' or '.join(spec.model.engines)}")]


def _checkpoint(spec: Spec) -> list[tuple[str, str, str]]:
    key = f"checkpoints.{spec.model.name}"
    if spec.checkpoint.startswith("/"):
        return []
    if spec.checkpoint:
        return [(key, f"{spec.checkpoint!r} is not an absolute path", "write the path on the cluster's shared storage")]
    return [(key, f"cluster {spec.cluster.name} does not say where {spec.model.name} lies", "add its path")]
