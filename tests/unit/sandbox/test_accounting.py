from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox import accounting, configuration, requirements, slurms
from nemodeploy.sandbox.accounting import Daemon
from nemodeploy.sandbox.place import Place
from nemodeploy.sandbox.slurms import Slurm
from tests.conftest import Home
from tests.unit.sandbox.test_configuration import settings

PLACE = Place(Path("/s"))


def test_without_accounting_slurm_conf_has_none_of_it() -> None:
    text = configuration.slurm_conf(settings())
    assert [line for line in text.splitlines() if line.startswith(("Accounting", "JobAcct"))] == [
        "AccountingStorageType=accounting_storage/none"
    ]
    assert "PreemptType=preempt/partition_prio" in text


def test_with_accounting_slurm_enforces_limits_over_munge_in_both_modes() -> None:
    for base in (settings(), settings(1, 2, 3, 4, 5, 6)):
        text = configuration.slurm_conf(replace(base, dbd=Daemon(address="127.0.0.1", port=7)))
        assert "AccountingStorageEnforce=associations,limits,qos" in text
        assert "AccountingStoragePass=/s/munge/socket" in text
        assert "AccountingStoragePort=7" in text
        assert "PreemptType=preempt/qos" in text
        assert "auth/munge" in text


def test_a_guest_has_a_home_of_its_own() -> None:
    text = configuration.sshd_config(replace(settings(), guest="bob"))
    assert text.startswith(configuration.sshd_config(settings()))
    assert "Match User bob\n    SetEnv SLURM_CONF=/s/etc/slurm.conf HOME=/s/shared/homes/bob PATH=" in text


def test_every_qos_of_the_accounts_is_made() -> None:
    made = [line.split()[2] for line in accounting.LIMITS.splitlines() if " qos " in line]
    assert set(made) == set(accounting.QOS)
    assert "modify user root" in accounting.accounts("root")
    assert "modify user" not in accounting.accounts("bob")


def test_slurmdbd_listens_where_slurm_conf_says() -> None:
    text = accounting.slurmdbd_conf(PLACE, Daemon(host="h", address="1.2.3.4", port=7), user="me", plugins="/p")
    assert {"DbdHost=h", "DbdAddr=1.2.3.4", "DbdPort=7", "PluginDir=/p", "SlurmUser=me"} <= set(text.splitlines())


def test_missing_programs_are_named_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurms, "SYSTEM_PATH", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "root/usr/lib/x/slurm-wlm").mkdir(parents=True)
    for name in ("slurmdbd", "sacctmgr"):
        (tmp_path / "bin" / name).touch(mode=0o755)
    with pytest.raises(
        PreflightFailed, match=r"not found: mariadbd, mariadb-install-db, accounting_storage_mysql.so"
    ) as e:
        requirements.require_accounting(Slurm("24.11", home=tmp_path))
    wanted = "apt-get install -y --no-install-recommends mariadb-server slurm-wlm-mysql-plugin"
    assert (e.value.hint or "").removeprefix("sudo ") == wanted


def test_another_owner_or_another_slurm_has_another_database(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/slurmdbd").touch(mode=0o755)
    (tmp_path / "bin/mariadbd").touch(mode=0o755)
    other = Slurm("24.11", home=tmp_path)
    one = requirements.prepared_database(other, "root")
    assert one == requirements.prepared_database(other, "root")
    assert one != requirements.prepared_database(other, "bob")
    (tmp_path / "bin/slurmdbd").write_text("newer")
    assert one != requirements.prepared_database(other, "root")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user is refused for another reason")
@pytest.mark.parametrize(
    ("name", "root", "said"),
    [
        ("no-such-user", "/tmp/box", "there is no such account"),
        ("root", "/tmp/box", "it is root"),
        ("daemon", "/tmp/box", "its shell is"),
    ],
)
def test_an_account_that_cannot_log_in_is_refused(name: str, root: str, said: str) -> None:
    with pytest.raises(PreflightFailed, match=said):
        requirements.require_guest(name, Place(Path(root)))


def test_only_root_can_let_another_user_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PreflightFailed, match="only root"):
        requirements.require_guest("root", PLACE)


def test_a_second_user_needs_accounting(home: Home) -> None:
    done = home.run("sandbox", "up", "--user", "bob")
    assert (done.returncode, "--accounting --user bob" in done.stderr) == (2, True), done.stderr
