"""A disk that is full or fails under the store: it refuses loudly, serves what it can, and recovers by itself."""

import contextlib
from pathlib import Path
from typing import Any

import grpc

from clusterai.remote import CODE_KEY, HINT_KEY
from clusterai.v1.cluster_pb2 import GetStatusRequest
from clusterai.v1.cluster_pb2_grpc import ClusterServiceStub
from clusterai.v1.token_pb2 import CreateTokenRequest, ListTokensRequest
from clusterai.v1.token_pb2_grpc import TokenServiceStub
from support.killable import KillableDaemon, killable_daemon
from support.sim_node import node, operator, sim_node, state

ATTEMPTS = 100
# The daemon sees a small disk of its own where its state is; only processes in its mount namespace do.
ON_SMALL_DISK = 'mount -t tmpfs -o size=2m,mode=0700 tmpfs "$0" && exec "$@"'


async def make_token(daemon: KillableDaemon) -> str:
    """Create a token; return its id, or "" when the store refuses, which it has to say in full."""
    async with operator(daemon, TokenServiceStub) as tokens:
        try:
            made = await tokens.CreateToken(CreateTokenRequest(ttl_seconds=3600), timeout=60)
        except grpc.aio.AioRpcError as error:
            refusal = error
        else:
            return str(made.details.token_id)
    trailing: Any = refusal.trailing_metadata() or ()
    metadata = {key: value for key, value in trailing}  # noqa: C416  an aio Metadata is no sequence of pairs to dict
    assert metadata[CODE_KEY] == "store-unavailable", refusal
    assert "cannot be written" in (refusal.details() or "")
    assert metadata[HINT_KEY]
    return ""


async def known_tokens(daemon: KillableDaemon) -> set[str]:
    """Return the ids of the tokens that the daemon lists."""
    async with operator(daemon, TokenServiceStub) as tokens:
        return {token.token_id for token in (await tokens.ListTokens(ListTokensRequest(), timeout=60)).tokens}


async def problems(daemon: KillableDaemon) -> str:
    """Return what the daemon says is wrong with it."""
    async with operator(daemon, ClusterServiceStub) as cluster:
        return "\n".join((await cluster.GetStatus(GetStatusRequest(), timeout=60)).problems)


async def test_a_full_disk_refuses_changes_serves_the_rest_and_heals(tmp_path: Path) -> None:
    state_directory = tmp_path / "state"
    state_directory.mkdir(mode=0o700)
    wrapper = ("unshare", "-Urm", "sh", "-c", ON_SMALL_DISK, str(state_directory))
    async with killable_daemon(tmp_path, wrapper=wrapper) as daemon:
        assert daemon.process is not None
        inside = Path(f"/proc/{daemon.process.pid}/root{state_directory}")
        daemon.state = inside
        async with sim_node(daemon, "pi4") as sim:
            session = await sim.session()
            made = {await make_token(daemon)}
            ballast = (inside / "ballast").open("wb", buffering=0)
            with ballast, contextlib.suppress(OSError):
                while True:
                    ballast.write(b"\0" * 4096)
            refused = [token for _ in range(20) if not (token := await make_token(daemon))]
            assert refused
            await session.beat()
            assert await state(daemon, "pi4") == "ready"
            assert made <= await known_tokens(daemon)
            assert str(daemon.database.name) in await problems(daemon)
            (inside / "ballast").unlink()
            assert await make_token(daemon)
            assert await problems(daemon) == ""
            assert await state(daemon, "pi4") == "ready"
            assert (await node(daemon, "pi4")).facts.hostname == "sim"


async def test_a_disk_that_fails_to_sync_costs_no_acknowledged_change(tmp_path: Path) -> None:
    """From its 30th to its 39th call on, fsync reports EIO to every thread of the daemon."""
    failing = ("-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO:when=30..39")
    wrapper = ("strace", "-D", "-f", "-q", "-o", str(tmp_path / "strace.log"), *failing)
    daemon = KillableDaemon(tmp_path, wrapper=wrapper)
    await daemon.start()
    try:
        outcomes = [await make_token(daemon) for _ in range(ATTEMPTS)]
    finally:
        await daemon.stop()
    assert "" in outcomes, "no fsync failed"
    assert outcomes[-1], "it did not recover"
    daemon.heal()
    await daemon.start()
    try:
        assert {token for token in outcomes if token} <= await known_tokens(daemon)
        assert daemon.query("PRAGMA integrity_check") == [("ok",)]
    finally:
        await daemon.stop()
