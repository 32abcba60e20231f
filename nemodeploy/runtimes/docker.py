"""Docker: `docker run` in front of every rank. Source: docker's reference of `run`; moby's linux_parser.go."""

from __future__ import annotations

from dataclasses import replace

from nemodeploy.core.diagnosis import Cause
from nemodeploy.runtimes.base import IMAGE_CAUSES, Container

_BY_HAND = "let the host reach it, or carry the image there: docker save, docker load"


class Docker(Container):
    """Its daemon, not Slurm, is the parent of what runs: the job removes its containers by label at its end, and they
    end by themselves when the client that started them is no more."""

    name = "docker"
    template = "runtimes/docker.sh.j2"
    unmountable = ':,"'
    example = "for example nvcr.io/nvidia/nemo:24.05.llama3.1"
    causes = (
        Cause(
            key="image-file",
            pattern=r"image not known",
            meaning="the image is not on the host, and may not be pulled",
            advice="podman pull it there, or podman load a file",
        ),
        Cause(
            key="mount",
            pattern=r"bind source path does not exist|statfs .*: no such file or directory",
            meaning="something that is to be mounted is not on the host",
            advice="check mounts:, checkpoints: and root: in the cluster file as the hosts see them",
        ),
        Cause(
            key="container-gpus",
            pattern=r"could not select device driver .*gpu|unresolvable CDI devices",
            meaning="the host gives no GPUs to containers",
            advice="NVIDIA's container toolkit there: nvidia-ctk runtime configure, for podman nvidia-ctk cdi generate",
        ),
        Cause(
            key="container-daemon",
            pattern=r"Cannot connect to the Docker daemon|permission denied while trying to connect to the Docker",
            meaning="docker's daemon does not run, or may not be used by this account",
            advice="start it, or ask for membership of the group docker",
        ),
        *(replace(cause, advice=_BY_HAND) if cause.key == "no-internet" else cause for cause in IMAGE_CAUSES),
    )

    @property
    def present(self) -> str:
        """The client alone runs nothing: its daemon must answer this account."""
        return f"command -v {self.name} && timeout 20 {self.name} info >/dev/null 2>&1"

    def misread(self, image: str) -> str:
        """A path or a scheme means nothing here."""
        if image.startswith(("/", "./")) or "://" in image or image.endswith((".sif", ".sqsh")):
            return "docker takes images of a registry only"
        return super().misread(image)

    def corrected(self, image: str) -> str:
        """As in a registry's own page."""
        if image.startswith(("/", "./")) or image.endswith((".sif", ".sqsh")):
            return "an image of a registry, such as " + self.example.removeprefix("for example ")
        return super().corrected(image.partition("://")[2] or image)
