"""pyxis: containers as srun options. Source: pyxis v0.24.0 args.c (no escape for `,` and `:` in mounts)."""

from __future__ import annotations

from collections.abc import Sequence

from nemodeploy.core.spec import Spec

MODEL_PATH = "/model"


class Pyxis:
    """Every node imports the image by itself; a `.sqsh` path on shared storage saves that."""

    name = "pyxis"
    template = "runtimes/pyxis.sh.j2"

    def rules(self, spec: Spec) -> Sequence[tuple[str, str, str]]:
        """An image, and a path to the checkpoint that a mount can express."""
        found = []
        if not spec.image:
            what = f"cluster {spec.cluster.name} names no image for {spec.engine}"
            found.append((f"images.{spec.engine}", what, "for example nvcr.io#nvidia/nemo:24.01.framework"))
        elif "/" in spec.image.partition("#")[0] and not spec.image.startswith(("/", "./")):
            what = f"{spec.image!r} would be looked for on Docker Hub by enroot before version 4"
            instead = spec.image.replace("/", "#", 1)
            found.append((f"images.{spec.engine}", what, f"write {instead}"))
        paths = ((f"checkpoints.{spec.model.name}", spec.checkpoint), ("root", spec.cluster.root))
        found += [
            (key, "pyxis cannot mount a path with , or :", "another path") for key, path in paths if set(path) & {*",:"}
        ]
        return found

    def model_path(self, spec: Spec) -> str:
        """A fixed place inside the container."""
        return MODEL_PATH

    def mounts(self, spec: Spec) -> tuple[str, ...]:
        """The checkpoint read-only, and the site's own."""
        return (f"{spec.checkpoint}:{MODEL_PATH}:ro", *spec.mounts)

    def program(self, spec: Spec, inside: tuple[str, ...]) -> tuple[str, ...]:
        """The image's own, unless the cluster says otherwise."""
        return spec.program or inside
