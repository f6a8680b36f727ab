"""The reconciler: brings environment, certificate and workers to the desired state, and tells what it observes."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from clusterai.errors import ClusterAIError, Unreachable
from clusterai.files import CannotWrite
from clusterai.units import Units
from clusterai.v1.node_pb2 import NodeSpec, NodeStatus
from clusterai_agent.addresses import Address, local_address_towards
from clusterai_agent.certificates import dask_certificate
from clusterai_agent.config import AgentConfig
from clusterai_agent.facts import own_addresses
from clusterai_agent.places import places
from clusterai_agent.server import Server
from clusterai_agent.supervisor.desired import Desired, Limits, contact_host, decide, host_and_port, scheduler_at
from clusterai_agent.supervisor.environments import Environments
from clusterai_agent.supervisor.memory import MemoryGuard
from clusterai_agent.supervisor.workers import Ground, Workers

log = logging.getLogger(__name__)

_ALONE = "this node rests, and the server, which would move its work away, cannot be reached"
_LOOK_SECONDS = 10.0  # without any news, everything is looked at again so often
_PROBE_SECONDS = 2.0
_GATHER_SECONDS = 0.05  # units change in bursts


class Supervisor:
    """The node's desired and observed state. Until the daemon has said what it wants, everything is left as it is."""

    def __init__(
        self, config: AgentConfig, limits: Limits, units: Units, server: Server, changed: Callable[[], None],
        rest_is_overdue: Callable[[], bool] = lambda: False,
    ) -> None:
        compute = config.state.compute_directory
        self._config, self._limits, self._units, self._server = config, limits, units, server
        self._changed, self._rest_is_overdue = changed, rest_is_overdue
        modules = places().modules
        self._environments = Environments(compute / "env", config.environment, server, self.wake, modules)
        self._certificate = dask_certificate(compute, server)
        self._workers = Workers(compute / "workers", units)
        self._guard = MemoryGuard(self._workers, self.wake)
        self._desired: Desired | None = None
        self._waiting_for = ""
        self._status = NodeStatus()
        self._wake = asyncio.Event()

    @property
    def status(self) -> NodeStatus:
        """What was observed last."""
        return self._status

    def want(self, spec: NodeSpec) -> None:
        """Take the daemon's spec; the newest one counts."""
        self._desired = decide(spec, self._limits)
        self.wake()

    def wake(self) -> None:
        """Look at everything soon."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile until cancelled. Workers go on running without this process."""
        watching = [asyncio.create_task(self._watch_units(), name="watch units")]
        if self._units.back_end == "process":  # systemd keeps the limit itself
            watching.append(asyncio.create_task(self._guard.run(), name="watch memory"))
        try:
            while True:
                self._wake.clear()
                await self.reconcile()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._wake.wait()
                await asyncio.sleep(_GATHER_SECONDS)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await self._environments.close()

    async def reconcile(self) -> None:
        """Do what the desired state needs now, then observe and report."""
        if (desired := self._desired) is not None:
            if self._rest_is_overdue() and not self._server.connected:
                desired = replace(desired, workers=(), reason=_ALONE)
            await self._environments.want(desired.environment)
            self._waiting_for = await self._settled(desired)
        await self._observe(desired)

    async def give_up(self, reason: str) -> None:
        """Another machine or none is the node now: stop its workers and take their certificate away."""
        self._desired = Desired(0, reason=reason)
        await self._environments.want(None)
        await self._workers.stop_all_but(())
        try:
            self._certificate.remove()
        except CannotWrite as error:
            log.error("%s; %s", str(error), error.advice)
        await self._observe(self._desired)

    async def _settled(self, desired: Desired) -> str:
        """Bring the workers to what is wanted; return why they cannot start, if so."""
        if desired.problem:
            return desired.problem
        if not desired.workers:
            await self._workers.stop_all_but(())
            return ""
        if not self._environments.ready:
            await self._workers.stop_all_but(worker.name for worker in desired.workers)
            return "waiting for the compute environment"
        try:
            await self._certificate.ensure()
        except ClusterAIError as error:
            log.warning("no new Dask certificate: %s; %s", str(error), error.advice)
            if not self._certificate.usable:
                return f"no Dask certificate: {error}"
        return await self._run_workers(desired)

    async def _run_workers(self, desired: Desired) -> str:
        try:
            ground = await self._ground(desired)
        except ClusterAIError as error:
            return str(error)
        await self._workers.run(desired.workers, ground)
        return ""

    async def _ground(self, desired: Desired) -> Ground:
        """What all workers need to know; a running worker's addresses stay while they still lead somewhere."""
        server_host = self._server_host()
        assert desired.environment is not None
        running = next(filter(None, (self._workers.launch(worker.name) for worker in desired.workers)), None)
        scheduler = scheduler_at(desired.scheduler_address, server_host)
        if running is not None and running.scheduler_address != scheduler:
            same_port = host_and_port(running.scheduler_address)[1] == host_and_port(scheduler)[1]
            if same_port and (not server_host or await _answers(running.scheduler_address)):
                scheduler = running.scheduler_address
        contact = contact_host(
            configured=self._config.worker.contact_address,
            towards_server=local_address_towards(host_and_port(scheduler)[0]),
            server_is_local=self._config.server.is_local,
            own=own_addresses(server_host),
            running=running.contact_address if running else "",
        )
        if not host_and_port(scheduler)[0]:
            raise Unreachable("the scheduler", "its address is not known before the first session")
        return Ground(
            self._environments.directory(desired.environment.hash), scheduler, contact,
            self._certificate.file, self._certificate.ca, self._config.state.scratch_directory,
        )

    def _server_host(self) -> str:
        address = Address.parse(self._server.address)
        return address.host if address else ""

    async def _observe(self, desired: Desired | None) -> None:
        """Look at the workers and report when anything is other than before."""
        known = desired or Desired(0)
        status = NodeStatus(
            observed_generation=known.generation,
            environment=self._environments.status,
            workers=await self._workers.statuses(known.workers, self._waiting_for),
            message=known.problem or known.reason,
        )
        if status != self._status:
            self._status = status
            self._changed()

    async def _watch_units(self) -> None:
        """Wake up when a unit changes; the back-end may lose its bus, then the slow look is what remains."""
        while True:
            try:
                async for _ in self._units.changes():
                    self.wake()
            except ClusterAIError as error:
                log.warning("cannot watch units: %s; %s", str(error), error.advice)
            await asyncio.sleep(_LOOK_SECONDS)


async def _answers(scheduler_address: str) -> bool:
    """Whether something still listens there."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(*host_and_port(scheduler_address))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
