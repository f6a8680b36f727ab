"""The daemon's pool with a real scheduler: it waits for the environment, keeps its port, takes over what runs."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from clusterai.pki import CertificateAuthority, Issued
from clusterai.units import UnitsConfig, open_units
from clusterai.v1.types_pb2 import (
    ENVIRONMENT_STATE_FAILED,
    ENVIRONMENT_STATE_INCOMPATIBLE,
    EnvironmentSpec,
    EnvironmentStatus,
)
from clusteraid.machine_units import scheduler_unit
from clusteraid.pool import Pool
from clusteraid.pool_config import PoolConfig
from clusteraid.pool_port import PoolPlan
from support.dask_env import dask_environment
from support.dask_pool import until


@pytest.fixture(scope="session")
def environment() -> Path:
    return dask_environment()


class Issuer:
    """A Dask CA."""

    def __init__(self, lifetime: timedelta = timedelta(hours=1)) -> None:
        self._authority, self._lifetime = CertificateAuthority.create("Dask CA", "spiffe://test/dask"), lifetime
        self.ca_pem = self._authority.cert_pem
        self.issued = 0

    def issue(self, csr_der: bytes, name: str) -> Issued:
        self.issued += 1
        uri = f"spiffe://test/dask/main/{name}"
        return self._authority.issue(csr_der, uri, lifetime=self._lifetime, server=True)


@asynccontextmanager
async def running(directory: Path, environment: Path, issuer: Issuer, *, stop: bool = True) -> AsyncIterator[Pool]:
    config = PoolConfig(
        scheduler_host="127.0.0.1", scheduler_port=0, dashboard_port=0, scheduler_directory=directory / "scheduler",
        compute_directory=directory / "compute", runtime_directory=directory / "run",
    )  # fmt: skip
    plan = PoolPlan("main", EnvironmentSpec(environment_hash=environment.name), "")
    units_config = UnitsConfig(
        "process", directory / "units", {"clusterai-scheduler": directory / "scheduler"}, stop_on_exit=stop
    )
    async with open_units(units_config) as units:
        pool = Pool(plan, config, units, issuer)
        work = asyncio.create_task(pool.run(), name="pool")
        try:
            yield pool
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work


def link_environment(directory: Path, environment: Path) -> None:
    """Make the environment appear, as when the agent has built it."""
    (directory / "compute/env").mkdir(parents=True)
    (directory / "compute/env" / environment.name).symlink_to(environment)


def fetch(url: str) -> tuple[int, str]:
    """Return status and text of a page."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status, answer.read().decode()


async def test_it_waits_for_the_environment_and_then_runs(tmp_path: Path, environment: Path) -> None:
    async with running(tmp_path, environment, Issuer()) as pool:
        await asyncio.wait_for(pool.settled(), 60)
        assert pool.status().scheduler_state == "waiting"
        assert "the compute environment" in pool.status().reason
        lacks = EnvironmentStatus(state=ENVIRONMENT_STATE_INCOMPATIBLE, reason="this machine has no Python 3.14")
        pool.environment_told(lacks)
        await until(lambda: "has no Python 3.14; on this server, `apt install" in pool.status().reason, "it says why")
        full = EnvironmentStatus(state=ENVIRONMENT_STATE_FAILED, reason="the disk is full", hint="free 500 MB")
        pool.environment_told(full)
        await until(lambda: "the disk is full; free 500 MB" in pool.status().reason, "it says the newest")
        changes: list[str] = []
        pool.on_changed(lambda: changes.append(pool.status().scheduler_state))
        link_environment(tmp_path, environment)
        await until(lambda: pool.status().scheduler_state == "running", "it runs", 60)
        assert changes[-1] == "running"
        assert pool.status().dashboard_address.startswith("http://127.0.0.1:")
        assert pool.spec().scheduler_address == pool.status().scheduler_address
        for name in ("main.json", "main-dask.pem", "dask-ca.pem"):
            assert (tmp_path / "scheduler" / name).stat().st_mode & 0o777 == 0o640


async def test_the_dashboard_lies_under_the_path_of_the_gateway(tmp_path: Path, environment: Path) -> None:
    link_environment(tmp_path, environment)
    async with running(tmp_path, environment, Issuer()) as pool:
        await until(lambda: pool.status().scheduler_state == "running", "it runs", 60)
        address = pool.status().dashboard_address
        status, text = await asyncio.to_thread(fetch, f"{address}dask/status")
        assert status == 200
        assert 'src="/dask/static/' in text or 'href="/dask/' in text
        assert "/dask/" in (await asyncio.to_thread(fetch, address))[1], "the bare address leads there"


async def test_a_new_daemon_goes_on_with_the_running_scheduler(tmp_path: Path, environment: Path) -> None:
    link_environment(tmp_path, environment)
    issuer = Issuer()
    async with running(tmp_path, environment, issuer, stop=False) as pool:
        await until(lambda: pool.status().scheduler_state == "running", "it runs", 60)
        address, process_id = pool.spec().scheduler_address, pool._unit_status.main_process_id
    async with running(tmp_path, environment, issuer) as pool:
        await until(lambda: pool.status().scheduler_state == "running", "it runs still", 60)
        assert (pool.spec().scheduler_address, pool._unit_status.main_process_id) == (address, process_id)
        assert issuer.issued == 1


async def test_who_stops_it_by_hand_finds_it_stopped(tmp_path: Path, environment: Path) -> None:
    link_environment(tmp_path, environment)
    async with running(tmp_path, environment, Issuer()) as pool:
        await until(lambda: pool.status().scheduler_state == "running", "it runs", 60)
        await pool._units.stop(scheduler_unit(pool.plan.name))  # type: ignore[arg-type]
        await until(lambda: pool.status().scheduler_state == "stopped", "it is stopped", 60)
        assert "clusteractl unit start" in pool.status().reason
        await pool._units.start(scheduler_unit(pool.plan.name))  # type: ignore[arg-type]
        await until(lambda: pool.status().scheduler_state == "running", "it runs again", 60)


async def test_its_certificate_is_renewed_in_the_running_process(tmp_path: Path, environment: Path) -> None:
    link_environment(tmp_path, environment)
    issuer = Issuer(timedelta(seconds=9))
    async with running(tmp_path, environment, issuer) as pool:
        log = tmp_path / "units/logs/clusterai-scheduler@main.service.log"
        taken = "took the new certificate"
        await until(lambda: log.exists() and log.read_text().count(taken) >= 2, "it was renewed", 60)
        assert issuer.issued >= 3
        assert pool.status().scheduler_state == "running"


async def test_a_taken_port_is_shown_with_the_way_to_the_log(tmp_path: Path, environment: Path) -> None:
    link_environment(tmp_path, environment)
    async with running(tmp_path, environment, Issuer()) as pool:
        host, port = "127.0.0.1", int(pool.spec().scheduler_address.rpartition(":")[2])
        server = await asyncio.start_server(lambda *_: None, host, port)
        async with server:
            await until(lambda: pool.status().scheduler_state == "failed", "it fails", 60)
            assert "clusteractl logs --unit clusterai-scheduler@main.service" in pool.status().reason
