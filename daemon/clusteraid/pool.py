"""A pool: its scheduler's launch file, certificate and unit, and what the scheduler says of its workers."""

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import clusterai
from clusterai.credentials import load_credentials, renewal_time, save_credentials
from clusterai.environment import read_complete
from clusterai.errors import ClusterAIError
from clusterai.files import BadFile, make_shared, read_limited, write_atomic
from clusterai.ids import PoolName
from clusterai.launch import SchedulerLaunch
from clusterai.pki import Issued, key_pem, new_csr, new_key
from clusterai.units import Units, UnitStatus
from clusterai.v1.cluster_pb2 import PoolStatus
from clusterai.v1.types_pb2 import (
    ENVIRONMENT_STATE_FAILED,
    ENVIRONMENT_STATE_INCOMPATIBLE,
    EnvironmentStatus,
    PoolSpec,
)
from clusteraid.dask_control import DaskControl, Registered
from clusteraid.machine_units import scheduler_unit
from clusteraid.planner import how_to_get_python
from clusteraid.pool_config import PoolConfig
from clusteraid.pool_port import PoolPlan

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_SOON_SECONDS = 0.2
_SILENT_SECONDS = 20.0  # a scheduler that runs longer than this and does not answer has failed
_FILE_MODE = 0o640  # Dask's user reads them by its group, which the setgid directory gives
_FILE_LIMIT = 1 << 16
_NAME = "scheduler"


class DaskAuthority(Protocol):
    """Issues the pool's certificates."""

    @property
    def ca_pem(self) -> bytes:
        """The Dask CA."""

    def issue(self, csr_der: bytes, name: str) -> Issued:
        """Issue a certificate."""


@dataclass(frozen=True)
class _State:
    """What people are shown of the scheduler: running, waiting, failed or stopped, and why."""

    name: str = "waiting"
    reason: str = ""


class Pool:
    """Runs the pool's scheduler and speaks for it. `run` does the work; everything else is told at once."""

    def __init__(self, plan: PoolPlan, config: PoolConfig, units: Units, authority: DaskAuthority) -> None:
        self.plan, self._config, self._units, self._authority = plan, config, units, authority
        self._unit = scheduler_unit(PoolName(config.name))
        self._directory = config.scheduler_directory
        self._environment = config.compute_directory / "env" / plan.environment.environment_hash
        self._port = config.scheduler_port or self._former_port() or _free_port(config.scheduler_host)
        self._spec = PoolSpec(pool_name=plan.name, scheduler_address=self._address(), environment=plan.environment)
        self._told = EnvironmentStatus()
        self._control = DaskControl(config.socket, self._workers_changed)
        self._state, self._unit_status = _State(), UnitStatus(self._unit)
        self._seen_up, self._restarted_for = False, ""
        self._wake, self._settled = asyncio.Event(), asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._jitter = random.random()  # noqa: S311

    @property
    def workers(self) -> Mapping[str, Registered]:
        """The registered workers by name; none while the scheduler does not answer."""
        return self._control.workers

    async def settled(self) -> None:
        """Wait until `workers` can be believed: the scheduler answers, or does not run at all."""
        await self._settled.wait()

    def spec(self) -> PoolSpec:
        """Return what nodes are told about the pool: always the same message, not to be changed."""
        return self._spec

    def status(self) -> PoolStatus:
        """Return what people are shown of the pool."""
        workers = self.workers.values()
        board = self._control.dashboard_port or self._config.dashboard_port
        return PoolStatus(
            pool_name=self.plan.name,
            scheduler_unit=self._unit,
            scheduler_state=self._state.name,
            reason=self._state.reason[:1000],
            scheduler_address=self._spec.scheduler_address,
            dashboard_address=f"http://127.0.0.1:{board}/" if board else "",
            worker_count=len(workers),
            thread_count=sum(worker.threads for worker in workers),
            memory_limit_bytes=sum(worker.memory_limit for worker in workers),
            environment=self.plan.environment,
        )

    def hold(self, names: Collection[str]) -> None:
        """Give no new tasks to exactly these workers, registered or not, from now on."""
        self._control.hold(names)

    async def retire(self, names: Collection[str], progress: Callable[[int, int, int], None]) -> None:
        """Let running tasks end, move results away, close the workers. Raises SchedulerAway, SchedulerRefused."""
        await self._control.retire(names, progress)

    async def close(self, names: Collection[str]) -> None:
        """End the workers at once. Raises SchedulerAway, SchedulerRefused."""
        await self._control.close_workers(names)

    def environment_told(self, status: EnvironmentStatus) -> None:
        """Hear how far this machine's own agent is with the environment in which the scheduler runs."""
        if status != self._told:
            self._told = status
            self._wake.set()

    def on_changed(self, listener: Callable[[], None]) -> None:
        """Call the listener whenever workers come, go or change, and when the scheduler's state changes."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Keep the scheduler as it should be, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._control.run(), name="scheduler's control socket")
            tasks.create_task(self._watch_unit(), name="scheduler's unit")
            while True:
                await self._look()
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(_LOOK_SECONDS, self._until_renewal() + _SOON_SECONDS)):
                        await self._wake.wait()

    async def _watch_unit(self) -> None:
        while True:
            try:
                async for unit in self._units.changes():
                    if unit == self._unit:
                        self._wake.set()
            except ClusterAIError as error:
                log.warning("cannot watch %s: %s", self._unit, error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        try:
            state = await self._make_so()
        except ClusterAIError as error:
            state = _State("failed", f"{error}; {error.advice}" if error.advice else str(error))
        if state != self._state:
            log.info("scheduler of pool %s: %s %s", self.plan.name, state.name, state.reason)
            self._state = state
            self._tell()
        if state.name in ("waiting", "stopped") and not self._unit_status.main_process_id:
            self._settled.set()

    async def _make_so(self) -> _State:
        """Write what differs, start what does not run; return how it is."""
        self._unit_status = status = await self._units.status(self._unit)
        if read_complete(self._environment) is None and status.active_state in ("inactive", "failed"):
            return _State("waiting", self._waits_for())
        self._write_certificate()
        self._write_launch()
        await self._start_or_restart(status)
        self._unit_status = status = await self._units.status(self._unit)
        return self._judge(status)

    def _waits_for(self) -> str:
        """What the scheduler lacks, and what to do about it where that is not to wait."""
        told = self._told
        if told.state == ENVIRONMENT_STATE_INCOMPATIBLE:
            how = how_to_get_python(self.plan.environment.python_minor)
            return f"for the compute environment: {told.reason}; on this server, {how}"
        if told.state == ENVIRONMENT_STATE_FAILED:
            return f"for the compute environment: {told.reason}; {told.hint}"
        return f"for the compute environment in {self._environment}; the agent builds it"

    async def _start_or_restart(self, status: UnitStatus) -> None:
        """Start it once, and again when it failed; who stopped it by hand wants it stopped."""
        up = status.active_state not in ("inactive", "failed")
        if status.active_state == "failed" or (not up and not self._seen_up):
            log.info("starting %s", self._unit)
            await self._units.start(self._unit)
        elif up and self._is_stale(status):
            log.info("restarting %s: its launch file is newer than it", self._unit)
            self._restarted_for = self._launch().to_json()
            await self._units.restart(self._unit)
        self._seen_up = True

    def _is_stale(self, status: UnitStatus) -> bool:
        """Whether the process is older than the file. Clocks jump: once for each content is enough."""
        if self._restarted_for == self._launch().to_json() or status.active_state != "active":
            return False
        return status.since_unix_seconds < self._launch_file.stat().st_mtime

    def _judge(self, status: UnitStatus) -> _State:
        if self._control.connected:
            return _State("running")
        if status.active_state == "inactive":
            return _State("stopped", "it was stopped by hand; `clusteractl unit start` starts it")
        if status.restart_count and status.active_state != "active":
            reason = f"its process ended ({status.result}) and is started again; restarted {status.restart_count} times"
            return _State("failed", f"{reason}; see `clusteractl logs --unit {self._unit}`")
        if status.active_state == "active" and time.time() - status.since_unix_seconds > _SILENT_SECONDS:
            return _State("failed", f"its process runs, but does not answer on {self._config.socket}")
        return _State("waiting", "it is starting")

    def _address(self) -> str:
        """Where nodes find the scheduler; without a host they use the one at which they reach us."""
        host = self._config.scheduler_host
        listed = "" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"tls://{listed}:{self._port}"

    def _launch(self) -> SchedulerLaunch:
        return SchedulerLaunch(
            pool=self._config.name,
            environment=self._environment.absolute(),
            host=self._config.scheduler_host,
            port=self._port,
            dashboard_address=f"127.0.0.1:{self._config.dashboard_port}",
            certificate=self._certificate.absolute(),
            ca=(self._directory / "dask-ca.pem").absolute(),
            control_socket=self._config.socket.absolute(),
            preload=Path(clusterai.__file__).absolute().with_name("dask_preload.py"),
        )

    @property
    def _launch_file(self) -> Path:
        return self._directory / f"{self._config.name}.json"

    @property
    def _certificate(self) -> Path:
        return self._directory / f"{self._config.name}-dask.pem"

    def _write_launch(self) -> None:
        launch = self._launch()
        launch.check()
        text = launch.to_json().encode()
        if _content(self._launch_file) != text:
            write_atomic(self._launch_file, text, _FILE_MODE)

    def _write_certificate(self) -> None:
        """Write CA and certificate where they are missing or due. A running scheduler takes a new one by itself."""
        for directory in (self._directory, self._config.socket.parent):
            make_shared(directory)
        ca = self._directory / "dask-ca.pem"
        same_ca = _content(ca) == self._authority.ca_pem
        if same_ca and self._until_renewal():
            return
        if not same_ca:
            write_atomic(ca, self._authority.ca_pem, _FILE_MODE)
        key = new_key()
        issued = self._authority.issue(new_csr(key), _NAME)
        save_credentials(self._certificate, key_pem(key), issued.chain_pem, _FILE_MODE)
        log.info("new certificate for %s, valid until %s UTC", self._unit, f"{issued.not_after:%F %T}")

    def _until_renewal(self) -> float:
        """Seconds until the certificate is due; 0 when it is, or when there is none."""
        try:
            current = load_credentials(self._certificate)
        except BadFile:
            return 0.0
        due = renewal_time(current.not_before, current.not_after, self._jitter)
        return max((due - datetime.now(UTC)).total_seconds(), 0.0)

    def _former_port(self) -> int:
        """The port that a running or earlier scheduler has: workers look for it there."""
        try:
            return SchedulerLaunch.parse(read_limited(self._launch_file, _FILE_LIMIT)).port
        except ClusterAIError:
            return 0

    def _workers_changed(self) -> None:
        if self._control.connected:
            self._settled.set()
        else:
            self._settled.clear()
        if self._control.connected != (self._state.name == "running"):
            self._wake.set()
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _content(path: Path) -> bytes:
    try:
        return read_limited(path, _FILE_LIMIT)
    except BadFile:
        return b""


def _free_port(host: str) -> int:
    """Return a port that is free now; the same one is kept from then on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
