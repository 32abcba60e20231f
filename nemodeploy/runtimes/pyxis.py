"""pyxis: containers as srun options. Source: pyxis v0.24.0 args.c (no escape for `,` and `:` in mounts)."""

from __future__ import annotations

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Spec
from nemodeploy.runtimes.base import Container


class Pyxis(Container):
    """Every node imports the image by itself; a `.sqsh` path on shared storage saves that."""

    name = "pyxis"
    template = "runtimes/pyxis.sh.j2"
    example = "for example nvcr.io#nvidia/nemo:24.01.framework"
    unmountable = ":,"

    def rules(self, spec: Spec) -> Rules:
        """It is a plugin of Slurm's srun."""
        found = super().rules(spec)
        if spec.cluster.scheduler == "none":
            found = [*found, ("runtime", "pyxis is a part of Slurm, and this cluster has none", "docker or podman")]
        return found

    def misread(self, image: str) -> str:
        """Without `#` enroot before version 4 asks Docker Hub; a squashfs without a path in front is an image name."""
        if image.startswith(("/", "./")):
            return ""
        if image.endswith(".sqsh"):
            return "without / or ./ in front it is taken for an image name"
        registry, slash, _ = image.partition("/")
        if slash and "#" not in image and "." in registry:
            return "enroot before version 4 would look for it on Docker Hub"
        return "pyxis adds docker:// itself" if image.startswith("docker:") else ""

    def corrected(self, image: str) -> str:
        """With `#` after the registry."""
        image = image.removeprefix("docker://")
        if image.endswith(".sqsh"):
            return f"/path/on/shared/storage/{image.rpartition('/')[2]}"
        return image.replace("/", "#", 1) if "." in image.partition("/")[0] else image
