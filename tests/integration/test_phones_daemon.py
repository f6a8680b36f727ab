"""A phone and a server as the daemon sees them: which pool each is told, by spec, certificate and lock."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from clusterai.errors import ClusterAIError
from clusterai.lockfile import EnvironmentKey
from clusterai.pki import new_csr, new_key
from clusterai.rpc import from_rpc_error
from clusterai.v1.node_pb2 import CERTIFICATE_KIND_DASK, GetEnvironmentLockRequest, NodeStatus, RenewRequest
from clusterai.v1.types_pb2 import MACHINE_CLASS_PHONE, MACHINE_CLASS_SERVER, WORKER_STATE_RUNNING, WorkerStatus
from support.ctl import Ctl
from support.killable import KillableDaemon, killable_daemon
from support.sim_node import SimNode, node, sim_node, state

MOBILE = "\n[mobile]\nenabled = true\nscheduler_port = 0\ndashboard_port = 0\n"
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


@pytest.fixture
async def daemon(request: pytest.FixtureRequest) -> AsyncIterator[KillableDaemon]:
    with tempfile.TemporaryDirectory() as directory:
        async with killable_daemon(Path(directory), settings=getattr(request, "param", MOBILE)) as running:
            yield running


def dask_request() -> RenewRequest:
    return RenewRequest(csr_der=new_csr(new_key()), kind=CERTIFICATE_KIND_DASK)


async def refusal(method: Any, request: Any) -> ClusterAIError:
    """Call the method, which is refused, and return what with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await method(request, timeout=60)
    return from_rpc_error(refused.value, "the daemon")


async def dask_uri(machine: SimNode) -> str:
    """Ask for a Dask certificate and return the name in it."""
    issued = await machine.stub.Renew(dask_request(), timeout=60)
    certificate = x509.load_der_x509_certificate(issued.certificate_chain_der[0])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return str(uri)


async def test_each_gets_its_own_pool_certificate_and_lock(daemon: KillableDaemon) -> None:
    async with sim_node(daemon, "pixel") as pixel, sim_node(daemon, "tower") as tower:
        phone = (await pixel.session(machine_class=MACHINE_CLASS_PHONE, pythons=["3.14"])).welcome.spec
        server = (await tower.session(machine_class=MACHINE_CLASS_SERVER, pythons=PYTHONS)).welcome.spec
        assert (phone.pool.pool_name, server.pool.pool_name) == ("mobile", "main")
        assert phone.pool.environment.python_minor == "3.14"
        assert phone.pool.scheduler_address != server.pool.scheduler_address
        assert [worker.worker_name for worker in phone.workers] == ["pixel-0"]
        assert (await dask_uri(pixel)).endswith("/dask/mobile/pixel")
        assert (await dask_uri(tower)).endswith("/dask/main/tower")
        lock = await pixel.stub.GetEnvironmentLock(GetEnvironmentLockRequest(), timeout=60)
        assert lock.python_minor == "3.14"
        assert EnvironmentKey("3.14", lock.lock_text).hash == phone.pool.environment.environment_hash
        wanted = phone.pool.environment.environment_hash
        other = await tower.stub.GetEnvironmentLock(GetEnvironmentLockRequest(environment_hash=wanted), timeout=60)
        assert other == lock, "the server's own agent builds it"
        unknown = await refusal(pixel.stub.GetEnvironmentLock, GetEnvironmentLockRequest(environment_hash="0" * 16))
        assert "is of no pool here" in str(unknown)


async def test_a_phone_with_another_python_is_incompatible_and_told_what_helps_there(daemon: KillableDaemon) -> None:
    async with sim_node(daemon, "pixel") as pixel:
        session = await pixel.session(machine_class=MACHINE_CLASS_PHONE, pythons=["3.15"])
        assert not session.welcome.spec.workers
        shown = await node(daemon, "pixel")
        assert shown.reason == "pool mobile needs Python 3.14; the node has 3.15"
        assert "pkg upgrade" in shown.hint


@pytest.mark.parametrize("daemon", ["", "\n[mobile]\nenabled = false\n"], indirect=True)
async def test_without_the_pool_a_phone_has_no_workers_and_gets_no_certificate(
    daemon: KillableDaemon, tmp_path: Path
) -> None:
    async with sim_node(daemon, "pixel") as pixel:
        running = NodeStatus(workers=[WorkerStatus(worker_name="pixel-0", state=WORKER_STATE_RUNNING)])
        session = await pixel.session(machine_class=MACHINE_CLASS_PHONE, pythons=PYTHONS, status=running)
        assert not session.welcome.spec.workers
        assert not session.welcome.spec.HasField("pool")
        assert "[mobile] enabled in clusteraid.toml" in session.welcome.spec.reason
        assert await state(daemon, "pixel") == "incompatible"
        assert (await refusal(pixel.stub.Renew, dask_request())).code == "mobile-is-off"
        assert (await refusal(pixel.stub.GetEnvironmentLock, GetEnvironmentLockRequest())).code == "mobile-is-off"
        status = (await Ctl(tmp_path, daemon.socket)("status", "--json")).data
        assert [pool["pool_name"] for pool in status["pools"]] == ["main"]
        units = (await Ctl(tmp_path, daemon.socket)("unit", "list", "--json")).data["units"]
        assert [unit["unit"] for unit in units] == ["clusterai-scheduler@main.service"]
