"""Which cluster a command talks to."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clusteractl.errors import NoCluster, NoSocket, SocketDenied
from clusteractl.logins import Login
from clusteractl.target import Access, Local, Remote, access, choose
from clusterai.credentials import Credentials

SYSTEM, OTHER, GIVEN = Path("/run/clusterai/clusteraid.sock"), Path("/srv/local.sock"), Path("/tmp/given.sock")
_LIFE = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 27, tzinfo=UTC)
LOGIN = Login("ann", "c-1", ("tower:7443",), b"", Credentials(b"", b"", *_LIFE))


def chosen(given: Path | None = None, login: Login | None = None, /, **found: Access) -> Local | Remote:
    """The target where `found` says what the sockets `system`, `other` and `given` are."""
    names = {SYSTEM: "system", OTHER: "other", GIVEN: "given"}
    return choose(given, (SYSTEM, OTHER), lambda: login, "ann", lambda path: found.get(names[path], Access.ABSENT))


def test_the_daemon_of_this_machine_comes_first() -> None:
    assert chosen(None, LOGIN, system=Access.OPEN, other=Access.OPEN) == Local(SYSTEM)


def test_the_login_comes_next_also_where_the_socket_is_somebody_elses() -> None:
    assert chosen(None, LOGIN, system=Access.DENIED, other=Access.OPEN) == Remote(LOGIN)


def test_the_users_own_local_cluster_comes_last() -> None:
    assert chosen(system=Access.DENIED, other=Access.OPEN) == Local(OTHER)


def test_a_socket_that_was_asked_for_is_taken_or_nothing() -> None:
    assert chosen(GIVEN, LOGIN, system=Access.OPEN, given=Access.OPEN) == Local(GIVEN)
    with pytest.raises(NoSocket, match=str(GIVEN)):
        chosen(GIVEN, LOGIN, system=Access.OPEN)
    with pytest.raises(SocketDenied):
        chosen(GIVEN, LOGIN, system=Access.OPEN, given=Access.DENIED)


def test_a_socket_that_may_not_be_read_names_sudo_and_the_group() -> None:
    with pytest.raises(SocketDenied) as caught:
        chosen(system=Access.DENIED)
    assert "sudo" in caught.value.advice
    assert "usermod -aG clusterai ann" in caught.value.advice
    assert caught.value.status.exit_code == 4


def test_no_cluster_names_both_ways_to_one() -> None:
    with pytest.raises(NoCluster) as caught:
        chosen()
    assert "systemctl start clusteraid" in caught.value.advice
    assert "clusteractl login --server" in caught.value.advice
    assert caught.value.status.exit_code == 5


def test_a_missing_socket_is_absent(tmp_path: Path) -> None:
    assert access(tmp_path / "none") is Access.ABSENT
    assert access(Path(f"/{'a' * 300}")) is Access.ABSENT


def test_a_file_that_others_may_use_is_open(tmp_path: Path) -> None:
    (tmp_path / "s").touch(mode=0o660)
    assert access(tmp_path / "s") is Access.OPEN


_ASK = "import sys, pathlib, clusteractl.target as t; print(*(t.access(pathlib.Path(p)).value for p in sys.argv[1:]))"


def test_a_directory_or_file_closed_to_a_user_is_denied(tmp_path: Path) -> None:
    """Root may open anything, so a process without root's privileges asks."""
    closed, file = tmp_path / "closed", tmp_path / "file"
    closed.mkdir()
    (closed / "s").touch()
    file.touch(mode=0)
    closed.chmod(0)
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = [*unprivileged, sys.executable, "-P", "-c", _ASK, str(closed / "s"), str(file)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    asked = subprocess.run(
        command, env={"PYTHONPATH": path, "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    closed.chmod(0o700)
    assert asked.stdout == "denied denied\n"
