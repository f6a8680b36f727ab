"""The daemon as a program: starting, refusing to start, reloading, a full disk, stopping."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc.aio import EOF  # type: ignore[attr-defined]

from clusterai.rpc import from_rpc_error
from clusterai.v1.cluster_pb2 import CHECK_OUTCOME_FAILED, CHECK_OUTCOME_WARNING, GetStatusRequest, RunChecksRequest
from clusterai.v1.cluster_pb2_grpc import ClusterServiceStub
from clusterai.v1.event_pb2 import WatchEventsRequest
from clusterai.v1.event_pb2_grpc import EventServiceStub
from clusterai.v1.log_pb2 import ReadLogsRequest
from clusterai.v1.log_pb2_grpc import LogServiceStub
from clusterai.v1.node_admin_pb2 import DrainNodeRequest, ListNodesRequest, UndrainNodeRequest
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceStub
from clusterai.v1.node_pb2 import Farewell, LogChunk, SessionRequest
from clusterai.v1.token_pb2 import CreateTokenRequest, ListTokensRequest
from clusterai.v1.token_pb2_grpc import TokenServiceStub
from clusterai.v1.types_pb2 import LogLine
from clusterai.v1.unit_pb2 import StartUnitRequest
from clusterai.v1.unit_pb2_grpc import UnitServiceStub
from support.killable import KillableDaemon, killable_daemon
from support.sim_node import operator, sim_node, state
from support.tree import ROOT, python_path
from support.waiting import until


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[KillableDaemon]:
    async with killable_daemon(tmp_path) as running:
        yield running


async def refused_to_start(daemon: KillableDaemon, code: int = 1) -> str:
    """Start the daemon, which must give up; return what it said last."""
    daemon.log.write_text("")
    process = await daemon.launch()
    assert await asyncio.wait_for(process.wait(), 90) == code, daemon.said()
    return daemon.said()


async def status(daemon: KillableDaemon) -> Any:
    async with operator(daemon, ClusterServiceStub) as stub:
        return await stub.GetStatus(GetStatusRequest(), timeout=60)


async def error_of(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value, "the daemon")


async def test_it_stops_quickly_and_says_farewell(daemon: KillableDaemon) -> None:
    async with sim_node(daemon, "pi4") as pi:
        session = await pi.session()
        start = time.monotonic()
        stopping = asyncio.create_task(daemon.stop())
        assert (await session.read_until("farewell")).farewell.reason == Farewell.REASON_SHUTDOWN
        assert await stopping == 0
        assert time.monotonic() - start < 20
    assert not daemon.socket.exists()


async def test_a_second_daemon_on_the_same_state_is_refused(daemon: KillableDaemon, tmp_path: Path) -> None:
    assert daemon.process is not None
    (tmp_path / "second").mkdir()
    second = KillableDaemon(tmp_path / "second")
    second.config.write_text(second.config.read_text().replace(f'"{second.state}"', f'"{daemon.state}"'))
    said = await refused_to_start(second)
    assert f"another clusteraid (process {daemon.process.pid}) uses {daemon.state}" in said
    assert "Traceback" not in said
    assert (await status(daemon)).cluster_id


async def test_a_taken_port_is_named_with_the_way_to_see_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = KillableDaemon(tmp_path)
        daemon.config.write_text(daemon.config.read_text().replace("\nport = 0", f"\nport = {port}"))
        said = await refused_to_start(daemon)
    assert f"cannot listen on 127.0.0.1:{port} ([server] port): Address already in use" in said
    assert f"ss -ltnp 'sport = :{port}'" in said
    assert "Traceback" not in said


async def test_a_damaged_store_is_named_with_the_way_back(tmp_path: Path) -> None:
    async with killable_daemon(tmp_path) as daemon:
        await daemon.token()
    damaged = b"\x00garbage" * 4096
    daemon.database.write_bytes(damaged)
    said = await refused_to_start(daemon)
    assert f"the store {daemon.database} is damaged" in said
    assert "backup" in said
    assert daemon.database.read_bytes() == damaged


async def test_a_bad_configuration_names_file_key_and_reason(tmp_path: Path) -> None:
    daemon = KillableDaemon(tmp_path, settings='[session]\nheartbeat_seconds = "soon"\n')
    assert "session.heartbeat_seconds = 'soon': must be a number, not a string" in await refused_to_start(daemon, 2)
    assert str(daemon.config) in daemon.said()


async def test_a_bad_configuration_at_reload_changes_nothing_and_is_shown(daemon: KillableDaemon) -> None:
    assert daemon.process is not None
    good = daemon.config.read_text()
    daemon.config.write_text(good + "[session]\nheartbeat_secs = 3\n")
    os.kill(daemon.process.pid, signal.SIGHUP)
    while not (problems := (await status(daemon)).problems):
        await asyncio.sleep(0.02)
    assert "session.heartbeat_secs" in problems[0]
    assert "the old one stays in use" in problems[0]
    daemon.config.write_text(good + "[session]\nheartbeat_seconds = 1\noffline_seconds = 3\n")
    os.kill(daemon.process.pid, signal.SIGHUP)
    while (await status(daemon)).problems:
        await asyncio.sleep(0.02)
    async with sim_node(daemon, "pi4") as pi:
        session = await pi.session()
        if session.welcome.heartbeat_interval_seconds != 1:
            answer = await session.read_until("heartbeat_interval")
            assert answer.heartbeat_interval.heartbeat_interval_seconds == 1


async def test_what_needs_a_restart_says_so_at_reload(daemon: KillableDaemon) -> None:
    assert daemon.process is not None
    daemon.config.write_text(daemon.config.read_text() + "[certificates]\nlifetime_seconds = 3600\n")
    os.kill(daemon.process.pid, signal.SIGHUP)
    while not (problems := (await status(daemon)).problems):
        await asyncio.sleep(0.02)
    assert "[certificates]" in problems[0]
    assert "restarted" in problems[0]


@pytest.mark.parametrize(("text", "code", "said"), [
    ("[pool]\nname = 'main'\n", 0, "ok"),
    ("[pool]\nname = '../etc'\n", 2, "pool.name = '../etc'"),
    ("[server]\nport = 70000\n", 2, "server.port = 70000: must be 0 to 65535"),
    ("[server]\nport = true\n", 2, "server.port = True: must be an integer"),
    ("[servers]\n", 2, "unknown key; known are"),
    ("[[", 2, "not TOML"),
])
def test_a_configuration_can_be_checked(tmp_path: Path, text: str, code: int, said: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    command = [sys.executable, "-P", "-m", "clusteraid", "--check-config", "--config", str(tmp_path / "c.toml")]
    ended = subprocess.run(
        command, cwd=ROOT, env=python_path(), capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == code, ended.stderr
    assert said in ended.stdout + ended.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], check=True, timeout=60)
    yield directory
    subprocess.run(["umount", str(directory)], check=True, timeout=60)


async def test_with_a_full_disk_it_refuses_changes_serves_the_rest_and_recovers(
    tmp_path: Path, small_disk: Path
) -> None:
    daemon = KillableDaemon(tmp_path, settings="[session]\nheartbeat_seconds = 0.5\noffline_seconds = 2\n")
    daemon.state = small_disk / "state"
    text = daemon.config.read_text()
    daemon.config.write_text(re.sub("state_directory = .*", f'state_directory = "{daemon.state}"', text))
    await daemon.start()
    try:
        async with sim_node(daemon, "pi4") as pi, operator(daemon, TokenServiceStub) as tokens:
            session = await pi.session()
            fill(small_disk)
            errors = [error async for error in refusals(tokens)]
            assert errors[-1].code == "store-unavailable"
            assert str(daemon.database) in str(errors[-1])
            assert "df " in errors[-1].advice
            await session.beat()
            assert await state(daemon, "pi4") == "ready"
            assert "cannot be written" in (await status(daemon)).problems[0]
            (small_disk / "filler").unlink()
            created = await tokens.CreateToken(CreateTokenRequest(), timeout=60)
            listed = await tokens.ListTokens(ListTokensRequest(), timeout=60)
            assert created.details.token_id in {token.token_id for token in listed.tokens}
            assert not (await status(daemon)).problems
            await session.beat()
            assert await state(daemon, "pi4") == "ready"
    finally:
        await daemon.stop()


def fill(directory: Path) -> None:
    """Leave no byte free."""
    with (directory / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * max(shutil.disk_usage(directory).free, 1))
            except OSError:
                return


async def refusals(tokens: Any) -> AsyncIterator[Any]:
    """Create tokens until it is refused; what the log still has room for may succeed."""
    for _ in range(500):
        try:
            await tokens.CreateToken(CreateTokenRequest(bound_name="n" * 60), timeout=60)
        except grpc.aio.AioRpcError as error:
            yield from_rpc_error(error, "the daemon")
            return


async def test_a_drain_outlives_a_kill(daemon: KillableDaemon) -> None:
    async with sim_node(daemon, "pi4"), operator(daemon, NodeAdminServiceStub) as admin:
        async for _ in admin.DrainNode(DrainNodeRequest(node_id="pi4"), timeout=60):
            pass
    await daemon.kill()
    await daemon.start()
    assert daemon.query("SELECT desired FROM node") == [("drained",)]
    async with operator(daemon, NodeAdminServiceStub) as admin:
        await admin.UndrainNode(UndrainNodeRequest(node_id="pi4"), timeout=60)
        error = await error_of(admin.UndrainNode(UndrainNodeRequest(node_id="pi4"), timeout=60))
        assert error.code == "not-draining"


async def test_an_absent_node_and_a_foreign_unit_are_not_found(daemon: KillableDaemon) -> None:
    async with operator(daemon, NodeAdminServiceStub) as admin:
        odd = admin.UndrainNode(UndrainNodeRequest(node_id="../x"), timeout=60)
        assert (await error_of(odd)).code == "no-such-node"
    async with operator(daemon, UnitServiceStub) as units:
        assert (await error_of(units.StartUnit(StartUnitRequest(unit="sshd"), timeout=60))).code == "unit-not-ours"


async def test_events_are_followed_and_outlive_a_restart(daemon: KillableDaemon) -> None:
    async with operator(daemon, EventServiceStub) as stub:
        call = stub.WatchEvents(WatchEventsRequest(follow=True), timeout=60)
        await daemon.token()
        event = (await call.read()).event
        assert event.kind == "token-created"
        call.cancel()
    await daemon.stop()
    await daemon.start()
    async with operator(daemon, EventServiceStub) as stub:
        kept = [response.event async for response in stub.WatchEvents(WatchEventsRequest(), timeout=60)]
        later = WatchEventsRequest(after_sequence=event.sequence)
        assert [r.event async for r in stub.WatchEvents(later, timeout=60)] == kept[1:]
    assert kept[0] == event


async def test_a_nodes_log_is_read_over_its_session(daemon: KillableDaemon) -> None:
    async with sim_node(daemon, "pi4") as pi, operator(daemon, LogServiceStub) as logs:
        session = await pi.session()
        call = logs.ReadLogs(ReadLogsRequest(node_id="pi4", unit="clusterai-agent", line_count=7), timeout=60)
        first = asyncio.create_task(call.read())
        request = (await session.read_until("log_request")).log_request
        assert (request.unit, request.line_count, request.follow) == ("clusterai-agent", 7, False)
        chunk = LogChunk(request_id=request.request_id, lines=[LogLine(message="hello")], done=True)
        await session.call.write(SessionRequest(log_chunk=chunk))
        line = (await first).lines[0]
        assert (line.message, line.node_id) == ("hello", "pi4")
        assert await call.read() is EOF


async def test_a_reader_of_a_log_that_leaves_is_told_to_the_node(daemon: KillableDaemon) -> None:
    async with sim_node(daemon, "pi4") as pi, operator(daemon, LogServiceStub) as logs:
        session = await pi.session()
        call = logs.ReadLogs(ReadLogsRequest(node_id="pi4", follow=True), timeout=60)
        reading = asyncio.create_task(call.read())
        request = (await session.read_until("log_request")).log_request
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert (await session.read_until("log_cancel")).log_cancel.request_id == request.request_id


async def test_the_log_of_a_node_that_is_away_says_so(daemon: KillableDaemon) -> None:
    async with sim_node(daemon, "pi4"), operator(daemon, LogServiceStub) as logs:
        error = await error_of(logs.ReadLogs(ReadLogsRequest(node_id="pi4"), timeout=60).read())
    assert error.code == "node-away"


async def test_every_check_answers_with_a_fix_where_it_found_something(daemon: KillableDaemon) -> None:
    async with operator(daemon, ClusterServiceStub) as stub:
        checks = (await stub.RunChecks(RunChecksRequest(), timeout=60)).checks
    names = ["clock", "certificates", "ports", "multicast", "units", "polkit", "environment", "disk", "store"]
    names += ["gateway", "keys", "models", "open-webui", "repository"]
    assert [check.check for check in checks] == names
    for check in checks:
        assert check.message
        found = check.outcome in (CHECK_OUTCOME_WARNING, CHECK_OUTCOME_FAILED)
        assert bool(check.fix) == found, check


async def test_the_local_agents_token_is_there_until_it_is_used(tmp_path: Path) -> None:
    from clusterai.enroll_client import enroll
    from clusterai.tokens import JoinToken
    from support.sim_node import facts

    daemon = KillableDaemon(tmp_path)
    token_file = tmp_path / "run" / "token"
    text = daemon.config.read_text().replace("enroll = false", f'token_file = "{token_file}"')
    daemon.config.write_text(text)
    await daemon.start()
    try:
        await until(token_file.exists)  # it answers before it is ready
        assert token_file.stat().st_mode & 0o777 == 0o640
        text, address = token_file.read_text().splitlines()
        token = JoinToken.parse(text)
        assert address == await daemon.enrollment_address()
        await enroll(await daemon.enrollment_address(), token, name="tower", facts=facts())
        assert not token_file.exists()
        await daemon.stop()
        await daemon.start()
        async with operator(daemon, NodeAdminServiceStub) as admin:
            nodes = (await admin.ListNodes(ListNodesRequest(), timeout=60)).nodes
        assert [listed.node_id for listed in nodes] == ["tower"]
        assert not token_file.exists()
    finally:
        await daemon.stop()


async def test_the_local_agents_token_is_there_when_systemd_hears_that_the_daemon_is_ready(tmp_path: Path) -> None:
    # The agent's unit is started then, and looks for the token once.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)
        daemon = KillableDaemon(tmp_path, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        token_file = tmp_path / "run" / "token"
        daemon.config.write_text(daemon.config.read_text().replace("enroll = false", f'token_file = "{token_file}"'))
        await daemon.launch()
        try:
            async with asyncio.timeout(90):
                while b"READY=1" not in await asyncio.get_running_loop().sock_recv(heard, 4096):
                    pass
            assert token_file.exists()
        finally:
            await daemon.stop()
