"""What a container runtime has to know."""

from __future__ import annotations

from typing import Protocol

from nemodeploy.core import images
from nemodeploy.core.diagnosis import Cause
from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Spec

MODEL_PATH = "/model"


IMAGE_LOGIN = Cause(
    key="image-login",
    pattern=r"(nvcr\.io|registry|manifests?|auth).*\b(401|403)\b|\b(401|403)\b.*(nvcr\.io|registry)|"
    r"unauthorized: |authentication required|denied: requested access|pull access denied",
    meaning="the registry refused: no key, or a licence that was not accepted",
    advice="registries: in the cluster file, or the runtime's own credentials file; and accept the licence",
)
# What registries and clients of theirs say, whoever asks.
IMAGE_CAUSES = (
    Cause(
        key="image-separator",
        pattern=r"registry-1\.docker\.io/v2/[^/ ]+\.[^/ ]+/",
        meaning="the image was looked for on Docker Hub, though it names a registry of its own",
        advice="with pyxis write a # after the registry: nvcr.io#nvidia/…",
    ),
    IMAGE_LOGIN,
    Cause(
        key="image-tag",
        pattern=r"manifest unknown|manifests/.* 404|manifest for .* not found|MANIFEST_UNKNOWN",
        meaning="the registry has no such image or tag",
        advice="check images: in the cluster file",
    ),
    Cause(
        key="no-internet",
        pattern=r"Could not resolve host|curl: \((6|7|28|35|56)\)|dial tcp.*(timeout|refused|no such host|unreachable)",
        meaning="the node cannot reach the registry",
        advice="nemodeploy image pull imports it once, on the login host; or give the path of a file in images:",
    ),
)


def no_image_file(pattern: str) -> Cause:
    """Of a runtime that takes files, by its own words."""
    return Cause(
        key="image-file",
        pattern=pattern,
        meaning="the image is not on the node",
        advice="check images: in the cluster file, as the nodes see it",
    )


def not_mounted(pattern: str) -> Cause:
    """By a runtime's own words."""
    return Cause(
        key="mount",
        pattern=pattern,
        meaning="something that is to be mounted is not on the node",
        advice="check mounts:, checkpoints: and root: in the cluster file as the nodes see them",
    )


def no_namespaces(pattern: str) -> Cause:
    """By a runtime's own words."""
    return Cause(
        key="namespace",
        pattern=pattern,
        meaning="the node's kernel allows no user namespaces",
        advice="ask the site",
    )


class Runtime(Protocol):
    """How a process gets its container, if it gets one."""

    @property
    def name(self) -> str:
        """As in cluster files."""

    @property
    def template(self) -> str:
        """The fragment that sets the bash array `container` (words before the rank's script) and the function
        `remove_containers` (what ends those that outlive their process)."""

    @property
    def notice(self) -> str:
        """What a user must know about it; empty: nothing."""

    @property
    def causes(self) -> tuple[Cause, ...]:
        """How it fails to make a container."""

    @property
    def present(self) -> str:
        """Shell text for the login host that ends with 0 when it is there; empty: there is nothing to look for."""

    @property
    def example(self) -> str:
        """How an image is named, for whoever has to; empty: there is none."""

    @property
    def suffix(self) -> str:
        """Of the file that an import makes; empty: it keeps images in its own way, on every node."""

    def misread(self, image: str) -> str:
        """What it would make of an image written in another one's way; empty: it is right."""

    def corrected(self, image: str) -> str:
        """The same image in its own way."""

    def import_words(self, image: str) -> str:
        """Shell text that makes an image the file $part."""

    @property
    def login_words(self) -> str:
        """Shell text that lets an import use $registry, $registry_user and $registry_password; they are in no argv."""

    def rules(self, spec: Spec) -> Rules:
        """What this runtime refuses: dotted key, what is wrong, what to write instead."""

    @property
    def is_image(self) -> str:
        """Shell text that tells whether the file $part is an image of its kind."""

    def imported(self, image: str) -> str:
        """The file's name below `<root>/images` once it is imported; empty: there is nothing to import."""

    def model_path(self, spec: Spec) -> str:
        """Where the checkpoint lies as the server program sees it."""

    def mounts(self, spec: Spec) -> tuple[str, ...]:
        """What is mounted, besides the run directory: `/source:/target[:ro]`."""

    def program(self, spec: Spec, inside: tuple[str, ...]) -> tuple[str, ...]:
        """The program's words, given those that hold inside the engine's own image."""


class Container:
    """What real container runtimes share: an image, and the checkpoint mounted read-only at one place."""

    name = ""
    notice = ""
    causes: tuple[Cause, ...] = IMAGE_CAUSES
    example = ""

    suffix = ""
    is_image = ":"  # shell text: whether $part is one

    @property
    def present(self) -> str:
        """Its program."""
        return f"command -v {self.name}"

    unmountable = ":"
    login_words = ":"

    def rules(self, spec: Spec) -> Rules:
        """An image, and paths that a mount can express."""
        key = f"images.{spec.engine}"
        found = []
        if not spec.image:
            found.append((key, f"cluster {spec.cluster.name} names no image for {spec.engine}", self.example))
        elif self.misread(spec.image):
            found.append((key, f"{spec.image!r}: {self.misread(spec.image)}", f"write {self.corrected(spec.image)}"))
        for target in (mount.split(":")[1] if ":" in mount else mount for mount in spec.mounts):
            if target.rstrip("/") in ("", MODEL_PATH):
                found.append(("mounts", f"{target} in the container is taken", "another target"))
        paths = ((f"checkpoints.{spec.model.name}", spec.checkpoint), ("root", spec.cluster.root))
        return found + [
            (key, f"{self.name} cannot mount a path with {' or '.join(self.unmountable)}", "another path")
            for key, path in paths
            if set(path) & set(self.unmountable)
        ]

    def misread(self, image: str) -> str:
        """What the runtime would make of an image written in another one's way; empty: it is right."""
        return "the # is pyxis's way" if "#" in image else ""

    def corrected(self, image: str) -> str:
        """The same image in this runtime's way."""
        return image.replace("#", "/", 1)

    def imported(self, image: str) -> str:
        """The file's name below `<root>/images` once it is imported; empty: there is nothing to import."""
        return images.file_name(image, self.suffix) if self.suffix and not image.startswith(("/", "./")) else ""

    def import_words(self, image: str) -> str:
        """Nothing to do."""
        return ":"

    def model_path(self, spec: Spec) -> str:
        """A fixed place inside the container."""
        return MODEL_PATH

    def mounts(self, spec: Spec) -> tuple[str, ...]:
        """The checkpoint read-only, and the site's own."""
        return (f"{spec.checkpoint}:{MODEL_PATH}:ro", *spec.mounts)

    def program(self, spec: Spec, inside: tuple[str, ...]) -> tuple[str, ...]:
        """The image's own, unless the cluster says otherwise."""
        return spec.program or inside
