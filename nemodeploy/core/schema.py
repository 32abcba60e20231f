"""JSON Schema of the three kinds of file, recorded from the very code that reads them.

A Recorder stands in for the Reader: it is asked for the same keys, answers with something harmless, and keeps what
was asked. So a key that is read is in the schema, and nothing else is. Draft 2020-12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from nemodeploy.core import decode
from nemodeploy.core.decode import Plugins
from nemodeploy.core.documents import Document
from nemodeploy.core.model_files import read_model
from nemodeploy.core.reading import ONE_LINE, REQUIRED, Reader
from nemodeploy.core.spec import Model

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS = ("profile", "model", "cluster")
_FREE = "*"
_TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}


class Recorder(Reader):
    """A Reader that reads nothing and remembers every question."""

    def __init__(self) -> None:
        """Whatever is iterated over has one entry, which stands for all."""
        super().__init__(Document({}), {_FREE: _FREE})
        self.keys: dict[str, Any] = {}
        self.required: list[str] = []

    def schema(self) -> dict[str, Any]:
        """What was asked, as JSON Schema."""
        keys = dict(sorted(self.keys.items()))
        free = keys.pop(_FREE, False)
        found: dict[str, Any] = {"type": "object", "additionalProperties": _plain(free), "properties": _plain(keys)}
        return found | ({"required": sorted(self.required)} if self.required else {})

    def _note(self, key: str, what: dict[str, Any], default: Any, answer: Any) -> Any:
        self.keys[key] = what
        if default is REQUIRED and key != _FREE:
            self.required.append(key)
        return answer if default is REQUIRED else default

    def section(self, key: str) -> Reader:
        """A mapping below."""
        child = self.keys.get(key)
        if not isinstance(child, Recorder):
            child = self.keys[key] = Recorder()
        return child

    def text(
        self, key: str, default: Any = REQUIRED, *, pattern: str = ONE_LINE, like: str = "text in one line"
    ) -> Any:
        """A string of a form."""
        return self._note(key, {"type": "string", "pattern": f"^({pattern})$", "description": like}, default, "x")

    def block(self, key: str, default: Any = REQUIRED) -> Any:
        """Any string."""
        return self._note(key, {"type": "string"}, default, "x")

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = 10**15) -> Any:
        """A whole number."""
        return self._note(key, {"type": "integer", "minimum": least, "maximum": most}, default, least)

    def integer_or(self, key: str, word: str, *, least: int = 1, most: int = 10**15) -> Any:
        """A whole number, or a word."""
        number = {"type": "integer", "minimum": least, "maximum": most}
        return self._note(key, {"anyOf": [number, {"const": word}]}, None, None)

    def number(self, key: str, default: Any = REQUIRED, *, above: float = 0.0, most: float = 1e15) -> Any:
        """A number."""
        return self._note(key, {"type": "number", "exclusiveMinimum": above, "maximum": most}, default, most)

    def flag(self, key: str, default: Any = REQUIRED) -> Any:
        """A boolean."""
        return self._note(key, {"type": "boolean"}, default, False)

    def choice(self, key: str, options: Iterable[str], default: Any = REQUIRED) -> Any:
        """One of a few words."""
        words = sorted(options)
        return self._note(key, {"enum": words}, default, words[0])

    def texts(
        self, key: str, *, pattern: str = r"[^\x00-\x1f\x7f]+", like: str = "text in one line", shown: bool = True
    ) -> tuple[str, ...]:
        """A list of strings."""
        item = {"type": "string", "pattern": f"^({pattern})$", "description": like}
        self._note(key, {"type": "array", "items": item}, None, None)
        return ()

    def table(
        self, key: str, *, names: str = r"[A-Za-z_][A-Za-z0-9_]*", like: str = "letters, digits and _"
    ) -> dict[str, str]:
        """A mapping of names to text."""
        value = {"type": ["string", "integer"]}
        what = {
            "type": "object",
            "propertyNames": {"pattern": f"^({names.replace('(?i:', '(?:')})$"},
            "additionalProperties": value,
        }
        self._note(key, what, None, None)
        return {}

    def complain(self, key: str, what: str, instead: str = "") -> None:
        """There is nothing to complain about."""

    def ignore(self, *keys: str) -> None:
        """Keys that are read elsewhere may hold anything."""
        for key in keys:
            self.keys.setdefault(key, True)


def _plain(value: Any) -> Any:
    """Recorders below, as the schemas they hold."""
    if isinstance(value, Recorder):
        return value.schema()
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def schema(kind: str, plugins: Plugins) -> dict[str, Any]:
    """The JSON Schema of one kind of file: `profile`, `model` or `cluster`."""
    makers: dict[str, Callable[[Plugins], dict[str, Any]]] = {"profile": _profile, "model": _model, "cluster": _cluster}
    return {"$schema": DIALECT, "title": f"nemodeploy {kind}", **makers[kind](plugins)}


def _model(plugins: Plugins) -> dict[str, Any]:
    recorder = Recorder()
    read_model("x", recorder)
    found = recorder.schema()
    groups = {"type": "object", "propertyNames": {"pattern": "^[0-9]+$"}, "additionalProperties": {"type": "integer"}}
    found["properties"]["kv_heads"] = {"anyOf": [found["properties"]["kv_heads"], groups]}
    found["properties"]["defaults"] = _settings(plugins)
    return found


def _settings(plugins: Plugins) -> dict[str, Any]:
    recorder = Recorder()
    decode.read_settings(recorder, name="x", profile="x", model=_ANY_MODEL, cluster="x", plugins=plugins)
    found = recorder.schema()
    found["properties"]["checkpoints"]["additionalProperties"] = {"anyOf": [{"type": "string"}, _TEXTS]}
    below = {key: what for key, what in _of_profiles(found["properties"]).items() if key != "gpus"}
    found["properties"]["gpus"]["additionalProperties"]["properties"]["defaults"] = _optional(
        {"type": "object", "additionalProperties": False, "properties": below}
    )
    found["properties"] |= {key: {"type": "string"} for key in ("model", "description", "extends")}
    return _optional(found)


def _optional(found: dict[str, Any]) -> dict[str, Any]:
    """Any layer may leave anything to another one, so nothing is required of a single file."""
    found.pop("required", None)
    for below in found["properties"].values():
        if isinstance(below, dict) and "properties" in below:
            _optional(below)
    return found


def _profile(plugins: Plugins) -> dict[str, Any]:
    found = _settings(plugins)
    return {**found, "properties": _of_profiles(found["properties"])}


def _of_profiles(properties: dict[str, Any]) -> dict[str, Any]:
    """Those that may stand elsewhere than in a cluster file."""
    keys = properties["slurm"]["properties"].items()
    slurm = {key: what for key, what in keys if key not in decode.SLURM_ONLY_IN_CLUSTER_FILES}
    kept = {key: what for key, what in properties.items() if key not in decode.ONLY_IN_CLUSTER_FILES}
    return {**kept, "slurm": {**properties["slurm"], "properties": slurm}}


def _cluster(plugins: Plugins) -> dict[str, Any]:
    found = _settings(plugins)
    for key in ("model", "extends"):
        del found["properties"][key]
    found["properties"]["ssh"]["required"] = ["host"]
    return found | {"required": ["ssh"]}


_ANY_MODEL: Model = replace(read_model("x", Recorder()), context=10**7)
