"""Log lines of a node that nobody reads fast enough: bounded in bytes, not only in number."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from clusterai.ids import NodeId
from clusterai.v1.node_pb2 import LogChunk, SessionResponse
from clusterai.v1.types_pb2 import LogLine
from clusteraid.session_logs import NodeLogFailed, SessionLogs

Lines = AsyncGenerator[list[LogLine], None]
LARGE = "x" * (1000 << 10)  # nearly what one message may have


class Node:
    """A node that sends what it is told to."""

    def __init__(self) -> None:
        self.logs = SessionLogs(NodeId("pi4"), self.asked)
        self.number = 0

    def asked(self, message: SessionResponse) -> None:
        self.number = message.log_request.request_id or self.number

    def sends(self, *lines: str) -> None:
        entries = [LogLine(message=line) for line in lines]
        self.logs.chunk_received(LogChunk(request_id=self.number, lines=entries))


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
async def reading(node: Node) -> AsyncIterator[Lines]:
    """A reader that had one line and takes no more until it is asked to."""
    async with aclosing(node.logs.read("", 100, follow=True)) as lines:
        first = asyncio.ensure_future(anext(lines))
        while not node.number:
            await asyncio.sleep(0)
        node.sends("first")
        await first
        yield lines


async def shown(reading: Lines) -> int:
    """How many lines the reader still gets before it hears that it was cut off."""
    count = 0
    with pytest.raises(NodeLogFailed, match="faster than they were read"):
        async with asyncio.timeout(10):
            async for lines in reading:
                count += len(lines)
    return count


async def test_a_reader_that_does_not_keep_up_holds_few_large_chunks(node: Node, reading: Lines) -> None:
    for _ in range(20):
        node.sends(LARGE)
    assert await shown(reading) == 4


async def test_lines_without_text_count_too(node: Node, reading: Lines) -> None:
    node.sends(*[""] * 100_000)
    assert await shown(reading) == 0


async def test_small_chunks_are_bounded_in_number(node: Node, reading: Lines) -> None:
    for _ in range(100):
        node.sends("small")
    assert await shown(reading) == 64


async def test_a_reader_that_keeps_up_reads_any_amount(node: Node, reading: Lines) -> None:
    for _ in range(20):
        node.sends(LARGE)
        (line,) = await anext(reading)
        assert line.message == LARGE
