"""What lies on a cluster besides what is up: unlinked run directories, the archive, and how old leases are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from nemodeploy.core.observation import read_token
from nemodeploy.core.run_directory import FILE_SYSTEM_TIME
from nemodeploy.values import Token


@dataclass(frozen=True, kw_only=True, slots=True)
class Remains:
    """Ages in seconds by the file system's own clock: of leases since their last renewal, of run directories without a
    name (every one; whoever asks leaves out what is live), and of archived ones. Owners where they are known."""

    renewed: Mapping[Token, int] = field(default_factory=dict)
    unlinked: Mapping[Token, int] = field(default_factory=dict)
    archived: Mapping[Token, int] = field(default_factory=dict)
    owners: Mapping[Token, str] = field(default_factory=dict)


def remains_script(root: str) -> str:
    """POSIX shell, three processes for everything: ages by `stat`, owners by `grep`. `root` is shell text."""
    return (
        f"cd {root} 2>/dev/null || exit 0\n"
        f'{FILE_SYSTEM_TIME}; echo "$now now"\n'
        "printf '%s\\0' deployments/*/nd-*/lease deployments/*/nd-*/renewed deployments/*/nd-* archive/nd-*"
        " | xargs -0 -r stat -c '%Y %n' 2>/dev/null\n"
        "find deployments archive -maxdepth 3 -name manifest.json -type f -size -1024k -print0 2>/dev/null"
        ' | xargs -0 -r grep -s -o -H \'"owner": "[^"]*"\'\n'
        "exit 0\n"
    )


def parse_remains(text: str) -> Remains:
    """What `remains_script` printed; what is not ours is passed over."""
    now = re.search(r"^(\d+) now$", text, re.MULTILINE)
    if not now:
        return Remains()
    renewed: dict[Token, int] = {}
    unlinked: dict[Token, int] = {}
    archived: dict[Token, int] = {}
    owners: dict[Token, str] = {}
    for stamp, path in re.findall(r"^(\d+) (\S+)$", text, re.MULTILINE):
        parts = path.split("/")
        token = read_token(parts[1] if parts[0] == "archive" else parts[2]) if len(parts) > 1 else None
        if token is None:
            continue
        age_s = max(int(now[1]) - int(stamp), 0)
        where = archived if parts[0] == "archive" else renewed if parts[-1] in ("lease", "renewed") else unlinked
        where[token] = min(age_s, where.get(token, age_s))
    for name, owner in re.findall(r'^\S*/(nd-[a-z0-9-]+)/manifest\.json:"owner": "([^"\n]*)"$', text, re.MULTILINE):
        token = read_token(name)
        if token:
            owners[token] = owner
    return Remains(renewed=renewed, unlinked=unlinked, archived=archived, owners=owners)
