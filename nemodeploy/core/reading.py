"""Reading a document key by key, and saying everything that is wrong with it at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemodeploy.core.documents import Document, Origin, Path
from nemodeploy.core.listing import natural
from nemodeploy.errors import BadInput

REQUIRED: Any = object()
# No control characters, old or new, and none that turn the direction of writing.
ONE_LINE = r"[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: where, at which path, what, and what to write instead."""

    origin: Origin
    path: Path
    what: str
    instead: str = ""

    def __str__(self) -> str:
        place = ".".join(self.path)
        remedy = f"; {self.instead}" if self.instead else ""
        return f"{masked(self.origin.exact)}  {place}: {self.what}{remedy}"


class BadInputs(BadInput):
    """Bad input whose problems are known one by one."""

    def __init__(self, message: str, problems: Sequence[Problem], *, hint: str = "") -> None:
        """Keep the problems, which are also the detail."""
        super().__init__(message, hint=hint, detail=tuple(map(str, problems)))
        self.problems = tuple(problems)


def refusal(what: str, problems: Sequence[Problem]) -> BadInputs:
    """Every problem of a document; a single one is told in the first line, too."""
    if len(problems) > 1:
        return BadInputs(f"{what} has {len(problems)} problems", problems)
    return BadInputs(f"{what}: {'.'.join(problems[0].path)}: {problems[0].what}", problems)


@dataclass(slots=True)
class Reader:
    """One mapping of a document. Values are asked for by key; what nobody asked for is an unknown key."""

    document: Document
    data: Mapping[str, Any]
    path: Path = ()
    problems: list[Problem] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    children: list[Reader] = field(default_factory=list)

    @classmethod
    def of(cls, document: Document) -> Reader:
        """A reader of the whole document."""
        return cls(document, document.data)

    def complain(self, key: str, what: str, instead: str = "") -> None:
        """Note a problem with a key, and go on."""
        path = (*self.path, key)
        self.problems.append(Problem(self.document.origin(path), path, what, instead))

    def section(self, key: str) -> Reader:
        """The mapping below a key, the same one however often it is asked for; empty when it is not there."""
        known = next((one for one in self.children if one.path == (*self.path, key)), None)
        if known:
            return known
        value = self._take(key, {})
        if not isinstance(value, Mapping):
            self.complain(key, f"must be a mapping, not {_shown(value)}")
            value = {}
        child = Reader(self.document, value, (*self.path, key), self.problems)
        self.children.append(child)
        return child

    def sections(self, key: str) -> dict[str, Reader]:
        """A mapping of free names to mappings."""
        parent = self.section(key)
        return {name: parent.section(name) for name in parent.data}

    def text(
        self, key: str, default: Any = REQUIRED, *, pattern: str = ONE_LINE, like: str = "text in one line"
    ) -> Any:
        """A string that matches a pattern from end to end."""

        def good(value: object) -> bool:
            return isinstance(value, str) and re.fullmatch(pattern, value) is not None

        return self._checked(key, default, good, like)

    def block(self, key: str, default: Any = REQUIRED) -> Any:
        """Text of several lines."""
        return self._checked(key, default, lambda value: isinstance(value, str) and "\0" not in value, "text")

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = 10**15) -> Any:
        """A whole number within bounds."""

        def good(value: object) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

        return self._checked(key, default, good, f"a whole number from {least} to {most}")

    def integer_or(self, key: str, word: str, *, least: int = 1, most: int = 10**15) -> Any:
        """A whole number within bounds, or None for one word."""
        if self.data.get(key) == word:
            self.ignore(key)
            return None
        return self.integer(key, least=least, most=most)

    def number(self, key: str, default: Any = REQUIRED, *, above: float = 0.0, most: float = 1e15) -> Any:
        """A number above a bound, and not more than another."""

        def good(value: object) -> bool:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and above < value <= most

        limit = f" and up to {most:g}" if most < 1e15 else ""
        return self._checked(key, default, good, f"a number above {above:g}{limit}")

    def flag(self, key: str, default: Any = REQUIRED) -> Any:
        """true or false."""
        return self._checked(key, default, lambda value: isinstance(value, bool), "true or false")

    def choice(self, key: str, options: Iterable[str], default: Any = REQUIRED) -> Any:
        """One of a few words."""
        options = tuple(options)
        value = self._take(key, default)
        if value is REQUIRED or (value == default and key not in self.data) or value in options:
            return self._or_complain(key, value)
        self.complain(key, f"must be one of {', '.join(options)}, not {_shown(value)}", near(str(value), options))
        return None

    def texts(
        self, key: str, *, pattern: str = r"[^\x00-\x1f\x7f]+", like: str = "text in one line", shown: bool = True
    ) -> tuple[str, ...]:
        """A list of strings, empty when it is not there; not `shown`: a wrong one may be a secret."""
        value = self._take(key, ())
        if not isinstance(value, (list, tuple)):
            self.complain(key, f"must be a list, not {_shown(value)}")
            return ()
        for index, item in enumerate(value):
            if not isinstance(item, str) or not re.fullmatch(pattern, item):
                path = (*self.path, key, str(index))
                what = _mismatch(item, f"one of {like}") if shown else f"must be one of {like}; it is not repeated here"
                self.problems.append(Problem(self.document.origin(path), path, what))
        return tuple(item for item in value if isinstance(item, str))

    def table(
        self, key: str, *, names: str = r"[A-Za-z_][A-Za-z0-9_]*", like: str = "letters, digits and _"
    ) -> dict[str, str]:
        """A mapping of names to texts, of several lines if need be; whole numbers are taken as text."""
        section = self.section(key)
        for name in section.data:
            if not re.fullmatch(names, name):
                section.complain(name, f"{name!r} is not allowed as a name here", f"a name is {like}")
        return {name: section._scalar(name) for name in section.data}

    def _scalar(self, key: str) -> str:
        value = self._take(key, "")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return str(self.block(key, "") or "")

    def _take(self, key: str, default: Any) -> Any:
        self.asked.add(key)
        return self.data.get(key, default)

    def _checked(self, key: str, default: Any, good: Callable[[object], bool], like: str) -> Any:
        value = self._take(key, default)
        if key not in self.data or good(value):
            return self._or_complain(key, value)
        quote = "; quote it" if isinstance(value, (int, float)) and good(str(value)) else ""
        self.complain(key, _mismatch(value, like) + quote)
        return None

    def _or_complain(self, key: str, value: Any) -> Any:
        if value is REQUIRED:
            self.complain(key, "is missing")
            return None
        return value

    def ignore(self, *keys: str) -> None:
        """Keys that are read elsewhere."""
        self.asked.update(keys)

    def finish(self, what: str) -> None:
        """Raise BadInput with every problem found so far, unknown keys included."""
        self._note_unknown()
        if self.problems:
            raise refusal(what, self.problems)

    def _note_unknown(self) -> None:
        for key in self.data:
            if key not in self.asked:
                self.complain(key, "unknown key", near(key, self.asked))
        for child in self.children:
            child._note_unknown()


def near(word: str, known: Iterable[str]) -> str:
    """`did you mean …?` for a misspelt word, or what there is."""
    known = sorted(known, key=natural)
    close = difflib.get_close_matches(word, known, n=5, cutoff=0.65)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there is: {', '.join(known)}" if known else ""


def _mismatch(value: object, like: str) -> str:
    control = re.search(r"[\x00-\x1f\x7f]", value) if isinstance(value, str) else None
    if control:
        return f"must be {like}; it has a control character at {control.start() + 1}"
    return f"must be {like}, not {_shown(value)}"


def masked(text: str) -> str:
    """Less the password of an address: whoever wrote it need not see it again."""
    return re.sub(r":[^/@:]+@", ":***@", text)


def _shown(value: object) -> str:
    text = masked(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
