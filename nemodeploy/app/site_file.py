"""From what a site says of itself to a cluster file: what is decided, why, and what is left to a person."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nemodeploy.core import gpu_words
from nemodeploy.core.rendering import duration
from nemodeploy.schedulers.survey import NodeKind, Partition, Survey

SHARED = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "afs", "smb2", "fuseblk", "panfs", "orangefs")
USUAL_S = 4 * 3600
NO_RUNTIME = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A directory of the user's on the login host: its file system's type, and what is free there, in GB of 10^9."""

    path: str
    kind: str
    free_gb: float

    @property
    def is_shared(self) -> bool:
        """Whether other machines surely see it, too."""
        return self.kind in SHARED


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A site: how it is reached, what Slurm says, where there is room, and the container runtimes, the best one first,
    each with an example of an image. `home` is expanded already. `slurm_path`: where Slurm's commands are, if
    only a login shell finds them; `has_gpus`: the login host has some itself.
    """

    host: str
    config: str
    description: str
    survey: Survey
    spaces: tuple[Space, ...]
    runtimes: Mapping[str, str]
    home: str
    notes: tuple[str, ...] = field(default=())
    slurm_path: str = ""
    has_gpus: bool = False


# A question to a person: what, the answers there are, and the one that is taken when nobody can be asked.
Choose = Callable[[str, Sequence[str], str], str]
SPACES_SCRIPT = """\
me=$(id -un)
for d in "$HOME" "${SCRATCH:-}" "${WORK:-}" "${PROJECT:-}" "/scratch/$me" "/project/$me" "/lustre/$me"; do
  [ -n "$d" ] && [ -d "$d" ] && [ -w "$d" ] || continue
  printf '%s\\t%s\\t%s\\n' "$(cd "$d" && pwd)" "$(stat -f -c %T "$d" 2>/dev/null || echo unknown)" \\
    "$(df -Pk "$d" 2>/dev/null | tail -n 1 | awk '{print $4}')"
done | awk '!seen[$0]++'
echo "home $HOME"
"""


def parse_spaces(text: str) -> tuple[tuple[Space, ...], str]:
    """The answer to SPACES_SCRIPT: the directories, and the home among them."""
    rows = [line.split("\t") for line in text.splitlines() if line.count("\t") == 2]
    spaces = tuple(
        Space(path=path, kind=kind, free_gb=int(free) * 1024 / 1e9) for path, kind, free in rows if free.isdigit()
    )
    home = re.search(r"^home (.*)$", text, re.MULTILINE)
    return spaces, home[1] if home else ""


def write(found: Found, choose: Choose) -> str:
    """The cluster file, with a comment wherever a person may want something else."""
    return "\n".join([*_head(found), *_root(found, choose), *_slurm(found, choose), *_rest(found)]) + "\n"


def gpu_types(kinds: Sequence[NodeKind]) -> Mapping[str, tuple[str, int]]:
    """Our names of the GPUs of a partition: the site's own word (empty: it has none), and how many a node has."""
    found: dict[str, tuple[str, int]] = {}
    for kind in kinds:
        for word, count in kind.gpus.items():
            ours = gpu_words.shipped(word, kind.features)
            if ours and count > found.get(ours, ("", 0))[1]:
                found[ours] = (word, count)
    return found


def _head(found: Found) -> Iterator[str]:
    yield f"# Written by `nemodeploy init {found.host}`; nemodeploy doctor tries it. Every key: docs/files.md."
    for note in found.notes:
        yield f"# {note}"
    yield f"description: {json.dumps(found.description)}"
    config = f", config: {json.dumps(found.config)}" if found.config else ""
    yield f"ssh: {{host: {json.dumps(found.host)}{config}}}"


def _root(found: Found, choose: Choose) -> Iterator[str]:
    """The home directory where all nodes surely see it, else the shared directory with the most room."""
    home = next((space for space in found.spaces if space.path == found.home), None)
    shared = sorted((space for space in found.spaces if space.is_shared), key=lambda space: -space.free_gb)
    best = home if home and (home.is_shared or not shared) else next(iter(shared), home)
    paths = [space.path for space in found.spaces]
    told = {space.path: f"{space.kind}, {space.free_gb:.0f} GB free" for space in found.spaces}
    if not best:
        yield "root: $HOME/.nemodeploy               # must be on a file system that all nodes share"
        return
    path = best.path
    if not best.is_shared and len(paths) > 1:
        path = choose("which of these do all nodes share?", paths, best.path)
    root = "$HOME/.nemodeploy" if path == found.home else f"{path}/nemodeploy"
    sure = "" if best.is_shared else "; is it shared by all nodes?"
    yield f"root: {json.dumps(root) if ' ' in root else root}   # {told[path]}{sure}"


def _slurm(found: Found, choose: Choose) -> Iterator[str]:
    survey = found.survey
    if not survey.version:
        yield from _no_slurm(found)
        return
    name = partition(survey, choose)
    words = [f"path: {found.slurm_path}"] if found.slurm_path else []
    words += [f"partition: {json.dumps(name)}"] if name else []
    accounts = list(survey.accounts or ())
    if len(accounts) > 1:
        account = choose("which account is to pay?", accounts, accounts[0])
        words.append(f"account: {json.dumps(account)}")
    if words:
        yield f"slurm: {{{', '.join(words)}}}"
    if found.slurm_path:
        yield "# path: only a login shell finds Slurm's commands; what else its module sets goes to ~/.bashrc"
    if len(accounts) == 1:
        yield f"# account {accounts[0]} is your only one, and so the default"
    if len(accounts) > 1:
        yield f"# other accounts of yours: {', '.join(one for one in accounts if one != account)}"
    others = [one for one in survey.partitions.values() if one.name != name]
    if others:
        yield f"# other partitions: {', '.join(map(_told, others))}"
    chosen = survey.partitions.get(name)
    if chosen and chosen.longest_s is not None and chosen.longest_s < USUAL_S:
        yield f'time: "{duration(chosen.longest_s)}"                      # {name} allows no more'
    yield from _gpus(survey, name)


def _no_slurm(found: Found) -> Iterator[str]:
    """A host with GPUs may be meant to serve by itself; one without them is more likely a login node."""
    if found.has_gpus:
        yield "scheduler: none                       # no Slurm was found there: the host itself serves"
        return
    yield "# No Slurm was found there, nor in a login shell, and this host has no GPUs: nothing is started on it."
    yield "# slurm: {path: /opt/slurm/bin}         # where Slurm's commands are, as `command -v sbatch` says"
    yield "# scheduler: none                       # instead, if this host itself is to serve"


def partition(survey: Survey, choose: Choose) -> str:
    """The one with GPUs; of several the default, or the one with most nodes, unless a person says otherwise."""
    nodes = {
        name: sum(kind.nodes for kind in survey.of(name) if kind.gpus)
        for name, one in survey.partitions.items()
        if one.state == "UP"
    }
    names = [name for name, count in nodes.items() if count] or list(nodes)
    if not names:
        return ""
    best = survey.default_partition
    best = best if best in names else max(names, key=lambda name: nodes[name])
    return choose("which partition?", names, best) if len(names) > 1 else best


def _told(one: Partition) -> str:
    longest = "no time limit" if one.longest_s is None else f"up to {duration(one.longest_s)}"
    return f"{one.name} ({longest}{'' if one.state == 'UP' else ', ' + one.state})"


def _gpus(survey: Survey, name: str) -> Iterator[str]:
    by_gres = survey.settings.get("SelectType", "").endswith(("cons_res", "linear"))
    types = gpu_types(survey.of(name))
    if types:
        yield "gpus:                                 # how this site asks for GPUs; the number becomes the profile's"
        for ours, (word, count) in sorted(types.items()):
            kind = f"{word}:" if word else ""
            request = f"--gres=gpu:{kind}{count}" if by_gres else f"--gpus-per-node={kind}{count}"
            yield f"  {ours}: {{request: {json.dumps(request)}}}"
    seen = sorted({word or "without a type" for kind in survey.of(name) for word in kind.gpus})
    unknown = [word for word in seen if not any(word == site for site, _ in types.values())]
    if unknown and not (types and unknown == ["without a type"]):
        yield f"# GPUs that no shipped profile knows: {', '.join(unknown)}; a profile of your own may (docs/files.md)"


def _rest(found: Found) -> Iterator[str]:
    best, *others = [*found.runtimes, NO_RUNTIME][: max(len(found.runtimes), 1)]
    yield f"runtime: {best}{'   # there is also ' + ', '.join(others) if others else ''}"
    if best == NO_RUNTIME:
        yield "# programs: {ENGINE: [/path/to/it]}      # where the server programs lie on the nodes"
    else:
        yield f"# images: {{ENGINE: IMAGE}}              # {found.runtimes[best]}"
    yield "# checkpoints:                          # nemodeploy models show MODEL has the forms"
    yield "#   nemotron-4-340b-instruct: {nemo: /path/on/shared/storage}"
    yield "# secrets: [HF_TOKEN]                   # names only; values are read from your environment"
    yield "# env: {NCCL_SOCKET_IFNAME: ib0}"
