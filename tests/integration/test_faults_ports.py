"""Ports and files that somebody else has."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.killable import KillableDaemon, killable_daemon


@contextmanager
def taken_port() -> Iterator[int]:
    """Hold a port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def refused(daemon: KillableDaemon) -> tuple[int, str]:
    """Start a daemon that cannot start; return its exit code and what it said."""
    process = await daemon.launch()
    code = await asyncio.wait_for(process.wait(), 90)
    return code, daemon.said()


@pytest.mark.parametrize("key", ["port", "enrollment_port"])
async def test_a_port_that_is_taken_is_named_with_what_to_do(tmp_path: Path, key: str) -> None:
    with taken_port() as port:
        daemon = KillableDaemon(tmp_path)
        daemon.config.write_text(daemon.config.read_text().replace(f"\n{key} = 0", f"\n{key} = {port}"))
        code, said = await refused(daemon)
    assert code == 1
    assert str(port) in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()[-2:]) == 2, "a sentence, then a hint"


async def test_a_second_daemon_does_not_disturb_the_first(tmp_path: Path) -> None:
    async with killable_daemon(tmp_path) as first:
        second = KillableDaemon.__new__(KillableDaemon)
        second.__dict__.update(first.__dict__)
        second.log = tmp_path / "second.log"
        code, said = await refused(second)
        assert code == 1
        assert "Traceback" not in said
        assert str(first.process and first.process.pid) in said or "another" in said or "already" in said
        assert await first.token()
