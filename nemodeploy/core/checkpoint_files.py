"""Whether a checkpoint on the cluster is whole: what lies there, judged by what its form wants.

Source: huggingface_hub's `*.index.json` (weight_map) and its cache's `.incomplete` files; git-lfs' pointer files (v1);
NeMo's extracted `.nemo` archives (model_config.yaml, model_weights); GGUF's magic number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nemodeploy.core.login_host import quoted
from nemodeploy.core.sections import Section

POINTER = "version https://git-lfs"
SMALL_BYTES = 1024
INDEX_BYTES = 8 * 2**20
ENOUGH = 0.95  # of the size that the model file says; sizes are rounded


@dataclass(frozen=True, kw_only=True, slots=True)
class Flaw:
    """What is wrong, and the commands that mend it, ready to paste on the login host."""

    what: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What lies at a path: `kind` is directory, file or nothing; sizes in bytes by name; the beginnings of small
    files; whole index files; free space in bytes."""

    kind: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    indexes: Mapping[str, str] = field(default_factory=dict)
    magic: str = ""
    free: int | None = None

    @property
    def bytes(self) -> int:
        """All together."""
        return sum(self.sizes.values())


def script(path: str) -> str:
    """Shell text that prints all that `parse` reads."""
    return f"""p={quoted(path)}
if [ -d "$p" ]; then echo 'kind directory'; cd "$p" || exit 1
elif [ -f "$p" ]; then echo 'kind file'; printf 'magic '; head -c 4 "$p" | tr -c 'A-Za-z' '?'; echo
  printf 'size %s %s\\n' "$(wc -c <"$p")" "${{p##*/}}"; df -Pk "$p" | tail -n 1 | sed 's/^/df /'; exit 0
else echo 'kind nothing'; exit 0; fi
find -L . -type f -printf 'size %s %P\\n' 2>/dev/null | head -n 20000
find -L . -maxdepth 2 -type f -size -3 -name '*.*' 2>/dev/null | head -n 400 | while IFS= read -r f; do
  printf 'head %s %s\\n' "${{f#./}}" "$(head -c 60 "$f" | tr '\\n' ' ' | tr -cd ' -~')"; done
for f in *.index.json; do [ -f "$f" ] || continue
  printf 'index %s ' "$f"; head -c {INDEX_BYTES} "$f" | tr -d '\\n'; echo; done
df -Pk . | tail -n 1 | sed 's/^/df /'
"""


def parse(section: Section) -> Listing | None:
    """None: it was not answered."""
    if section.status or not section.text.strip():
        return None
    rows = [line.split(" ", 1) for line in section.text.splitlines() if " " in line]
    sizes, heads, indexes, kind, magic = {}, {}, {}, "nothing", ""
    free = None
    for word, rest in rows:
        first, _, last = rest.partition(" ")
        if word == "kind":
            kind = rest
        elif word == "magic":
            magic = rest
        elif word == "size" and first.isdigit():
            sizes[last] = int(first)
        elif word == "head":
            heads[first] = last
        elif word == "index":
            indexes[first] = last
        elif word == "df":
            fields = rest.split()
            free = int(fields[3]) * 1024 if len(fields) > 3 and fields[3].isdigit() else None
    return Listing(kind=kind, sizes=sizes, heads=heads, indexes=indexes, magic=magic, free=free)


def flaws(found: Listing, *, kind: str, path: str, size_gb: float, source: str) -> Iterator[Flaw]:
    """What keeps it from being loaded; none: it is whole, as far as names and sizes tell.

    `size_gb`: what the model file says; 0: it says nothing.
    """
    fetch = _fetch(source, path)
    if found.kind == "nothing":
        yield Flaw(what=f"there is nothing at {path}", commands=fetch)
        return
    if path.endswith(".nemo") and found.kind == "file":
        directory = path.removesuffix(".nemo")
        yield Flaw(
            what=f"{path} is an archive, which every rank would unpack for itself; extract it once",
            commands=(f"mkdir -p {quoted(directory)}", f"tar -xf {quoted(path)} -C {quoted(directory)}"),
        )
        return
    pointers = sorted(name for name, text in found.heads.items() if text.startswith(POINTER))
    if pointers:
        yield Flaw(
            what=f"{len(pointers)} files are git-lfs pointers instead of weights, {pointers[0]} for one",
            commands=(f"cd {quoted(path)} && git lfs pull",),
        )
    partial = sorted(name for name in found.sizes if re.search(r"\.(incomplete|part|tmp|aria2)$", name))
    if partial:
        yield Flaw(what=f"{partial[0]} is half downloaded ({len(partial)} such files)", commands=fetch)
    yield from _FORMS.get(kind.partition("-")[0], _anything)(found, path, fetch)
    if size_gb and not pointers and found.bytes < ENOUGH * size_gb * 1e9:
        yield Flaw(what=f"{path} has {found.bytes / 1e9:.1f} GB, and the model has {size_gb:g} GB", commands=fetch)
    missing = size_gb * 1e9 * ENOUGH - found.bytes
    if found.free is not None and missing > found.free:
        room = f"{found.free / 1e9:.0f} GB are free there, and {missing / 1e9:.0f} GB are missing"
        yield Flaw(what=room, commands=(f"df -h {quoted(path)}",))


def _fetch(source: str, path: str) -> tuple[str, ...]:
    match = re.search(r"huggingface\.co/([\w.-]+/[\w.-]+)", source)
    if not match:
        return ()
    return (f"hf download {match[1]} --local-dir {quoted(path)}",)


def _hugging_face(found: Listing, path: str, fetch: tuple[str, ...]) -> Iterator[Flaw]:
    if "config.json" not in found.sizes:
        yield Flaw(what=f"{path} has no config.json", commands=fetch)
    weights = [name for name in found.sizes if name.endswith((".safetensors", ".bin"))]
    wanted: set[str] = set()
    for name, text in found.indexes.items():
        try:
            wanted |= set(json.loads(text)["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            yield Flaw(what=f"{name} cannot be read", commands=fetch)
    missing = sorted(wanted - set(found.sizes))
    if missing:
        yield Flaw(what=f"{len(missing)} of {len(wanted)} files are missing, {missing[0]} for one", commands=fetch)
    if not weights and not missing:
        yield Flaw(what=f"{path} has no weights (*.safetensors)", commands=fetch)


def _nemo(found: Listing, path: str, fetch: tuple[str, ...]) -> Iterator[Flaw]:
    first = {name.partition("/")[0] for name in found.sizes}
    archives = sorted(name for name in found.sizes if name.endswith(".nemo"))
    if archives and "model_weights" not in first:
        yield Flaw(
            what=f"{path} holds the archive {archives[0]}, not what is in it",
            commands=(f"tar -xf {quoted(f'{path}/{archives[0]}')} -C {quoted(path)}",),
        )
    elif found.kind == "directory" and not ({"model_config.yaml", "context"} & first):
        yield Flaw(what=f"{path} has no model_config.yaml", commands=fetch)
    elif found.kind == "directory" and not ({"model_weights", "weights"} & first or "mp_rank_00" in " ".join(first)):
        yield Flaw(what=f"{path} has no weights (model_weights/)", commands=fetch)


def _gguf(found: Listing, path: str, fetch: tuple[str, ...]) -> Iterator[Flaw]:
    if found.kind == "directory":
        yield Flaw(what=f"{path} is a directory, not a GGUF file")
    elif found.magic != "GGUF":
        yield Flaw(what=f"{path} is no GGUF file", commands=fetch)


def _anything(found: Listing, path: str, fetch: tuple[str, ...]) -> Iterator[Flaw]:
    if not found.sizes:
        yield Flaw(what=f"{path} is empty", commands=fetch)


_FORMS = {"hf": _hugging_face, "nemo": _nemo, "gguf": _gguf}
