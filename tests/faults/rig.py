"""What faults are made with: a proxy that cuts, programs in front of Slurm's, a changed slurm.conf.

Everything behind it is real: slurmctld, slurmd, sshd, the shell, the job.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import SSH_ALIAS
from nemodeploy.sandbox.proxy import Proxy
from tests.conftest import Home


class Rig:
    """One user, one sandbox, and the faults between them."""

    def __init__(self, site: Home, sandbox: Sandbox) -> None:
        self.site, self.sandbox = site, sandbox
        self.undo: list[Callable[[], object]] = []

    # -- faults --------------------------------------------------------------------------------------------------

    def shim(self, program: str, body: str) -> None:
        """A program of this name in front of the real one, which is `$real`; `$count` counts its calls from 1."""
        path = self.sandbox.place.shims / program
        calls = self.sandbox.place.root / f"run/calls-{program}"
        calls.unlink(missing_ok=True)
        path.write_text(
            f"#!/bin/bash\nreal=$(PATH={self.sandbox.search_path} command -v {program})\n"
            f"echo \"$$ $*\" >>{calls}; count=$(grep -c '' {calls})\nrun={self.sandbox.place.root}/run\n{body}\n"
        )
        path.chmod(0o755)

    def hide(self, *programs: str) -> None:
        """As if the login host had no such programs: its PATH is links to all others."""
        hidden = self.sandbox.place.root / f"run/hidden-{'-'.join(programs)}"
        hidden.mkdir(exist_ok=True)
        for place in self.sandbox.search_path.split(":"):
            for one in Path(place).iterdir():
                link = hidden / one.name
                if one.name not in programs and not link.is_symlink():
                    link.symlink_to(one)
        conf = self.sandbox.place.root / "ssh/sshd_config"  # read anew at every login
        self.undo.append(partial(conf.write_text, conf.read_text()))
        path = f"{self.sandbox.place.shims}:{hidden}"
        conf.write_text(re.sub(r"(?m)^(SetEnv .*\bPATH=).*$", rf"\g<1>{path}", conf.read_text()))

    def calls(self, program: str) -> list[str]:
        path = self.sandbox.place.root / f"run/calls-{program}"
        return [line.partition(" ")[2] for line in path.read_text().splitlines()] if path.exists() else []

    def unshim(self) -> None:
        while self.undo:
            self.undo.pop()()
        for path in (*self.sandbox.place.shims.iterdir(), *(self.sandbox.place.root / "run").glob("calls-*")):
            path.unlink()

    @contextlib.contextmanager
    def slurm_conf(self, **lines: str) -> Iterator[None]:
        """Slurm with other settings; a controller that must be started again for them is."""
        conf = self.sandbox.place.slurm_conf
        before = conf.read_text()
        text = before
        for key, value in lines.items():
            pattern = re.compile(rf"^{key}=.*$", re.MULTILINE)
            line = f"{key}={value}"
            text = pattern.sub(line, text) if pattern.search(text) else f"{line}\n{text}"
        conf.write_text(text)
        self.reconfigure()
        try:
            yield
        finally:
            conf.write_text(before)
            self.reconfigure()

    def reconfigure(self) -> None:
        done = self.sandbox.exec("scontrol", "reconfigure")
        assert done.returncode == 0, done.stderr
        time.sleep(0.5)

    @contextlib.contextmanager
    def proxy(self) -> Iterator[Proxy]:
        """A proxy before the login host, and a cluster file that leads through it."""
        state = self.sandbox.state()
        assert state is not None
        proxy = Proxy(state.port)
        config = proxy.ssh_config(self.sandbox.place, self.site.path)
        document = yaml.safe_load((self.site.config / "clusters/sandbox.yaml").read_text())
        document["ssh"] = {**document["ssh"], "host": SSH_ALIAS, "config": str(config)}
        (self.site.config / "clusters/sandbox.yaml").write_text(yaml.safe_dump(document))
        try:
            yield proxy
        finally:
            proxy.close()

    # -- truth ---------------------------------------------------------------------------------------------------

    def jobs(self) -> Counter[str]:
        """How many Slurm jobs there ever were of each token, by Slurm itself."""
        listed = self.sandbox.exec("squeue", "--noheader", "--states=all", "-O", "JobID:24,Name:96").stdout
        done = self.sandbox.exec("sacct", "-c", "-n", "-P", "-o", "JobID,JobName").stdout.replace("|", " ")
        pairs = {tuple(line.split()) for line in (*listed.splitlines(), *done.splitlines()) if " nd-" in line}
        return Counter(pair[1] for pair in pairs)

    def alive(self) -> list[str]:
        """Names of jobs that Slurm holds anything for."""
        return self.sandbox.exec("squeue", "--noheader", "-o", "%j").stdout.split()

    def await_none_alive(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == []

    def status(self, *words: str) -> dict[str, Any]:
        """The one deployment."""
        (one,) = json.loads(self.site.run("status", "--json", *words).stdout)["deployments"]
        found: dict[str, Any] = one
        return found

    def directory(self, token: str) -> Path:
        name = token.removeprefix("nd-").rpartition("-")[0]
        archived = self.sandbox.place.shared / "nemodeploy/archive" / token  # by the look that has seen its end
        return archived if archived.exists() else self.sandbox.place.shared / "nemodeploy/deployments" / name / token

    def notes(self) -> list[str]:
        """The journal's tokens."""
        return [path.stem for path in (self.site.state / "journal").glob("*.json")]


def only_once(jobs: Counter[str]) -> None:
    """No token ever had a second job."""
    assert [token for token, count in jobs.items() if count > 1] == []
