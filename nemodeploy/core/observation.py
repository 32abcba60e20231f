"""What was seen of one deployment: its run directory's files, trusted only for the epoch that Slurm reports."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nemodeploy.core.foreign import mend_json, wash, wash_line
from nemodeploy.core.listing import natural
from nemodeploy.values import Endpoint, Epoch, Token

MANIFEST_VERSION = 1
SAID_LETTERS = 240
DIGITS = 15  # of the largest number in a file; a float holds as many
LONGEST_GRACE_S = 86400.0
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """health.json: what the supervisor last said. `progress`: how much is loaded, in percent; None: it is not known.

    `port_held`: whether this job's processes listen on its port: ours, foreign, unproven; empty: an older job.

    `mute`: how many answers in a row had status 200 and no text; `asked_s`: for how long a question has waited.

    `said`: the last words in a rank's log, after its name. `silent_ranks`: those whose node gives no sign of life.
    """

    epoch: Epoch
    phase: str
    elapsed_s: int
    ranks_joined: int
    ranks: int
    generated: bool
    progress: int | None = None
    said: str = ""
    silent_ranks: tuple[int, ...] = ()
    port_held: str = ""
    mute: int = 0
    asked_s: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """exit.json: how it ended. `rank` is the first that did, None when none had."""

    epoch: Epoch
    cause: str
    rank: int | None
    rank_status: int | None
    status: int
    port: int | None
    elapsed_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """final.json: the scheduler's last word on the job, kept when the run directory was archived.

    `said`: its state with who cancelled it, or what failed before it began. `elapsed_s` None: it did not say.
    """

    job_id: str
    restart: int
    told_by: str
    state: str
    said: str
    nodes: str
    elapsed_s: int | None

    def as_text(self) -> str:
        """The file."""
        return json.dumps({"schema": "nemodeploy/final@1", **asdict(self)}) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDirectory:
    """The small files of one token. Missing, torn or foreign ones are None, never an error.

    `ttl_s`: the job ends itself when its lease is not renewed for so many seconds; None: it has none. `revoked`: a
    client has taken it back, `revoked_why` is why it did. `has_secrets`: those of its server lie there. `answer`: what
    the server gave to the job's last question: status, newline, raw body; empty where that was not asked for.
    """

    token: Token
    manifest: Mapping[str, Any] = field(default_factory=dict)
    submitted: bool = False
    withheld: bool = False
    submit_status: int | None = None
    submit_out: str = ""
    submit_error: str = ""
    health: Health | None = None
    endpoint: Endpoint | None = None
    exit: Exit | None = None
    final: Final | None = None
    answer: str = ""
    ttl_s: int | None = None
    revoked: bool = False
    revoked_why: str = ""
    has_secrets: bool = False

    @property
    def plan(self) -> Mapping[str, Any]:
        """What was decided, as the manifest keeps it."""
        plan = self.manifest.get("plan")
        return plan if isinstance(plan, Mapping) and _is_sound(plan) else {}

    @property
    def grace_s(self) -> float:
        """How many seconds its server has to end by itself."""
        found = self.plan.get("grace_s")
        return min(max(float(found), 0.0), LONGEST_GRACE_S) if isinstance(found, int | float) else 10.0

    @property
    def from_newer_version(self) -> bool:
        """Whether a newer nemodeploy wrote it, so that its words may mean something else."""
        schema = str(self.manifest.get("schema", ""))
        version = schema.rpartition("@")[2]
        return re.fullmatch(r"[0-9]{1,9}", version) is not None and int(version) > MANIFEST_VERSION

    @property
    def illegible(self) -> str:
        """Why this version can never tell what it is at, however often it looks; empty: it can, or there is no manifest
        yet."""
        if self.from_newer_version:
            version = wash_line(str(self.manifest.get("version") or ""))[:40]
            return "written by a newer version of nemodeploy" + (f" ({version})" if version else "")
        return "its manifest cannot be read" if self.manifest and not self.plan else ""


def _is_sound(plan: Mapping[str, object]) -> bool:
    """Whether a plan has the parts that are read back, each of its kind."""
    layout, prompting = plan.get("layout"), plan.get("prompting")
    return (
        isinstance(plan.get("model"), str)
        and isinstance(layout, Mapping)
        and isinstance(layout.get("gpus"), int)
        and layout["gpus"] >= 0
        and isinstance(prompting, Mapping)
        and isinstance(prompting.get("stop"), list)
    )


def parse_list(text: str) -> tuple[RunDirectory, ...]:
    """Every run directory that the answer of `list_script` shows as live, or that of `archive_script`, by name."""
    end = text.find("\n==> ")  # what stands before the files is short; of the files of a thousand no copy is made
    head = text if end < 0 else text[:end]
    lines = head.splitlines()
    if not lines:
        return ()
    base = lines[0]
    contents = _split(text, base)
    mark = rf"^{re.escape(base)}/(?:[^/]+/)?(nd-[a-z0-9-]+)/(?:submit/)?(go|withheld|revoked|secrets\.env)$"
    marks = set(re.findall(mark, head, re.MULTILINE))
    live = [read_token(line) for line in lines[1:]]
    found = {}
    for token in filter(None, live):
        files = contents.get(str(token), {})
        made = {mark for name, mark in marks if name == str(token)}
        if files or made:
            found[str(token)] = _directory(token, files, made)
    return tuple(found[key] for key in sorted(found, key=lambda key: (natural(found[key].token.name), key)))


def _split(text: str, base: str) -> dict[str, dict[str, str]]:
    """The output of `head -v`, by token and file name. What a server answered comes last and may hold anything: the
    first of a name counts."""
    parts = re.split(rf"^==> {re.escape(base)}/(?:[^/\n]+/)?(nd-[a-z0-9-]+)/([\w./-]+) <==\n", text, flags=re.MULTILINE)
    found: dict[str, dict[str, str]] = {}
    for token, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        found.setdefault(token, {}).setdefault(name, body)
    return found


def read_token(line: str) -> Token | None:
    """A token, or None when the text is not one."""
    try:
        return Token(line.strip())
    except ValueError:
        return None


def _directory(token: Token, files: Mapping[str, str], made: Collection[str]) -> RunDirectory:
    status = files.get("submit/sbatch.rc", "").strip()
    return RunDirectory(
        token=token,
        manifest=_mapping(files.get("manifest.json", "")),
        submitted="go" in made,
        withheld="withheld" in made,
        revoked="revoked" in made,
        revoked_why=wash_line(files.get("revoked", ""))[:SAID_LETTERS],
        has_secrets="secrets.env" in made,
        submit_status=int(status) if re.fullmatch(r"\d{1,3}", status) else None,
        submit_out=wash(files.get("submit/sbatch.out", "")).strip(),
        submit_error=wash(files.get("submit/sbatch.err", "")).strip(),
        health=read_health(files.get("current/health.json", "")),
        answer=files.get("current/probe.body", ""),
        endpoint=read_endpoint(files.get("current/endpoint.json", "")),
        exit=read_exit(files.get("current/exit.json", "")),
        final=read_final(files.get("final.json", "")),
        ttl_s=read_ttl(files.get("lease", "")),
    )


def read_ttl(text: str) -> int | None:
    """The seconds of a lease as the job reads them; None when it would not."""
    word = text.partition(" ")[0].strip()
    return int(word) if re.fullmatch(r"[0-9]{1,7}", word) else None


def read_health(text: str) -> Health | None:
    """health.json, or None when it is not one."""
    data = _mapping(text)
    epoch, silent = Epoch.parse(data.get("epoch")), data.get("silent_ranks")
    if not epoch or not isinstance(data.get("phase"), str):
        return None
    return Health(
        epoch=epoch,
        phase=wash_line(data["phase"])[:40],
        elapsed_s=_number(data, "elapsed_s") or 0,
        ranks_joined=_number(data, "ranks_joined") or 0,
        ranks=_number(data, "ranks") or 0,
        generated=data.get("generated") is True,
        progress=_number(data, "progress"),
        said=wash_line(str(data.get("said", "")))[:SAID_LETTERS],
        silent_ranks=tuple(rank for rank in silent if isinstance(rank, int)) if isinstance(silent, list) else (),
        port_held=str(data.get("port_held", ""))[:10],
        mute=_number(data, "mute") or 0,
        asked_s=_number(data, "asked_s") or 0,
    )


def read_endpoint(text: str) -> Endpoint | None:
    """endpoint.json, or None when it is not one."""
    data = _mapping(text)
    epoch, port, host = Epoch.parse(data.get("epoch")), _number(data, "port"), data.get("host")
    if not epoch or not port or port > 65535 or not isinstance(host, str) or not _HOST.fullmatch(host):
        return None
    return Endpoint(
        host=host,
        port=port,
        protocol=wash_line(str(data.get("protocol", ""))),
        model=wash_line(str(data.get("model", ""))),
        epoch=epoch,
        nonce=str(data.get("nonce", "")),
        generation_s=(_number(data, "generation_ms") or 0) / 1000,
    )


def read_exit(text: str) -> Exit | None:
    """exit.json, or None when it is not one."""
    data = _mapping(text)
    epoch = Epoch.parse(data.get("epoch"))
    if not epoch or not isinstance(data.get("cause"), str):
        return None
    return Exit(
        epoch=epoch,
        cause=wash_line(data["cause"])[:40],
        rank=_number(data, "rank"),
        rank_status=_number(data, "rank_status"),
        status=_number(data, "status") or 0,
        port=_number(data, "port"),
        elapsed_s=_number(data, "elapsed_s") or 0,
    )


def read_final(text: str) -> Final | None:
    """final.json, or None when it is not one."""
    data = _mapping(text)
    words = {key: wash_line(str(data.get(key, "")))[:400] for key in ("job_id", "told_by", "state", "said", "nodes")}
    if not words["job_id"].isdigit() or not words["state"]:
        return None
    return Final(restart=_number(data, "restart") or 0, elapsed_s=_number(data, "elapsed_s"), **words)


def _mapping(text: str) -> Mapping[str, Any]:
    """A JSON object, with text that can be encoded. It is not washed: a manifest's template, stop strings and paths are
    used as they are, and may hold control characters; an owner is compared. What is shown of it is washed there."""
    try:
        data = json.loads(text, parse_int=_bounded_int, parse_float=_bounded_float, parse_constant=_no_number)
        data = mend_json(data) if "\\u" in text else data
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _bounded_int(word: str) -> int:
    """A number that every later sum can hold; ValueError for one that no program of ours has written."""
    if len(word) > DIGITS:
        raise ValueError(f"a number of {len(word)} digits")
    return int(word)


def _bounded_float(word: str) -> float:
    found = float(word)
    return found if abs(found) < 10.0**DIGITS else _no_number(word)


def _no_number(word: str) -> float:
    raise ValueError(f"{word[:20]} is out of bounds")


def _number(data: Mapping[str, Any], key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
