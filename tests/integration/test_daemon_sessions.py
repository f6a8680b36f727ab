"""Sessions with a real daemon over mTLS: states, fencing, clones, revocation, and bad input."""

import asyncio
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc.aio import EOF  # type: ignore[attr-defined]

from clusterai.credentials import chain_pem
from clusterai.pki import key_pem, new_csr, new_key
from clusterai.remote import SERVER_NAME
from clusterai.rpc import from_rpc_error, secure_channel
from clusterai.v1.cluster_pb2 import GetStatusRequest
from clusterai.v1.cluster_pb2_grpc import ClusterServiceStub
from clusterai.v1.event_pb2 import WatchEventsRequest
from clusterai.v1.event_pb2_grpc import EventServiceStub
from clusterai.v1.node_admin_pb2 import RemoveNodeRequest
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceStub
from clusterai.v1.node_pb2 import (
    CERTIFICATE_KIND_DASK,
    CERTIFICATE_KIND_GATE,
    CERTIFICATE_KIND_NODE,
    Farewell,
    GetEnvironmentLockRequest,
    Heartbeat,
    Hello,
    NodeStatus,
    RenewRequest,
    SessionRequest,
)
from clusterai.v1.node_pb2_grpc import NodeServiceStub
from clusterai.v1.types_pb2 import ENVIRONMENT_STATE_READY, EnvironmentStatus, Sample, WorkerStatus
from support.killable import KillableDaemon, killable_daemon
from support.sim_node import SimNode, SimSession, facts, node, operator, sim_node, state

SETTINGS = "[session]\nheartbeat_seconds = 0.5\noffline_seconds = 3\n"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[KillableDaemon]:
    async with killable_daemon(tmp_path, settings=SETTINGS) as running:
        yield running


@pytest.fixture
async def pi(daemon: KillableDaemon) -> AsyncIterator[SimNode]:
    async with sim_node(daemon, "pi4") as enrolled:
        yield enrolled


async def becomes(daemon: KillableDaemon, name: str, wanted: str) -> float:
    """Wait until the node is in the state; return how long that took."""
    start = time.monotonic()
    while (found := await state(daemon, name)) != wanted:
        assert time.monotonic() - start < 60, f"{name} is {found}, not {wanted}"
        await asyncio.sleep(0.02)
    return time.monotonic() - start


async def events(daemon: KillableDaemon) -> list[str]:
    async with operator(daemon, EventServiceStub) as stub:
        return [response.event.kind async for response in stub.WatchEvents(WatchEventsRequest(), timeout=60)]


async def error_of(call: Any) -> str:
    """Return the stable code of the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        response = await call
        assert response is not EOF, "the stream ended without an error"
    error = from_rpc_error(refused.value, "the daemon")
    assert error.advice
    return error.code


async def test_a_node_is_ready_with_its_facts_and_its_plan_as_soon_as_it_said_hello(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    assert await state(daemon, "pi4") == "suspect"
    session = await pi.session(cpu_count=8)
    assert session.welcome.node_id == "pi4"
    assert [worker.worker_name for worker in session.welcome.spec.workers] == ["pi4-0"]
    assert session.welcome.spec.workers[0].thread_count == 8
    assert session.welcome.heartbeat_interval_seconds == 0.5
    assert session.welcome.server_addresses == list(pi.enrolled.server_addresses)
    await session.beat()
    await becomes(daemon, "pi4", "ready")
    async with asyncio.timeout(60):
        while (shown := await node(daemon, "pi4")).sample.load_1min != 1:  # the heartbeat may be under way
            await asyncio.sleep(0.02)
    assert shown.facts.cpu_count == 8
    assert abs(shown.last_heard_unix_seconds - time.time()) < 2


async def test_a_broken_stream_is_suspect_at_once_and_offline_after_the_grace_time(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    session = await pi.session()
    await session.beat()
    session.call.cancel()
    await becomes(daemon, "pi4", "suspect")
    await becomes(daemon, "pi4", "offline")
    shown = await node(daemon, "pi4")
    assert "session" in shown.reason
    assert "journalctl" in shown.hint


async def test_a_silent_node_is_offline_in_time_and_ready_when_it_speaks_again(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    session = await pi.session()
    assert await becomes(daemon, "pi4", "offline") < 10  # the default is longer
    await session.beat()
    await becomes(daemon, "pi4", "ready")
    assert (await events(daemon)).count("node-offline") == 1


async def test_the_newest_session_wins_and_a_clone_is_an_event(daemon: KillableDaemon, pi: SimNode) -> None:
    first = await pi.session("one machine")
    second = await pi.session("its clone")
    assert second.welcome.epoch > first.welcome.epoch
    farewell = (await first.read_until("farewell")).farewell
    assert farewell.reason == Farewell.REASON_REPLACED
    assert await first.call.read() is EOF
    assert "node-cloned" in await events(daemon)
    await second.beat()
    assert await state(daemon, "pi4") == "ready"


async def test_an_agent_that_connects_again_is_no_clone(daemon: KillableDaemon, pi: SimNode) -> None:
    await pi.session("same process")
    again = await pi.session("same process")
    await again.beat()
    assert "node-cloned" not in await events(daemon)


async def test_removing_a_node_closes_its_session_and_refuses_its_certificate(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    session = await pi.session()
    async with operator(daemon, NodeAdminServiceStub) as admin:
        await admin.RemoveNode(RemoveNodeRequest(node_id="pi4"), timeout=60)
    assert (await session.read_until("farewell")).farewell.reason == Farewell.REASON_REVOKED
    assert await session.call.read() is EOF
    assert await error_of(pi.stub.GetEnvironmentLock(GetEnvironmentLockRequest(), timeout=60)) == "revoked"


async def test_a_node_of_another_python_is_incompatible_and_gets_no_worker(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    session = await pi.session(pythons=["3.8"])
    assert not session.welcome.spec.workers
    assert not session.welcome.spec.build_environment
    assert session.welcome.spec.reason.startswith("incompatible: pool main needs Python")
    shown = await node(daemon, "pi4")
    assert await state(daemon, "pi4") == "incompatible"
    assert "uv python install" in shown.hint


async def test_versions_that_differ_take_the_workers_away(daemon: KillableDaemon, pi: SimNode) -> None:
    session = await pi.session()
    spec = session.welcome.spec
    environment = EnvironmentStatus(
        environment_hash=spec.pool.environment.environment_hash, state=ENVIRONMENT_STATE_READY,
        versions={"dask": "1.0.0"},
    )
    await session.report(NodeStatus(observed_generation=spec.generation, environment=environment))
    changed = (await session.read_until("spec")).spec
    assert changed.generation > spec.generation
    assert not changed.workers
    assert "dask 1.0.0" in (await node(daemon, "pi4")).reason


async def test_a_restart_of_the_daemon_marks_nobody_offline(daemon: KillableDaemon, pi: SimNode) -> None:
    before = (await pi.session()).welcome
    await daemon.kill()
    await daemon.start()
    assert await state(daemon, "pi4") == "suspect"
    async with connected_again(daemon, pi) as session:
        now = session.welcome
        assert now.epoch > before.epoch
        assert now.spec.generation > before.spec.generation
        assert list(now.spec.workers) == list(before.spec.workers)
        assert await state(daemon, "pi4") == "ready"
    assert "node-offline" not in await events(daemon)


@asynccontextmanager
async def connected_again(daemon: KillableDaemon, pi: SimNode) -> AsyncIterator[SimSession]:
    """Yield a session with a daemon that has other ports now."""
    port = (await daemon_port(daemon)).rpartition(":")[2]
    enrolled = pi.enrolled
    async with secure_channel(
        f"127.0.0.1:{port}", ca_pem=enrolled.ca_pem, chain_pem=enrolled.chain_pem, key_pem=enrolled.key_pem
    ) as channel:
        yield await SimNode(pi.name, enrolled, channel).session()


async def daemon_port(daemon: KillableDaemon) -> str:
    async with operator(daemon, ClusterServiceStub) as stub:
        address: str = (await stub.GetStatus(GetStatusRequest(), timeout=60)).server_addresses[0]
        return address


async def test_after_standing_still_the_daemon_gives_everyone_a_full_grace_time(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    session = await pi.session()
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGSTOP)
    await asyncio.sleep(3.5)
    os.kill(daemon.process.pid, signal.SIGCONT)
    await session.beat()
    await session.beat()
    assert await state(daemon, "pi4") == "ready"
    assert "node-offline" not in await events(daemon)


async def test_a_certificate_is_renewed_and_dask_s_is_of_another_authority(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    key = new_key()
    answer = await pi.stub.Renew(RenewRequest(csr_der=new_csr(key), kind=CERTIFICATE_KIND_NODE), timeout=60)
    assert answer.ca_bundle_pem == pi.enrolled.ca_pem
    dask = await pi.stub.Renew(RenewRequest(csr_der=new_csr(key), kind=CERTIFICATE_KIND_DASK), timeout=60)
    assert dask.ca_bundle_pem != pi.enrolled.ca_pem
    chain = b"".join(_pem(der) for der in dask.certificate_chain_der)
    address = pi.enrolled.server_addresses[0]
    async with secure_channel(
        address, ca_pem=pi.enrolled.ca_pem, chain_pem=chain, key_pem=key_pem(key)
    ) as channel:
        stub: Any = NodeServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetEnvironmentLock(GetEnvironmentLockRequest(), timeout=60)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


async def test_the_lock_is_told_to_nodes(pi: SimNode) -> None:
    lock = await pi.stub.GetEnvironmentLock(GetEnvironmentLockRequest(), timeout=60)
    assert "--hash=sha256:" in lock.lock_text
    assert await error_of(
        pi.stub.GetEnvironmentLock(GetEnvironmentLockRequest(environment_hash="ffff"), timeout=60)
    ) == "bad-request"


async def test_a_session_begins_with_a_hello_and_with_a_bounded_one(daemon: KillableDaemon, pi: SimNode) -> None:
    for request in (
        SessionRequest(heartbeat=Heartbeat()),
        SessionRequest(),
        SessionRequest(hello=Hello(facts=facts(cpu_model="x" * 100_000))),
    ):
        call = pi.stub.Session(timeout=60)
        await call.write(request)
        assert await error_of(call.read()) == "bad-request"


async def test_a_message_over_1_mib_ends_only_that_stream(daemon: KillableDaemon, pi: SimNode) -> None:
    enrolled = pi.enrolled
    credentials = grpc.ssl_channel_credentials(enrolled.ca_pem, enrolled.key_pem, enrolled.chain_pem)
    options = (("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.max_send_message_length", -1))
    async with grpc.aio.secure_channel(enrolled.server_addresses[0], credentials, options=options) as unlimited:
        session = await SimNode(pi.name, enrolled, unlimited).session()
        await session.report(NodeStatus(message="x" * (2 << 20)))
        assert await session.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    again = await pi.session("again")
    await again.beat()
    await becomes(daemon, "pi4", "ready")


async def test_a_status_with_hundreds_of_models_is_taken_and_one_over_256_kib_is_not(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    session = await pi.session()
    await session.report(NodeStatus(message="x" * 200_000))
    await session.beat()
    await becomes(daemon, "pi4", "ready")
    await session.report(NodeStatus(message="x" * 300_000))
    assert await session.call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_node_gets_a_certificate_for_its_gate_that_opens_nothing_else(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    key = new_key()
    request = RenewRequest(csr_der=new_csr(key), kind=CERTIFICATE_KIND_GATE)
    issued = await pi.stub.Renew(request, timeout=30)
    assert issued.ca_bundle_pem == pi.enrolled.ca_pem
    leaf = x509.load_der_x509_certificate(issued.certificate_chain_der[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pi4.gate.clusterai"]
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uri.endswith("/gate/pi4")
    chain = chain_pem(issued.certificate_chain_der)
    address = pi.enrolled.server_addresses[0]
    async with secure_channel(
        address, ca_pem=issued.ca_bundle_pem, chain_pem=chain, key_pem=key_pem(key)
    ) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await SimNode("pi4", pi.enrolled, channel).stub.Renew(request, timeout=30)
    assert refused.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


async def test_unknown_fields_and_enum_values_of_a_newer_agent_are_harmless(
    daemon: KillableDaemon, pi: SimNode
) -> None:
    session = await pi.session()
    newer = SessionRequest.FromString(b"\xfa\x7f\x03new")
    await session.call.write(newer)
    workers = [WorkerStatus(worker_name="pi4-0", state=77)]  # type: ignore[arg-type]
    await session.report(NodeStatus(workers=workers))
    await session.beat()
    await becomes(daemon, "pi4", "ready")
    assert (await node(daemon, "pi4")).workers[0].state == 77


async def test_a_sample_that_is_too_large_is_not_kept(daemon: KillableDaemon, pi: SimNode) -> None:
    session = await pi.session()
    big = Sample(cpu_busy_ratio=[0.5] * 50_000)
    await session.call.write(SessionRequest(heartbeat=Heartbeat(sample=big)))
    await session.beat()
    await becomes(daemon, "pi4", "ready")
    assert len((await node(daemon, "pi4")).sample.cpu_busy_ratio) == 0
