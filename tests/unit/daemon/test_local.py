"""`clusteraid local`: its options, its directory, and what it waits for."""

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from clusterai.errors import ClusterAIError
from clusterai.files import BadFile, load_json
from clusterai.v1 import node_admin_pb2 as admin
from clusterai.v1 import types_pb2 as types
from clusterai.v1.cluster_pb2 import PoolStatus
from clusterai.v1.types_pb2 import EnvironmentSpec, EnvironmentStatus, WorkerStatus
from clusterai.v1.worker_pb2 import IssueDaskClientResponse
from clusterai_agent.config import load_config as load_agent_config
from clusteraid.config import DaemonConfig
from clusteraid.config import load_config as load_daemon_config
from clusteraid.local import parse
from clusteraid.local_state import AlreadyRunning, LocalOptions, LocalState, dask_variables
from clusteraid.local_watch import Stage, stage_of

READY = EnvironmentStatus(state=types.ENVIRONMENT_STATE_READY)


def options(state: Path, **changes: object) -> LocalOptions:
    return LocalOptions(state, **changes)  # type: ignore[arg-type]


def test_what_follows_two_dashes_is_the_command() -> None:
    given = parse(["--workers", "3", "--state", "/s", "--", "python3", "x.py", "--", "--state"])
    assert given.state == Path("/s")
    assert given.workers == 3
    assert given.command == ("python3", "x.py", "--", "--state")


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--workers", "x"], ["--threads", "-1"], ["what"]])
def test_wrong_options_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert "usage: clusteraid local" in capsys.readouterr().err


def test_the_state_is_a_persons_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert parse([]).state == Path("/data/clusterai/local")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert parse([]).state == Path("/home/me/.local/share/clusterai/local")


def test_what_is_written_is_what_daemon_and_agent_read(tmp_path: Path) -> None:
    state = LocalState(tmp_path / 'odd "name" é\\')
    given = options(tmp_path, workers=3, python="3.12", wheels=Path("/wheels"), index_url="http://i/s")
    with state.claimed(), state.configured(given):
        daemon, agent = load_daemon_config(state.daemon_config), load_agent_config(state.agent_config)
    assert daemon.server.listen == "127.0.0.1"
    assert daemon.server.socket == state.socket
    assert daemon.pool.python == "3.12"
    assert daemon.units.stop_on_exit
    assert not daemon.discovery.announce
    assert daemon.gateway.directory.is_relative_to(state.directory), "never the one of a server on the same machine"
    assert daemon.pool.compute_directory == agent.state.compute_directory == state.directory / "compute"
    assert agent.server.addresses == (f"127.0.0.1:{daemon.server.port}",)
    assert agent.server.local_token_file == daemon.local_node.token_file
    assert agent.worker.count == 3
    assert agent.worker.contact_address == "127.0.0.1"
    assert (agent.environment.wheel_directory, agent.environment.offline) == (Path("/wheels"), True)
    assert agent.units.stop_on_exit


def daemon_config(state: LocalState) -> DaemonConfig:
    with state.configured(options(state.directory)):
        return load_daemon_config(state.daemon_config)


def test_ports_stay_the_same_while_they_are_free(tmp_path: Path) -> None:
    state = LocalState(tmp_path / "state")
    with state.claimed():
        first = daemon_config(state)
        assert daemon_config(state) == first
        with socket.create_server(("127.0.0.1", first.pool.scheduler_port)):
            moved = daemon_config(state)
    assert moved.pool.scheduler_port != first.pool.scheduler_port
    assert moved.server == first.server


def test_two_that_start_at_once_choose_different_ports_though_nobody_listens_yet(tmp_path: Path) -> None:
    first, second = LocalState(tmp_path / "first"), LocalState(tmp_path / "second")
    with first.claimed(), second.claimed(), first.configured(options(tmp_path)), second.configured(options(tmp_path)):
        chosen = [load_json(state.directory / "ports.json").values() for state in (first, second)]
    assert len({*chosen[0], *chosen[1]}) == 8


def test_damaged_ports_do_no_harm(tmp_path: Path) -> None:
    state = LocalState(tmp_path / "state")
    with state.claimed():
        for text in ('{"port": "x", "scheduler_port": true, "dashboard_port": 99999}', "nonsense"):
            (state.directory / "ports.json").write_text(text)
            assert 0 < daemon_config(state).pool.dashboard_port < 1 << 16


def test_one_directory_has_one_owner(tmp_path: Path) -> None:
    state = LocalState(tmp_path / "state")
    with state.claimed():
        with pytest.raises(AlreadyRunning) as caught, state.claimed():
            raise AssertionError
        assert f"(process {os.getpid()})" in str(caught.value)
        assert "--state DIR" in caught.value.advice
    with state.claimed():
        assert state.run.is_dir()
    assert not state.run.exists()


def test_sockets_of_a_long_path_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    state = LocalState(tmp_path / ("x" * 100))
    assert state.run.parent == tmp_path
    with state.claimed():
        assert stat.S_IMODE(state.run.stat().st_mode) == 0o700
    assert LocalState(tmp_path / ("y" * 100)).run != state.run


@pytest.mark.parametrize("kind", ["link", "open"])
def test_a_directory_for_sockets_that_others_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    state = LocalState(tmp_path / ("x" * 100))
    if kind == "link":
        (tmp_path / "other").mkdir()
        state.run.symlink_to(tmp_path / "other")
    else:
        state.run.mkdir()
        state.run.chmod(0o777)
    with pytest.raises(BadFile), state.claimed():
        raise AssertionError


def test_a_state_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterAIError, match="cannot write"), LocalState(tmp_path / "file/state").claimed():
        raise AssertionError


def test_dask_env_is_for_its_owner_and_for_a_shell(tmp_path: Path) -> None:
    state = LocalState(tmp_path / "it's here")
    reply = IssueDaskClientResponse(
        scheduler_address="tls://127.0.0.1:1", ca_bundle_pem=b"ca", environment=EnvironmentSpec(environment_hash="abc")
    )
    with state.claimed():
        variables = state.write_dask_env(reply, b"key")
    assert stat.S_IMODE(state.dask_env.stat().st_mode) == 0o600
    assert stat.S_IMODE((state.directory / "client/dask.pem").stat().st_mode) == 0o600
    command = ["sh", "-c", '. "$0"; env', str(state.dask_env)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, value in dask_variables("tls://127.0.0.1:1", *client_files(state)).items():
        assert f"{name}={value}\n" in shown
        assert variables[name] == value
    assert variables["PATH"].startswith(f"{state.directory}/compute/env/abc/bin:")


def client_files(state: LocalState) -> tuple[Path, Path]:
    return state.directory / "client/dask.pem", state.directory / "client/dask-ca.pem"


def node(environment: EnvironmentStatus = READY, workers: int = 1, **fields: object) -> admin.Node:
    return admin.Node(environment=environment, workers=[WorkerStatus()] * workers, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of", "pool", "expected"),
    [
        (None, PoolStatus(), Stage("agent", text="the agent joins")),
        (node(EnvironmentStatus(state=types.ENVIRONMENT_STATE_BUILDING, progress_ratio=0.5, reason="numpy")),
         PoolStatus(), Stage("environment", 0.5, "numpy")),
        (node(EnvironmentStatus(state=types.ENVIRONMENT_STATE_FAILED, reason="why", hint="fix")),
         PoolStatus(), Stage("environment", failure="why", hint="fix")),
        (node(EnvironmentStatus(state=types.ENVIRONMENT_STATE_INCOMPATIBLE, reason="no 3.14", hint="apt")),
         PoolStatus(), Stage("environment", failure="no 3.14", hint="apt")),
        (node(), PoolStatus(scheduler_state="waiting", reason="soon"), Stage("scheduler", text="soon")),
        (node(), PoolStatus(scheduler_state="failed", reason="port taken"), Stage("scheduler", failure="port taken")),
        (node(), PoolStatus(scheduler_state="running"), Stage("workers", 0.0, "workers register")),
        (node(workers=2), PoolStatus(scheduler_state="running", worker_count=1),
         Stage("workers", 0.5, "workers register")),
        (node(workers=0), PoolStatus(scheduler_state="running"), Stage("workers", 0.0, "workers register")),
        (node(), PoolStatus(scheduler_state="running", worker_count=1), Stage("")),
    ],
)  # fmt: skip
def test_what_is_missing(of: admin.Node | None, pool: PoolStatus, expected: Stage) -> None:
    assert stage_of(of, pool) == expected
