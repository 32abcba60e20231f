"""Docker: `docker run` in front of every rank. Source: docker's reference of `run`; moby's linux_parser.go."""

from __future__ import annotations

from nemodeploy.runtimes.base import Container


class Docker(Container):
    """Its daemon, not Slurm, is the parent of what runs; so the job removes its containers by label at its end."""

    name = "docker"
    template = "runtimes/docker.sh.j2"
    notice = "docker's daemon runs the containers; a job killed outright (not cancelled) can leave one behind"
    example = "for example nvcr.io/nvidia/nemo:24.05.llama3.1"

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
