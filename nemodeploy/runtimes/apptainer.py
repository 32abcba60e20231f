"""Apptainer: `apptainer exec` in front of every rank. Source: apptainer user guide, bind paths and GPU support."""

from __future__ import annotations

from nemodeploy.runtimes.base import Container


class Apptainer(Container):
    """A `.sif` on shared storage starts at once; a registry's image is converted by every node first."""

    name = "apptainer"
    template = "runtimes/apptainer.sh.j2"
    example = "for example /shared/images/nemo.sif or docker://nvcr.io/nvidia/nemo:24.01.framework"
    unmountable = ":,"

    def misread(self, image: str) -> str:
        """Without a scheme it is the name of a file."""
        if image.startswith("/") or ("://" in image and "#" not in image):
            return ""
        return "apptainer would look for a file of that name"

    def corrected(self, image: str) -> str:
        """With `docker://`."""
        if image.endswith((".sif", ".sqsh", ".simg")):
            return f"/path/on/shared/storage/{image.rpartition('/')[2]}"
        bare = image.removeprefix("docker://").replace("#", "/", 1)
        return f"docker://{bare}"
