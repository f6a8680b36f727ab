"""A real scheduler and real workers over TLS on loopback, started as the units start them, and clients of them."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import clusterai
from clusterai.credentials import save_credentials
from clusterai.files import write_atomic
from clusterai.ids import UnitName
from clusterai.launch import SchedulerLaunch, WorkerLaunch
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.units import Units, UnitsConfig, open_units
from clusteraid.dask_control import DaskControl
from clusteraid.pool import _free_port

PRELOAD = Path(clusterai.__file__).with_name("dask_preload.py")
SCHEDULER = UnitName("clusterai-scheduler@main.service")
_PREAMBLE = """
import json, os, sys, time
from pathlib import Path
from distributed import Client, get_worker, wait
from distributed.security import Security
directory = Path({directory!r})
security = Security(
    tls_ca_file=str(directory / "ca.pem"), tls_client_cert=str(directory / "client.pem"),
    tls_client_key=str(directory / "client.pem"), require_encryption=True,
)
def say(value):
    print(json.dumps(value), flush=True)
def hear():
    return json.loads(sys.stdin.readline())
with Client({address!r}, security=security, timeout=90) as client:
"""
SECONDS = 60.0


def worker_unit(name: str) -> UnitName:
    """The unit of a worker."""
    return UnitName(f"clusterai-worker@{name}.service")


class DaskPool:
    """Launch files, certificates, units and the control socket of one pool in a directory."""

    def __init__(self, directory: Path, environment: Path, units: Units) -> None:
        self.directory, self.environment, self.units = directory, environment, units
        self.port = _free_port("127.0.0.1")
        self.authority = CertificateAuthority.create("Dask CA", "spiffe://test/dask")
        self.control = DaskControl(directory / "main.sock", lambda: None)
        (directory / "ca.pem").write_bytes(self.authority.cert_pem)
        for name in ("scheduler", "worker", "client"):
            self.certify(name)

    @property
    def address(self) -> str:
        """Where the scheduler listens."""
        return f"tls://127.0.0.1:{self.port}"

    def certify(self, name: str, lifetime: timedelta = timedelta(hours=1)) -> None:
        """Write a new certificate for the scheduler, the workers or the clients."""
        key = new_key()
        issued = self.authority.issue(new_csr(key), f"spiffe://test/dask/main/{name}", lifetime=lifetime, server=True)
        save_credentials(self.directory / f"{name}.pem", key_pem(key), issued.chain_pem)

    async def start_scheduler(self) -> None:
        """Start the scheduler and wait until its control socket answers."""
        launch = SchedulerLaunch(
            "main", self.environment, "127.0.0.1", self.port, "", self.directory / "scheduler.pem",
            self.directory / "ca.pem", self.directory / "main.sock", PRELOAD,
        )  # fmt: skip
        write_atomic(self.directory / "schedulers/main.json", launch.to_json().encode())
        await self.units.start(SCHEDULER)
        await until(lambda: self.control.connected, "the scheduler answers")

    async def start_worker(self, name: str, threads: int = 1) -> None:
        """Start a worker and wait until it is registered."""
        launch = WorkerLaunch(
            name, self.environment, self.address, threads, 1 << 30, {}, "", self.directory / "worker.pem",
            self.directory / "ca.pem", self.directory / "scratch", "127.0.0.1", PRELOAD,
        )  # fmt: skip
        write_atomic(self.directory / f"workers/{name}.json", launch.to_json().encode())
        await self.units.start(worker_unit(name))
        await until(lambda: name in self.control.workers, f"{name} is registered")

    def log(self, unit: UnitName) -> str:
        """Return what the unit's process wrote."""
        return (self.directory / f"units/logs/{unit}.log").read_text()

    @asynccontextmanager
    async def client(self, script: str) -> AsyncIterator["Script"]:
        """Run a script with `client`, `say` and `hear` in a process of the environment's Python."""
        indented = "".join(f"    {line}\n" for line in script.strip().splitlines())
        program = _PREAMBLE.format(directory=str(self.directory), address=self.address) + indented
        process = await asyncio.create_subprocess_exec(
            self.environment / "bin/python", "-c", program, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.directory)},
        )  # fmt: skip
        try:
            yield Script(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def compute(self, script: str) -> Any:
        """Run a script to its end and return the first thing that it says."""
        async with self.client(script) as running:
            return await running.said()


class Script:
    """A client that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def said(self, seconds: float = SECONDS) -> Any:
        """Return the next thing that it says; fail with its complaints when it ends instead."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
            if not line:
                raise AssertionError((await self._process.stderr.read()).decode())
        return json.loads(line)

    def tell(self, value: Any = None) -> None:
        """Say something to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")


@asynccontextmanager
async def dask_pool(
    directory: Path, environment: Path, *workers: str, make: type[DaskPool] = DaskPool
) -> AsyncIterator[DaskPool]:
    """Run a scheduler and these workers until the end of the block."""
    for folder in ("schedulers", "workers", "scratch"):
        (directory / folder).mkdir()
    config = UnitsConfig(
        "process", directory / "units",
        {"clusterai-scheduler": directory / "schedulers", "clusterai-worker": directory / "workers"},
        stop_on_exit=True,
    )  # fmt: skip
    async with open_units(config) as units:
        pool = make(directory, environment, units)
        running = asyncio.create_task(pool.control.run(), name="control")
        try:
            await pool.start_scheduler()
            await asyncio.gather(*(pool.start_worker(name) for name in workers))
            yield pool
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def until(true: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Wait until it is true; fail after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s in vain until {what}") from None
