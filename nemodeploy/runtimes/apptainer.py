"""Apptainer: `apptainer exec` in front of every rank. Source: apptainer user guide, bind paths and GPU support."""

from __future__ import annotations

import shlex

from nemodeploy.core.diagnosis import Cause
from nemodeploy.runtimes.base import IMAGE_CAUSES, Container, no_image_file, no_namespaces, not_mounted


class Apptainer(Container):
    """A `.sif` on shared storage starts at once; a registry's image is converted by every node first."""

    name = "apptainer"
    template = "runtimes/apptainer.sh.j2"
    example = "for example /shared/images/nemo.sif or docker://nvcr.io/nvidia/nemo:24.01.framework"
    unmountable = ":,"
    suffix = "sif"
    login_words = 'export APPTAINER_DOCKER_USERNAME="$registry_user" APPTAINER_DOCKER_PASSWORD="$registry_password"'
    is_image = 'head -c 64 "$part" | grep -q SIF_MAGIC'
    causes = (
        no_image_file(r"could not open image .*no such file"),
        Cause(
            key="image-format",
            pattern=r"image format not recognized",
            meaning="that is no image",
            advice="name a .sif file, a directory or docker://… in images:",
        ),
        Cause(
            key="image-extract",
            pattern=r"root filesystem extraction failed",
            meaning="the node could not unpack the image",
            advice="the rest of the line says why; with squashfuse on the nodes nothing is unpacked",
        ),
        not_mounted(r"mount source .* doesn't exist|mount hook function failure"),
        no_namespaces(r"[Ff]ailed to create user namespace"),
        *IMAGE_CAUSES,
    )

    def import_words(self, image: str) -> str:
        """A conversion, as every node would do it by itself."""
        return f'apptainer build --force "$part" {shlex.quote(image)}'

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
