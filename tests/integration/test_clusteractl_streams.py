"""Commands that go on for a while: drains, followed logs and events, and how they end."""

import asyncio
import ctypes
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.v1.node_admin_pb2 import NODE_STATE_DRAINED, NODE_STATE_DRAINING, DrainNodeResponse
from support.ctl import Ctl
from support.fake_daemon import FakeDaemon, made_up_cluster
from support.terminal import PATIENCE, interrupted, line_of, on_terminal


def steps(*, done: bool) -> list[DrainNodeResponse]:
    """The course of a drain."""
    course = [
        DrainNodeResponse(state=NODE_STATE_DRAINING, running_task_count=3, total_result_count=12, message="to phone"),
        DrainNodeResponse(state=NODE_STATE_DRAINING, running_task_count=1, moved_result_count=7, total_result_count=12),
    ]
    last = DrainNodeResponse(state=NODE_STATE_DRAINED, moved_result_count=12, total_result_count=12)
    return [*course, last] if done else course


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with made_up_cluster() as running:
        running.cluster.drain_steps = steps(done=True)
        yield running


@pytest.fixture
def ctl(daemon: FakeDaemon, tmp_path: Path) -> Ctl:
    return Ctl(tmp_path, daemon.socket)


async def test_a_drain_shows_its_steps_and_ends_with_what_is_next(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("node", "drain", "tower", "--deadline", "30m")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "tower: draining, 3 tasks running, 0/12 results moved, to phone",
        "tower: draining, 1 task running, 7/12 results moved",
    ]
    assert ended.out == "tower is drained. Bring it back with: clusteractl node undrain tower\n"
    assert daemon.asked("DrainNode")[0].deadline_seconds == 1800


async def test_a_drain_in_json_is_an_object_a_step(ctl: Ctl) -> None:
    records = (await ctl("node", "drain", "tower", "--json")).records
    assert [(record["state"], record["moved_result_count"]) for record in records] == [
        ("draining", 0),
        ("draining", 7),
        ("drained", 12),
    ]
    assert {record["node_id"] for record in records} == {"tower"}


async def test_a_drain_that_ends_before_it_is_done_fails_and_says_where_it_stands(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.drain_steps = steps(done=False)
    ended = await ctl("node", "drain", "tower", "--json")
    assert ended.code == 1
    assert ended.error["code"] == "drain-failed"
    assert "tower is draining" in ended.error["message"]
    assert "node undrain tower" in ended.error["hint"]


async def test_ctrl_c_leaves_the_drain_going_and_says_so(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.stream_pause_seconds = 60
    async with ctl.running("node", "drain", "tower") as process:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            assert b"3 tasks running" in await process.stderr.readline()
        code, out, err = await interrupted(process)
    assert (code, out) == (130, "")
    assert err == "The drain of tower goes on. See it with: clusteractl node show tower"


@pytest.mark.parametrize(("command", "first"), [("logs -f", "clusteraid: 3 nodes"), ("events -f", "tower joined")])
async def test_following_prints_lines_as_they_come_until_ctrl_c(command: str, first: str, ctl: Ctl) -> None:
    async with ctl.running(*command.split()) as process:
        assert first in await line_of(process)
        await line_of(process)
        assert await interrupted(process) == (130, "", "")


async def test_ctrl_c_ends_a_follow_whichever_thread_takes_the_signal(ctl: Ctl) -> None:
    async with ctl.running("events", "-f") as process:
        await line_of(process)
        await line_of(process)
        await asyncio.sleep(0.2)  # by then nothing more comes, and the loop waits
        threads = (int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir())
        other = next(number for number in threads if number != process.pid)
        assert ctypes.CDLL(None).tgkill(process.pid, other, signal.SIGINT) == 0
        async with asyncio.timeout(PATIENCE / 2):  # later a message of the connection itself would wake it
            assert await process.wait() == 130


async def test_following_in_json_prints_objects_as_they_come(ctl: Ctl) -> None:
    async with ctl.running("events", "-f", "--json") as process:
        assert json.loads(await line_of(process))["sequence"] == 41


async def test_a_followed_server_that_goes_away_ends_the_command(ctl: Ctl, tmp_path: Path) -> None:
    async with made_up_cluster() as other:
        user = Ctl(tmp_path, other.socket)
        async with user.running("logs", "-f") as process:
            await line_of(process)
            await line_of(process)
            await other.stop()
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
    assert (process.returncode, out) == (5, b"")
    assert b"cannot reach" in err


async def test_a_reader_that_leaves_early_is_no_error(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.log_lines = daemon.cluster.log_lines * 2000
    async with ctl.running("logs", "-n", "4000") as process:
        assert process.stdout is not None
        await line_of(process)
        process.stdout._transport.close()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE):
            assert process.stderr is not None
            assert await process.stderr.read() == b""
            assert await process.wait() == 0


async def test_a_terminal_gets_a_bar_and_colours(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.stream_pause_seconds = 0.2
    shown = await on_terminal(ctl, "node", "drain", "tower")
    assert "━" in shown
    assert "7/12 results, 1 task running" in shown
    assert "tower is drained. Bring it back with" in shown
    assert "\x1b[32mready" in await on_terminal(ctl, "node", "list")


async def test_no_color_means_no_colour_on_a_terminal_too(ctl: Ctl) -> None:
    plain = Ctl(ctl.home, ctl.socket, {"NO_COLOR": "1"})
    assert "\x1b[3" not in await on_terminal(plain, "node", "list")
    assert "\x1b[3" not in await on_terminal(plain, "node", "drain", "tower")


async def test_on_a_terminal_a_removal_is_asked_for(ctl: Ctl, daemon: FakeDaemon) -> None:
    shown = await on_terminal(ctl, "node", "remove", "tower", at="[y/N]: ", types="n\n")
    assert "Remove tower? Its tasks are lost" in shown
    assert daemon.asked("RemoveNode") == []
    assert "tower is removed" in await on_terminal(ctl, "node", "remove", "tower", at="[y/N]: ", types="y\n")
    assert "Remove" not in await on_terminal(ctl, "node", "remove", "phone", "--yes")


async def test_on_a_terminal_a_missing_code_is_asked_for(ctl: Ctl, daemon: FakeDaemon) -> None:
    shown = await on_terminal(ctl, "node", "approve", "pi4", at="shows: ", types="k7m-q2x\n")
    assert "Code that pi4 shows: " in shown
    assert daemon.asked("ApproveNode")[0].approval_code == "K7M-Q2X"


async def test_on_a_terminal_the_token_is_asked_for_without_echo(ctl: Ctl, daemon: FakeDaemon) -> None:
    user = Ctl(ctl.home)
    token = str(daemon.token())
    shown = await on_terminal(user, "login", "--server", daemon.enrollment_address, at="Token: ", types=f"{token}\n")
    assert token not in shown
    assert "You are ann at cluster" in shown
