"""Looking at a site that nobody has described yet."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nemodeploy.adapters import resources, ssh_settings
from nemodeploy.app import wanted
from nemodeploy.app.site import PREFLIGHT_WITHIN_S, Site
from nemodeploy.app.site_file import SPACES_SCRIPT, Found, parse_spaces
from nemodeploy.core.cluster_files import SLURM_PATH, decode_cluster
from nemodeploy.core.documents import Document
from nemodeploy.core.sections import Section
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import BadInput
from nemodeploy.runtimes import RUNTIMES

# Where a login shell finds Slurm's commands, as with an environment module that /etc/profile or ~/.profile loads.
LOGIN_SHELL_SCRIPT = (
    'timeout 20 "${SHELL:-/bin/sh}" -lc "command -v sbatch" </dev/null 2>/dev/null | grep "^/.*/sbatch$" | tail -n 1'
)
GPUS_SCRIPT = "nvidia-smi -L 2>/dev/null | grep '^GPU ' || ls /proc/driver/nvidia/gpus 2>/dev/null; exit 0"
LOGIN_SCRIPT = 'echo "${SSH_CONNECTION:+ssh} $(uname -sr) $(id -un)@$(uname -n)"'


def unknown_cluster(name: str, host: str, config: str, transport: str) -> Cluster:
    """A cluster of which no more is known than how to log in. Raises BadInput for what is no host."""
    ssh = {"host": host, **({"config": config} if config else {})}
    known = decode_cluster(name, Document({"ssh": ssh, "transport": transport}, source="nemodeploy init"))
    return replace(known, has_file=False)


def name_of(host: str) -> str:
    """What a cluster is called after its host, without a user."""
    word = host.rpartition("@")[2].partition(".")[0].lower()
    return re.sub(r"[^a-z0-9-]+", "-", word).strip("-")[:64] or "site"


def cluster_or_host(name: str, config: str) -> Cluster:
    """A configured cluster, or a host of which there is no cluster file yet. Raises BadInput for what is neither."""
    if not config and (resources.is_path(name) or name in resources.names("clusters")):
        return wanted.cluster(name)
    absolute = str(Path(config).expanduser().absolute()) if config else ""
    with contextlib.suppress(BadInput):
        host = unknown_cluster(name_of(name), name, absolute, "auto")
        if absolute or ssh_settings.leads_somewhere(host.ssh):
            return host
    return wanted.cluster(name)


def survey(site: Site) -> Found:
    """What it says of itself; Slurm's commands are looked for in a login shell, too. Raises ClusterUnreachable or
    AuthenticationFailed."""
    found = _survey(site)
    if found.survey.version:
        return found
    where = site.ask({"shell": LOGIN_SHELL_SCRIPT}, within_s=PREFLIGHT_WITHIN_S)["shell"].text.strip()
    path = where.removesuffix("/sbatch")
    if not where or not re.fullmatch(SLURM_PATH, path):
        return found
    return _survey(Site(replace(site.cluster, slurm_path=path), site.transport, site.nonce))


def _survey(site: Site) -> Found:
    parts: Mapping[str, str] = {
        "login": LOGIN_SCRIPT,
        "gpus": GPUS_SCRIPT,
        "spaces": SPACES_SCRIPT,
        **site.scheduler.survey_parts(),
        **{f"runtime.{name}": runtime.present for name, runtime in RUNTIMES.items() if runtime.present},
    }
    answers: Mapping[str, Section] = site.ask(parts, within_s=PREFLIGHT_WITHIN_S)
    spaces, home = parse_spaces(answers["spaces"].text)
    found = site.scheduler.parse_survey(answers)
    ssh = site.cluster.ssh
    name = found.settings.get("ClusterName", "")
    said = answers["login"].text.split(maxsplit=1)[-1].strip()
    version = f"Slurm {found.version}" if found.version else "no Slurm"
    notes = [f"seen: {said}, {version}{', cluster ' + name if name else ''}"]
    if found.version and not found.accounting:
        notes.append(
            "sacct does not answer: what has ended is known from the job's own files, and for a while from Slurm"
        )
    return Found(
        host=ssh.host,
        config=ssh.config,
        description=f"{name or ssh.host}, {version}",
        survey=found,
        slurm_path=site.cluster.slurm_path,
        has_gpus=bool(answers["gpus"].text.strip()),
        spaces=spaces,
        runtimes={
            name: runtime.example
            for name, runtime in RUNTIMES.items()
            if runtime.present and answers[f"runtime.{name}"].status == 0
        },
        home=home,
        notes=tuple(notes),
    )
