"""A test's server that is closed while somebody is being let in leaves no socket open."""

import asyncio
import gc
import socket
import warnings

import pytest

from fakes.http import stop_listening


@pytest.mark.parametrize("turns", range(5))
async def test_who_is_being_let_in_gets_a_handler_or_is_refused(turns: int) -> None:
    ended = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.append(writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(turns):
            await asyncio.sleep(0)  # with 2 it is accepted and has no transport yet
        await stop_listening(server)
        gc.collect()
        assert not warned
    async with asyncio.timeout(60):
        while turns > 1 and not ended:
            await asyncio.sleep(0.01)
