"""pyxis: containers as srun options. Source: pyxis v0.24.0 args.c (no escape for `,` and `:` in mounts)."""

from __future__ import annotations

import shlex
from dataclasses import replace

from nemodeploy.core.diagnosis import Cause
from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Spec
from nemodeploy.runtimes.base import IMAGE_CAUSES, IMAGE_LOGIN, Container, no_image_file, no_namespaces, not_mounted


class Pyxis(Container):
    """Every node imports the image by itself; a `.sqsh` path on shared storage saves that."""

    name = "pyxis"
    template = "runtimes/pyxis.sh.j2"
    example = "for example nvcr.io#nvidia/nemo:24.01.framework"
    unmountable = ":,"
    suffix = "sqsh"
    # NVIDIA's registry lets another host decide who may; enroot wants both in its file, without a port. It takes what
    # begins with a dollar sign for a variable's name (enroot 4.1, src/common.sh).
    login_words = (
        """word=$registry_password; case $word in \\$*) export registry_password; word='$registry_password' ;; esac; """
        'for machine in "${registry%:*}" $([ "$registry" != nvcr.io ] || echo authn.nvidia.com); do '
        """printf 'machine %s login %s password %s\\n' "$machine" "$registry_user" "$word"; done"""
        ' >.credentials; export ENROOT_CONFIG_PATH="$PWD"'
    )
    is_image = '[ "$(head -c 4 "$part")" = hsqs ]'
    causes = (
        Cause(
            key="no-pyxis",
            pattern=r"unrecognized option '--container|plugin \"pyxis\" .*not found|Incompatible plugin version",
            meaning="pyxis is not installed there, or not for this Slurm",
            advice="another runtime (--set runtime=apptainer), or ask the site",
        ),
        *IMAGE_CAUSES,
        no_image_file(r"pyxis: .*\[ERROR\] No such file or directory"),
        Cause(
            key="image-format",
            pattern=r"Invalid image format|Can't find a SQUASHFS superblock|File system corruption detected",
            meaning="that is no image",
            advice="name a .sqsh file or REGISTRY#IMAGE in images:",
        ),
        Cause(
            key="image-disk",
            pattern=r"(mksquashfs|enroot).*No space left on device|Failed to write to output filesystem",
            meaning="the node has too little room to import the image",
            advice="nemodeploy image pull imports it once; or give the path of a .sqsh file in images:",
        ),
        Cause(
            key="image-place",
            pattern=r"(cannot create|mkdir).*/enroot",
            meaning="enroot may not write where it is told to",
            advice="set ENROOT_RUNTIME_PATH, ENROOT_CACHE_PATH and ENROOT_DATA_PATH as the site says",
        ),
        no_namespaces(r"failed to create user namespace"),
        not_mounted(r"could not add mount entry|mount source|failed to mount|container-mounts: source path does not"),
        Cause(
            key="gpu-hook",
            pattern=r"98-nvidia\.sh|nvidia-container-cli",
            meaning="the node could not put the GPU driver into the container",
            advice="ask the site",
        ),
        replace(  # said before every import; sometimes nothing follows
            IMAGE_LOGIN, key="image-anonymous", pattern=r"Authenticating with user: <anonymous>", follower=True
        ),
        Cause(
            key="image",
            pattern=r"pyxis: (failed|couldn't|container (start failed|exited))|failed to (import|create container)",
            meaning="the container could not be made",
            advice="check images: in the cluster file; the lines below it in the log say more",
            follower=True,
        ),
        Cause(
            key="plugin-stack",
            pattern=r"spank plugin stack",
            meaning="a plugin of Slurm failed on the node",
            advice="the other lines of the log say which; ask the site",
            follower=True,
        ),
    )

    def import_words(self, image: str) -> str:
        """enroot's own import; it knows the credentials of its own file."""
        return f'enroot import --output "$part" {shlex.quote(image if "://" in image else f"docker://{image}")}'

    @property
    def present(self) -> str:
        """srun has its options where it is installed."""
        return "srun --help 2>&1 | grep -q -e --container-image"

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
