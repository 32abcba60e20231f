"""No container: the program lies on the nodes, where the cluster's `programs:` says."""

from __future__ import annotations

from nemodeploy.core.diagnosis import Cause
from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Spec


class NoRuntime:
    """Straight on the node."""

    name = "none"
    template = "runtimes/none.sh.j2"
    notice = ""
    causes: tuple[Cause, ...] = ()
    present = ""
    example = ""
    suffix = ""
    is_image = ":"
    login_words = ":"

    def misread(self, image: str) -> str:
        """There are none."""
        return "without a container there is no image"

    def corrected(self, image: str) -> str:
        """There are none."""
        return image

    def import_words(self, image: str) -> str:
        """There are none."""
        return ":"

    def imported(self, image: str) -> str:
        """There are none."""
        return ""

    def rules(self, spec: Spec) -> Rules:
        """Without a container somebody has to say where the program is."""
        if spec.program:
            return ()
        what = f"runtime none needs to know where {spec.engine} lies on the nodes"
        return ((f"programs.{spec.engine}", what, "add the words that start it to the cluster file"),)

    def model_path(self, spec: Spec) -> str:
        """The checkpoint's own path."""
        return spec.checkpoint

    def mounts(self, spec: Spec) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def program(self, spec: Spec, inside: tuple[str, ...]) -> tuple[str, ...]:
        """The cluster's words; those of the image mean nothing here."""
        return spec.program
