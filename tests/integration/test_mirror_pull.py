"""The double's puller, which keeps to Ollama's rules, fetches models from the real mirror, through a tunnel."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from clusterai.models import MIRROR_NAME
from fakes.http import asked, stop_listening
from fakes.ollama import FakeOllama, damage_blob, fake_ollama
from fakes.registry import make_model
from support.gates import load_pem
from support.gateway import Gateway, gate_certificate, routes, running_gateway
from support.waiting import until

PART = 100_000
MODEL = make_model(size_bytes=20 * PART)


@asynccontextmanager
async def tunnel(gateway: Gateway) -> AsyncIterator[int]:
    """Plain HTTP on a port here, TLS with a gate's certificate to the mirror: what stunnel does on a node."""
    tls = ssl.create_default_context(cadata=gateway.authority.cert_pem.decode())
    load_pem(tls, gate_certificate(gateway.authority, "tower"))
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        address = ("127.0.0.1", gateway.mirror_port)
        there, here = await asyncio.open_connection(*address, ssl=tls, server_hostname=MIRROR_NAME)
        try:
            await asyncio.wait(
                {asyncio.create_task(copied(reader, here)), asyncio.create_task(copied(there, writer))},
                return_when=asyncio.ALL_COMPLETED,
            )
        finally:
            for each in (here, writer):
                each.transport.abort()
                with suppress(OSError):
                    await each.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await stop_listening(server)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def mirrored(tmp_path: Path) -> AsyncIterator[tuple[str, FakeOllama]]:
    """A gateway that mirrors a model, and the Ollama of a node; the name under which the node fetches it."""
    MODEL.install(tmp_path / "server")
    with running_gateway(tmp_path) as gateway:
        gateway.write_routes(routes(mirror={"root": str(tmp_path / "server")}))
        await until(lambda: gateway.status()["routes"]["generation"] == 1)
        variables = {"FAKE_OLLAMA_PART_BYTES": str(PART), "FAKE_OLLAMA_RETRY_SECONDS": "0.01"}
        async with tunnel(gateway) as port, fake_ollama(tmp_path / "node", **variables) as ollama:
            yield f"http://127.0.0.1:{port}/library/llama3.2:3b", ollama


async def pull(ollama: FakeOllama, name: str) -> dict[str, Any]:
    body = json.dumps({"model": name, "insecure": True}).encode()
    async with asked("POST", f"{ollama.url}/api/pull", None, body) as answer:
        return dict(json.loads((await answer.body()).splitlines()[-1]))


async def test_a_model_comes_whole_from_the_mirror_and_has_the_same_digest(tmp_path: Path) -> None:
    async with mirrored(tmp_path) as (name, ollama):
        assert await pull(ollama, name) == {"status": "success"}
        (model,) = ollama.store.models()
    assert model.digest == MODEL.digest
    assert (tmp_path / "node/blobs" / MODEL.weights.replace(":", "-")).read_bytes() == MODEL.blobs[MODEL.weights]


async def test_what_is_damaged_on_the_server_is_not_taken(tmp_path: Path) -> None:
    async with mirrored(tmp_path) as (name, ollama):
        damage_blob(tmp_path / "server", MODEL.weights)
        assert (await pull(ollama, name))["error"].startswith("digest mismatch")
        assert ollama.store.models() == []
        damage_blob(tmp_path / "server", MODEL.weights)  # as it was
        assert await pull(ollama, name) == {"status": "success"}


async def test_a_model_that_the_server_has_not_is_not_found(tmp_path: Path) -> None:
    async with mirrored(tmp_path) as (name, ollama):
        assert "file does not exist" in (await pull(ollama, name.replace(":3b", ":70b")))["error"]
