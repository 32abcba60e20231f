"""Every deployment that the shipped files allow: model x profile x engine x runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemodeploy.adapters import resources
from nemodeploy.app.wanted import Wanted, Wish, resolve
from nemodeploy.engines import ENGINES
from nemodeploy.errors import BadInput
from nemodeploy.runtimes import RUNTIMES

IMAGES = {
    "pyxis": "nvcr.io#nvidia/{}",
    "apptainer": "docker://nvcr.io/nvidia/{}",
    "docker": "nvcr.io/nvidia/{}",
    "podman": "nvcr.io/nvidia/{}",
}
TAGS = {"nemo-eval": "nemo:24.01.framework", "nemo-triton": "nemo:24.05.llama3.1", "nemo-trtllm": "nemo:24.05.llama3.1"}


@dataclass(frozen=True)
class Site:
    """A cluster file for one runtime; `scheduler` none is a plain host."""

    runtime: str
    scheduler: str = "slurm"

    @property
    def text(self) -> str:
        """Words that are hard to quote wherever free text may stand."""
        lines = [
            "ssh: {host: login}",
            'root: "/shared/our deployments"',
            f"scheduler: {self.scheduler}",
            f"runtime: {self.runtime}",
            'env: {NCCL_SOCKET_IFNAME: ib0, ODD: "a\'b $c `d` \\\\ e\\nf"}',
            'mounts: ["/lustre/some data:/data:ro"]' if self.runtime in IMAGES else "",
        ]
        if self.scheduler == "slurm":
            lines.append('slurm: {partition: batch, account: "it\'s $HOME; #x"}')
        if self.runtime in IMAGES:
            pairs = (f'{name}: "{IMAGES[self.runtime].format(TAGS.get(name, f"{name}:1"))}"' for name in ENGINES)
            lines.append(f"images: {{{', '.join(pairs)}}}")
        lines.append(f"programs: {{{', '.join(f'{name}: [/opt/{name}/run]' for name in ENGINES)}}}")
        lines.append(f"checkpoints: {{{', '.join(f'{name}: /models/{name}' for name in resources.names('models'))}}}")
        return "\n".join(line for line in lines if line) + "\n"


SITES = (
    *(Site(name) for name in RUNTIMES),
    *(Site(name, "none") for name in ("none", "docker", "podman", "apptainer")),
)


def every(directory: Path, sites: tuple[Site, ...] = SITES) -> Iterator[tuple[str, Wanted]]:
    """Name and result of each combination that is not refused."""
    for site in sites:
        path = directory / f"{site.scheduler}-{site.runtime}.yaml"
        path.write_text(site.text)
        for profile in resources.names("profiles"):
            for model in resources.names("models"):
                for engine in ENGINES:
                    settings = (("model", model, "flag --model"), ("engine", engine, "flag --engine"))
                    wish = Wish(profile=profile, name="demo", cluster=str(path), settings=settings)
                    try:
                        wanted = resolve(wish, {}, needs_site=False)
                    except BadInput:
                        continue
                    yield f"{site.scheduler}/{site.runtime}/{profile}/{model}/{engine}", wanted
