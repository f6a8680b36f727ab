"""The files that a real daemon writes for the gateway: keys, certificates, and what stays over its end."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from clusterai.credentials import load_credentials
from clusterai.pki import hosts_of
from clusterai.rpc import local_channel
from clusterai.v1.key_pb2 import CreateKeyRequest, CreateKeyResponse, ListKeysRequest, RevokeKeyRequest
from clusterai.v1.key_pb2_grpc import KeyServiceStub
from support.killable import KillableDaemon, killable_daemon
from support.sim_node import sim_node
from support.waiting import until


def settings(directory: Path, more: str = "") -> str:
    """A gateway's directory of our own."""
    return f'[gateway]\ndirectory = "{directory}/gateway"\nnames = ["chat.example.org"]\n{more}'


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[KillableDaemon]:
    (tmp_path / "gateway").mkdir(mode=0o750)
    async with killable_daemon(tmp_path, settings=settings(tmp_path)) as running:
        yield running


@asynccontextmanager
async def key_service(daemon: KillableDaemon) -> AsyncIterator[Any]:
    async with local_channel(daemon.socket) as channel:
        yield KeyServiceStub(channel)


async def create(daemon: KillableDaemon, name: str, **others: Any) -> CreateKeyResponse:
    async with key_service(daemon) as service:
        made: CreateKeyResponse = await service.CreateKey(CreateKeyRequest(name=name, **others), timeout=60)
        return made


def read(daemon: KillableDaemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((daemon.directory / "gateway" / name).read_text())
    return found


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


async def test_a_key_is_in_the_file_when_it_is_shown_and_out_of_it_when_it_is_revoked(daemon: KillableDaemon) -> None:
    made = await create(daemon, "ann", models=["llama3.2"], ttl_seconds=3600, requests_per_minute=7)
    assert read(daemon, "keys.json")["keys"][hash_of(made.secret)]["models"] == ["llama3.2:latest"]
    assert made.key.created_by == "local admin"
    assert made.gateway_urls[0] == "https://chat.example.org:11434"
    assert "https://127.0.0.1:11434" in made.gateway_urls
    async with key_service(daemon) as service:
        assert [key.name for key in (await service.ListKeys(ListKeysRequest(), timeout=60)).keys] == ["ann"]
        revoked = (await service.RevokeKey(RevokeKeyRequest(key="ann"), timeout=60)).key
        assert revoked.revoked
        assert read(daemon, "keys.json")["keys"] == {}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.RevokeKey(RevokeKeyRequest(key="ann"), timeout=60)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    stored = b"".join(path.read_bytes() for path in daemon.state.rglob("*") if path.is_file())
    assert made.secret.encode() not in stored + daemon.log.read_bytes()


async def test_keys_and_generations_outlive_a_killed_daemon(daemon: KillableDaemon) -> None:
    first = await create(daemon, "ann")
    before = read(daemon, "keys.json")["generation"]
    await daemon.kill()
    await daemon.start()
    assert read(daemon, "keys.json")["generation"] == before, "what is the same is not written again"
    second = await create(daemon, "bob")
    assert read(daemon, "keys.json")["generation"] > before
    assert set(read(daemon, "keys.json")["keys"]) == {hash_of(first.secret), hash_of(second.secret)}


async def test_the_certificates_are_there_with_the_names_of_this_server(daemon: KillableDaemon) -> None:
    directory = daemon.directory / "gateway"
    await until((directory / "web.pem").exists)
    assert (directory / "cluster-ca.pem").read_bytes() == daemon.ca_pem()
    names = hosts_of(load_credentials(directory / "web.pem").chain_pem)
    assert {"chat.example.org", "127.0.0.1", "localhost"} <= names


async def test_a_full_table_is_left_when_the_daemon_ends(daemon: KillableDaemon) -> None:
    """The sessions end with the daemon, but the nodes go on: chats must too."""
    await until((daemon.directory / "gateway/routes.json").exists)
    table = {"format": 1, "generation": 1 << 40, "nodes": {"n": {"host": "127.0.0.1"}}, "models": {}}
    async with sim_node(daemon, "n") as node:
        await daemon.kill()
        (daemon.directory / "gateway/routes.json").write_text(json.dumps(table))
        await daemon.start()
        await asyncio.sleep(0.5)
        assert list(read(daemon, "routes.json")["nodes"]) == ["n"], "it was not heard yet: its grace time runs"
        assert read(daemon, "routes.json")["generation"] > 1 << 40
        await daemon.stop()
        assert list(read(daemon, "routes.json")["nodes"]) == ["n"]
        del node


async def test_without_a_gateway_nothing_is_written_and_nothing_is_wrong(tmp_path: Path) -> None:
    async with killable_daemon(tmp_path, settings=settings(tmp_path)) as daemon:
        made = await create(daemon, "ann")
        assert list(made.gateway_urls) == []
        assert not (tmp_path / "gateway").exists()
