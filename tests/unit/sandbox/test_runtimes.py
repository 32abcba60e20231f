"""What real runtimes the sandbox finds on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import Place
from nemodeploy.sandbox.runtimes.pyxis import Pyxis


def prefix(root: Path, plugin: str) -> Path:
    """An installation of enroot, with or without a plugin of Slurm's."""
    (root / "bin").mkdir(parents=True)
    (root / "bin/enroot").write_text("#!/bin/sh\necho 4.1.2\n")
    (root / "bin/enroot").chmod(0o755)
    if plugin:
        (root / plugin).parent.mkdir(parents=True)
        (root / plugin).touch()
    return root


@pytest.mark.parametrize("plugin", ["lib/slurm/spank_pyxis.so", "lib/x86_64-linux-gnu/slurm-wlm/spank_pyxis.so", ""])
def test_pyxis_is_there_where_enroot_and_its_plugin_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: str
) -> None:
    root = prefix(tmp_path / "opt", plugin)
    monkeypatch.setenv("PATH", f"{root}/bin:/usr/bin:/bin")
    said = list[str]()
    if not plugin:
        with pytest.raises(PreflightFailed, match="Debian has no package"):
            Pyxis().install(tmp_path, said.append)
        return
    program = Pyxis().install(tmp_path, said.append)
    assert said == [f"pyxis is here: {root}/bin/enroot (4.1.2)"]
    place = Place(tmp_path / "box")
    assert Pyxis().spank(Sandbox(place), program) == f"required {root}/{plugin} runtime_path={place.local}/pyxis\n"
