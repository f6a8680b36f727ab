"""The daemon's side of the control socket against schedulers that a user's code took over."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from clusteraid.dask_control import DaskControl
from fakes.http import stop_listening

Scheduler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = b'{"event":"workers","workers":[]}\n'


@contextlib.asynccontextmanager
async def connected_to(path: Path, scheduler: Scheduler) -> AsyncIterator[DaskControl]:
    server = await asyncio.start_unix_server(scheduler, path)
    changed = asyncio.Event()
    control = DaskControl(path, changed.set)
    running = asyncio.create_task(control.run(), name="control")
    try:
        async with asyncio.timeout(60):
            await changed.wait()
        yield control
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await stop_listening(server)
        await server.wait_closed()


async def test_a_scheduler_that_talks_without_end_leaves_the_daemon_its_turns(tmp_path: Path) -> None:
    async def talks(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO + b"{}\n" * 2_000_000)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.transport.abort()

    async with connected_to(tmp_path / "s", talks):
        latest, longest = time.monotonic(), 0.0
        for _ in range(50):
            await asyncio.sleep(0.01)
            longest, latest = max(longest, time.monotonic() - latest), time.monotonic()
        assert longest < 0.15


async def test_a_scheduler_that_does_not_read_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = asyncio.Event()

    async def says_nothing_more(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await gone.wait()
        writer.transport.abort()

    async with connected_to(tmp_path / "s", says_nothing_more) as control:
        for number in range(40):
            control.hold([f"n-{number}-{index}" + "x" * 60 for index in range(10_000)])
        async with asyncio.timeout(60):
            while control.connected:
                await asyncio.sleep(0.01)
        gone.set()
    assert "does not read" in caplog.text
