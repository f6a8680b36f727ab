"""The access log's way to the journal: whole lines, none lost that can be kept, and no request waits for it."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.gates import Arrived, Gate, running_gate
from support.gateway import Gateway, routes, running_gateway
from support.journal import HEAD_LINES
from support.raw_http import read_head, request_bytes, sent
from support.waiting import until

KEY, MODEL = "cak1.aaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa", "llama3.2:3b"
LONG = "/" + "x" * 300  # such a line has some 400 bytes


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path) as running:
        running.write_keys({KEY: {"id": "aaaaaaaa"}})
        yield running


async def many(gateway: Gateway, count: int) -> None:
    """Send so many requests at once, on one connection; each is answered, and done with when this returns."""
    request = f"GET {LONG} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    async with sent(gateway.port, request * count) as (reader, _), asyncio.timeout(60):
        for _ in range(count):
            head = await read_head(reader)
            assert head.status == 404
            await reader.readexactly(int(head.headers["content-length"]))


def lost_lines(gateway: Gateway) -> list[int]:
    """Return how many lines the gateway said to be lost, each time that it did."""
    return [int(count) for count in re.findall(r"(\d+) lines of the access log are lost", gateway.errors())]


async def test_a_stream_s_head_is_what_the_journal_expects(tmp_path: Path) -> None:
    """Identifier, unit, priority, and whether lines have a priority and go to syslog, kernel log and console."""
    with running_gateway(tmp_path, workers=2) as gateway:
        head = ["clusterai_gateway", "", "6", "0", "0", "0", "0"]
        assert gateway.journal.heads == [head, head]
        assert len(head) == HEAD_LINES


async def test_a_journal_that_comes_later_or_again_gets_every_line(gateway: Gateway) -> None:
    (before,) = gateway.worker_ids()
    gateway.journal.stop()
    os.kill(before, signal.SIGKILL)
    await until(lambda: gateway.worker_ids() not in ([], [before]))  # it has never had a journal
    await many(gateway, 5)
    await asyncio.sleep(0.5)  # it is looked for, twice
    assert gateway.log_lines() == []
    gateway.journal.start()
    await until(lambda: len(gateway.log_lines()) == 5)
    gateway.journal.stop()
    await many(gateway, 5)
    gateway.journal.start()
    await many(gateway, 5)
    await until(lambda: len(gateway.log_lines()) == 15)
    assert lost_lines(gateway) == []


async def test_a_journal_that_does_not_read_holds_nobody_up_and_what_it_missed_is_told(gateway: Gateway) -> None:
    gateway.journal.reads.clear()
    await many(gateway, 5000)
    gateway.journal.reads.set()
    await until(lambda: lost_lines(gateway))
    (lost,) = lost_lines(gateway)
    await until(lambda: len(gateway.log_lines()) >= 5000 - lost)
    assert len(gateway.log_lines()) == 5000 - lost
    assert 1000 < lost < 4000
    await many(gateway, 5)
    await until(lambda: len(gateway.log_lines()) == 5005 - lost)


async def test_a_line_that_was_cut_has_no_second_half(gateway: Gateway) -> None:
    gateway.journal.reads.clear()
    await many(gateway, 2000)
    gateway.journal.stop()  # in the middle of a line, with what was not read
    gateway.journal.start()
    await many(gateway, 5)
    await until(lambda: len(gateway.log_lines()) > 1000)
    assert all(json.loads(line)["status"] == 404 for line in gateway.access_log.read_text().splitlines())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT])
async def test_who_ends_leaves_no_line_behind(gateway: Gateway, how: signal.Signals) -> None:
    await many(gateway, 5)
    assert gateway.process is not None
    gateway.process.send_signal(how)
    await asyncio.to_thread(gateway.process.wait, 30)
    await until(lambda: len(gateway.log_lines()) == 5)


async def test_a_process_of_before_a_reload_writes_down_each_stream_when_it_ends(gateway: Gateway) -> None:
    ends = {"first": asyncio.Event(), "second": asyncio.Event()}

    async def until_told(gate: Gate, request: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await ends[request.json["which"]].wait()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def request(which: str) -> bytes:
        body = json.dumps({"model": MODEL, "which": which}).encode()
        return request_bytes("/api/chat", body, headers={"x-api-key": KEY})

    async with running_gate("a", gateway.authority, until_told) as gate, asyncio.timeout(60):
        gateway.write_routes(routes({"a": gate.port}, {MODEL: {"a": {"loaded": True, "fit": 1}}}, generation=2))
        await until(lambda: gateway.status()["routes"]["generation"] == 2 and gateway.status()["keys"]["generation"])
        (before,) = gateway.worker_ids()
        first, second = request("first"), request("second")
        async with sent(gateway.port, first) as (one, _), sent(gateway.port, second) as (other, _):
            await read_head(one)
            await read_head(other)
            gateway.reload()
            await until(lambda: [worker for worker in gateway.worker_ids() if worker != before])
            ends["first"].set()
            await until(lambda: len(gateway.log_lines()) == 1)
            assert before in gateway.worker_ids()  # and has no timers any more
            ends["second"].set()
            await until(lambda: len(gateway.log_lines()) == 2)
