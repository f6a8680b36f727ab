"""An Ollama that says nothing any more: whoever stops fetching is not held up by it."""

import asyncio

import pytest

from clusterai_agent.models.ollama_api import OllamaApi
from support.gate_peers import listening
from support.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"  # as Go answers our `close`
LINE = b'{"status":"pulling manifest"}\n'


@pytest.mark.parametrize("said", [b"", HEAD + b"%x\r\n%b\r\n" % (len(LINE), LINE)], ids=["at first", "mid-stream"])
async def test_a_fetch_is_stopped_at_once_however_silent_ollama_is(said: bytes) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()
    heard: list[object] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        asked.set()
        while await reader.read(1 << 16):
            pass
        gone.set()

    async def fetch(port: int) -> None:
        async for step in OllamaApi(f"127.0.0.1:{port}").pull("llama3.2:3b"):
            heard.append(step)  # noqa: PERF401  one is all that comes

    async with listening(answer) as port:
        fetching = asyncio.create_task(fetch(port), name="fetch")
        await asyncio.wait_for(asked.wait(), 60)
        await until(lambda: len(heard) == bool(said))
        fetching.cancel()
        done, _ = await asyncio.wait((fetching,), timeout=60)  # silence is borne for half an hour
        assert done
        await asyncio.wait_for(gone.wait(), 60)
    assert fetching.cancelled()
