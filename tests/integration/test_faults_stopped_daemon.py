"""A daemon that stands still (SIGSTOP, a suspended machine, a frozen disk) takes nobody for dead when it wakes."""

import asyncio
import os
import signal
from pathlib import Path

from clusterai.v1.event_pb2 import WatchEventsRequest
from clusterai.v1.event_pb2_grpc import EventServiceStub
from support.killable import KillableDaemon, killable_daemon
from support.sim_node import operator, sim_node, state

INTERVALS = "[session]\nheartbeat_seconds = 0.25\noffline_seconds = 2.0\n"
STANDS_STILL_SECONDS = 5.0


async def kinds(daemon: KillableDaemon) -> list[str]:
    """Return the kinds of all events so far."""
    async with operator(daemon, EventServiceStub) as events:
        return [answer.event.kind async for answer in events.WatchEvents(WatchEventsRequest(limit=1000), timeout=60)]


async def test_nobody_is_offline_after_the_daemon_stood_still(tmp_path: Path) -> None:
    async with killable_daemon(tmp_path, settings=INTERVALS) as daemon, sim_node(daemon, "pi4") as sim:
        session = await sim.session()
        assert daemon.process is not None
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(STANDS_STILL_SECONDS)
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        for number in range(8):
            await session.beat(number)
            assert await state(daemon, "pi4") == "ready"
            await asyncio.sleep(0.25)
        assert "node-offline" not in await kinds(daemon)


async def test_a_node_that_is_silent_after_the_wake_is_found_all_the_same(tmp_path: Path) -> None:
    async with killable_daemon(tmp_path, settings=INTERVALS) as daemon, sim_node(daemon, "pi4") as sim:
        await sim.session()
        assert daemon.process is not None
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(STANDS_STILL_SECONDS)
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        async with asyncio.timeout(60):
            while await state(daemon, "pi4") != "offline":
                await asyncio.sleep(0.05)
        assert "node-offline" in await kinds(daemon)
