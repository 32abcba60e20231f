"""What a test may know of who runs it: nothing. Their files, keys, clusters, lists of packages and CI stay out."""

from __future__ import annotations

from collections.abc import Mapping

from nemodeploy.adapters.resources import engines_directory, slurm_directory

# What a person, a CI system or a job may have set: names, and beginnings of names.
NAMES = ("CI", "ENV", "BASH_ENV", "CONTAINER_HOST", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "EDITOR", "VISUAL")
BEGINNINGS = (
    *("XDG_", "NEMODEPLOY_", "SSH_", "GITHUB_", "GITLAB_", "CI_", "OPENAI_", "HF_", "NGC_"),
    *("SLURM_", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_"),
    *("APPTAINER", "SINGULARITY", "DOCKER_", "ENROOT_", "PIP_"),
)
# How the suite itself is run, and where this machine gets packages from.
KEPT = (
    *("NEMODEPLOY_SANDBOX_SLURM", "NEMODEPLOY_VENV", "NEMODEPLOY_CLIENTS_PYTHON", "NEMODEPLOY_RECORD"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT"),
)


def is_theirs(name: str) -> bool:
    """Whether a variable is kept from the tests."""
    return name not in KEPT and (name in NAMES or name.startswith(BEGINNINGS))


def clean(environment: Mapping[str, str], home: str) -> dict[str, str]:
    """The environment in which tests run: another home, and what is unpacked once for all stays where it is."""
    kept = {name: value for name, value in environment.items() if not is_theirs(name)}
    unpacked = {"NEMODEPLOY_SLURM_DIR": str(slurm_directory()), "NEMODEPLOY_ENGINES_DIR": str(engines_directory())}
    xdg = {f"XDG_{kind.upper()}_HOME": f"{home}/{kind}" for kind in ("config", "state", "data", "cache")}
    return {**kept, **unpacked, **xdg, "HOME": home}
