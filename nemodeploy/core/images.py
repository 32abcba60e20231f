"""Container images that were imported once to shared storage: the script that does it, and what is there.

Below `<root>/images`: NAME, the image itself; NAME.txt, what was noted of it when it was whole (the image it is of, its
bytes, the seconds that it took); NAME.work/, an import that is under way. An image counts only while its size is the
noted one, so neither a half-written nor a truncated file is ever taken for it.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemodeploy.core.foreign import wash_line
from nemodeploy.core.plan import Plan
from nemodeploy.core.processes import SAME
from nemodeploy.core.rendering import comment
from nemodeploy.core.sections import Section, here_document
from nemodeploy.core.spec import Cluster, Registry
from nemodeploy.values import Secret

# Shell text, for a file in $file: its size is the noted one.
IS_WHOLE = '[ -s "$file" ] && [ "$(wc -c <"$file" | tr -d " ")" = "$(sed -n "s/^bytes //p" "$file.txt" 2>/dev/null)" ]'
_SHOWN_BYTES = 4096
# Shell function: whether somebody is at an import on a login host. From another one only its files can tell.
# A process id may be another process's by now. An import of an older version noted no more; its own words name it.
_AT_IT = f"""\
{SAME.strip()}
is_it() {{
  if read -r pid start its_boot 2>/dev/null <process; then same "$pid" "$start" "$its_boot"; return; fi
  pid=$(cat pid) && tr '\\0' '\\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -e "$PWD"
}}
at_it() {{
  [ -s pid ] || return 1
  if [ "$(cat host 2>/dev/null)" = "$(uname -n)" ]; then is_it; return; fi
  [ -n "$(find . -mmin -10 2>/dev/null | head -n 1)" ]
}}
"""
# Shell text for `start_script`: run the import by itself on the login host. Nobody's terminal, the lowest priority, and
# a session of its own, so that it can be ended whole.
ON_LOGIN_HOST = """\
nohup setsid nice -n 19 sh ./import.sh "$PWD" >log 2>&1 </dev/null &
echo "$! $(start_of "$!") $boot" >process
echo "$!" >pid"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """An image that is there: which, how large (bytes), and how long its import took (seconds)."""

    image: str
    bytes: int
    seconds: int

    @property
    def saves(self) -> str:
        """What a start is spared."""
        minutes = self.seconds / 60
        return f"{minutes:.0f} min" if minutes >= 1 else f"{self.seconds} s"


def file_name(image: str, suffix: str) -> str:
    """The name below `<root>/images`: readable, and another one for every image."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", image.rpartition("://")[2]).strip("-.")
    return f"{plain[-80:]}-{hashlib.sha256(image.encode()).hexdigest()[:8]}.{suffix}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """An image's name, read. Each part is empty where the name does not say it; a file's has no registry."""

    registry: str
    repository: str
    tag: str
    digest: str = ""


def read_name(image: str) -> Reference:
    """Any spelling of an image: docker's `[docker://]HOST:PORT/NAME:TAG@DIGEST`, enroot's `[USER@]HOST#NAME:TAG`, and
    the files that enroot (`ns+name+tag.sqsh`), apptainer (`name_tag.sif`) and `image pull` (`…-tag-HASH.sqsh`) write.
    """
    scheme, _, rest = image.rpartition("://")
    file = re.fullmatch(r"(.+)\.(?:sqsh|squashfs|sif|simg|img)", rest.rstrip("/").rpartition("/")[2])
    if file or (not scheme and rest.startswith(("/", "./", "../"))):
        return _of_file(file[1] if file else rest.rstrip("/").rpartition("/")[2])
    name, _, digest = rest.partition("@sha256:")
    host = re.match(r"([^/#]*)[/#]", name)
    registry = host[1].rpartition("@")[2] if host else ""
    if host and ("#" in host[0] or "." in registry or ":" in registry or registry == "localhost"):
        name = name[host.end() :]
    else:
        registry = ""
    match = re.fullmatch(r"(.*?)(?::(?P<tag>[^:/]*))?", name)
    path, tag = (match[1], match["tag"] or "") if match else (name, "")
    return Reference(registry=registry, repository=path, tag=tag, digest=f"sha256:{digest}" if digest else "")


def _of_file(stem: str) -> Reference:
    """A tag begins behind a `+` or `:`, or, where there is none, at the first digit behind a `_` or `-`."""
    stem = re.sub(r"-[0-9a-f]{8}$", "", stem) if re.search(r"-\d[\w.+-]*-[0-9a-f]{8}$", stem) else stem
    match = re.fullmatch(r"(.+)[+:]([^+:]*\d[^+:]*)", stem) or re.fullmatch(r"(.+?)[_-](\d+\.\d.*)", stem)
    repository, tag = match.groups() if match else (stem, "")
    return Reference(registry="", repository=repository.replace("+", "/").replace("#", "/"), tag=tag)


def registry_of(image: str) -> str:
    """The host that an image comes from; empty: it names none."""
    return read_name(image).registry


def look_script(root: str, name: str) -> str:
    """Shell text that prints what was noted of an image, if it is whole; `root` as shell text."""
    return f'file={root}/images/{shlex.quote(name)}\nif {IS_WHOLE}; then cat "$file.txt"; fi; exit 0'


def parse(answer: Section, image: str) -> Imported | None:
    """What `look_script` printed; None: it is not there, or the file is another image's."""
    said = dict(line.split(" ", 1) for line in answer.text.splitlines() if " " in line)
    numbers = [said.get(key, "") for key in ("bytes", "seconds")]
    if said.get("image") != image or not all(number.isdigit() for number in numbers):
        return None
    return Imported(image=image, bytes=int(numbers[0]), seconds=int(numbers[1]))


def told(plan: Plan, answer: Section, cluster: Cluster) -> str:
    """For the line of checks: whether a deployment is spared the import, and who the nodes are to a registry."""
    if not plan.imported:
        return ""
    found = parse(answer, plan.image)
    if found:
        return f" · the image is imported, which saves {found.saves}"
    who = how_nodes_ask(plan.image, cluster.registries)
    return f" · every node imports the image by itself{who} ({pull_command(plan, cluster)})"


def pull_command(plan: Plan, cluster: Cluster) -> str:
    """What imports this very image: a profile's name alone may mean another."""
    return f"nemodeploy image pull {shlex.quote(plan.image)} --runtime {plan.runtime}{cluster.option}"


def how_nodes_ask(image: str, registries: Sequence[Registry]) -> str:
    """To be said of an image that nodes fetch, where somebody expects that they are told a key; else empty."""
    known = any(registry.host == registry_of(image) for registry in registries)
    return ", by the runtime's own credentials file: registries: is for image pull" if known else ""


def import_script(image: str, name: str, words: str, check: str, login: str, before: str) -> str:
    """The script that imports an image, run in `<root>/images/NAME.work`: `words` make the file $part, and `check` says
    whether it is one. `login` tells the runtime $registry, $registry_user and $registry_password, if there are any; the
    file they come in is gone before anything else is done. `before` is what the site wants first. Its last act is to
    write `status`; the image gets its name only when it is whole.
    """
    return f"""\
#!/bin/sh
# Imports {comment(image)} once, for all nodes and all starts; written by `nemodeploy image pull`.
umask 077
cd "$1" || exit 1
export LC_ALL=C
if [ -r credentials ]; then
  . ./credentials
  rm -f credentials
fi
import() {{
  begun=$(date +%s)
  part=$PWD/part
  file=$PWD/../{shlex.quote(name)}
  {words} || return $?
  {check} || {{ echo "what was made is no image" >&2; return 65; }}
  {{
    printf '%s\\n' {shlex.quote(f"image {image}")}
    echo "bytes $(wc -c <"$part" | tr -d " ")"
    echo "seconds $(($(date +%s) - begun))"
  }} >noted &&
    mv "$part" "$file" && mv noted "$file.txt"
}}
(
{before}[ -z "${{registry:-}}" ] || {{ {login}; }}
import
)
status=$?
rm -rf part .credentials
echo "$status" >status.new && mv status.new status
"""


def start_script(root: str, name: str, text: str, start: str, credentials: str = "") -> str:
    """Shell text that starts an import unless one is under way (or is being started); prints `under way` then.

    `start`: shell text that runs ./import.sh with the directory as argument, and writes its job's id to the file `job`,
    or its process's to `pid`. `credentials`: assignments for the import alone, as `credentials_text` writes them.
    """
    work = _work(root, name)
    more = here_document("credentials", credentials) if credentials else ""
    return f"""\
umask 077
{_AT_IT}mkdir -p {root}/images || exit 1
cd {root}/images || exit 1
mkdir {work} 2>/dev/null || {{
  cd {work} || exit 1
  young=$(find . -maxdepth 0 -mmin -2)
  if [ ! -e status ] && {{ at_it || [ -s job ] || [ -n "$young" ]; }}; then echo "under way"; exit 0; fi
  rm -rf {work} && mkdir {work} || exit 1
}}
cd {work} || exit 1
{here_document("import.sh", text)}{more}uname -n >host
{start}
"""


def credentials_text(registry: Registry, password: Secret) -> str:
    """Who asks at a registry, as shell assignments."""
    values = {"registry": registry.host, "registry_user": registry.user, "registry_password": password.reveal()}
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def watch_parts(root: str, name: str) -> Mapping[str, str]:
    """Shell texts that tell how an import is doing."""
    work = f"cd {_work(root, name)} 2>/dev/null || exit 0\n"
    return {
        "there": work + "echo yes",
        "status": work + "cat status 2>/dev/null; exit 0",
        "alive": _AT_IT + work + "if at_it; then echo yes; fi; exit 0",
        "log": work + f"tail -c {_SHOWN_BYTES} log 2>/dev/null; exit 0",
        "made": work + "du -sk . 2>/dev/null | cut -f 1; exit 0",
        "image": look_script(root, name),
    }


def end_script(root: str, name: str) -> str:
    """Shell text that ends an import on the login host, and takes its files away; a whole image stays."""
    work = _work(root, name)
    kill = '[ -s pid ] && [ "$(cat host)" = "$(uname -n)" ] && is_it && kill -- "-$pid" 2>/dev/null'
    return f"{_AT_IT}cd {work} 2>/dev/null || exit 0\n{kill}\ncd / && rm -rf {work}; exit 0"


def last_words(log: str) -> str:
    """The newest line of a log that redraws itself."""
    lines = [wash_line(line) for line in re.split(r"[\r\n]", log)]
    return next((line for line in reversed(lines) if line), "")[:200]


def _work(root: str, name: str) -> str:
    return f"{root}/images/{shlex.quote(name)}.work"
