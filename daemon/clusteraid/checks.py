"""What `clusteractl doctor` asks the daemon: each check is one function, each finding comes with its fix."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from clusterai.environment import read_complete
from clusterai.errors import ClusterAIError
from clusterai.units import NotPermitted, UnitMissing, Units, UnitsUnavailable
from clusterai.v1.cluster_pb2 import CheckResult
from clusterai.v1.types_pb2 import ENVIRONMENT_STATE_FAILED
from clusteraid.addresses import Reach, host_from_here
from clusteraid.authority import DaemonCertificate
from clusteraid.config import BackEnd, DaemonConfig
from clusteraid.findings import Check, failed, listed, not_applicable, ok, warning
from clusteraid.machine_units import MachineUnits
from clusteraid.nodes import Nodes
from clusteraid.pool_port import PoolPort
from clusteraid.pools import Pools
from clusteraid.registry import Link
from clusteraid.status import Problems
from clusteraid.store import Store

_CHECK_SECONDS = 10.0
_SKEW_SECONDS = 5.0
_LEAST_DISK_BYTES, _LEAST_DISK_RATIO = 1 << 30, 0.05
_SOON_SECONDS = 86400.0
_STORE_KNOWN_SECONDS = 60.0


@dataclass(frozen=True)
class CheckedParts:
    """What the checks look at."""

    config: DaemonConfig
    reach: Reach
    nodes: Nodes
    store: Store
    certificate: DaemonCertificate
    units: MachineUnits
    control: Units
    pools: Pools
    problems: Problems
    announced: Callable[[], Awaitable[bool]]


class Checks:
    """The daemon's own checks. They look and never change anything."""

    def __init__(self, parts: CheckedParts, more: Mapping[str, Check]) -> None:
        """`more` are the checks of parts that know themselves what to look at."""
        self._parts = parts
        self._store_found, self._store_known_until = "", 0.0
        self._checks: dict[str, Check] = {
            "clock": self._clock,
            "certificates": self._certificates,
            "ports": self._ports,
            "multicast": self._multicast,
            "units": self._units,
            "polkit": self._polkit,
            "environment": self._environment,
            "disk": self._disk,
            "store": self._store,
            **more,
        }

    async def run(self) -> list[CheckResult]:
        """Run all checks side by side, each within its time."""
        return list(await asyncio.gather(*(_bounded(name, check) for name, check in self._checks.items())))

    async def _clock(self) -> CheckResult:
        skewed = sorted(
            f"{node.node_id} {node.clock_skew:+.0f} s"
            for node in self._parts.nodes
            if node.entry.link is Link.UP and abs(node.clock_skew) > _SKEW_SECONDS
        )
        if skewed:
            message = f"clocks differ from the server's: {listed(skewed)}"
            return warning(message, "turn on time synchronisation there: `timedatectl set-ntp true`")
        return ok(f"all connected nodes agree with the server within {_SKEW_SECONDS:.0f} s")

    async def _certificates(self) -> CheckResult:
        left = (self._parts.certificate.not_after - datetime.now(UTC)).total_seconds()
        if left < 0:
            return failed("the daemon's own certificate has expired", "check the clock, then restart clusteraid")
        now = time.time()
        soon = min(_SOON_SECONDS, self._parts.config.certificates.lifetime_seconds / 10)
        late = [node.node_id for node in self._parts.nodes if 0 < node.certificate_not_after < now + soon]
        if late:
            fix = "start clusterai-agent there; when a certificate has expired, join again with a new token"
            return warning(f"certificates end soon or have ended: {listed(sorted(late))}", fix)
        return ok(f"the daemon's ends {self._parts.certificate.not_after:%F}; no node's ends soon")

    async def _ports(self) -> CheckResult:
        host = host_from_here(self._parts.config.server.listen)
        ports = (self._parts.reach.cluster_port, self._parts.reach.enrollment_port)
        for port in ports:
            try:
                async with asyncio.timeout(3):
                    _, writer = await asyncio.open_connection(host, port)
                writer.close()
                await writer.wait_closed()
            except (OSError, TimeoutError) as error:
                fix = f"see who listens: `ss -ltnp 'sport = :{port}'`, then restart clusteraid"
                return failed(f"port {port} does not answer on {host} ({error})", fix)
        return ok(f"ports {ports[0]} and {ports[1]} answer; nodes must reach both through any firewall")

    async def _multicast(self) -> CheckResult:
        if not self._parts.config.discovery.announce:
            return not_applicable("announcing is turned off ([discovery] announce)")
        problem = self._parts.problems.find("multicast")
        if not problem and await self._parts.announced():
            return ok("the server is announced by multicast DNS and can be found")
        fix = "let UDP port 5353 through the firewall; without multicast, join with `--server HOST`"
        return warning(problem or "the server's own announcement does not come back", fix)

    async def _units(self) -> CheckResult:
        try:
            states = await self._parts.units.list()
        except UnitsUnavailable as error:
            return failed(str(error), error.advice)
        for unit in states:
            if not unit.installed:
                missing = UnitMissing(unit.unit)
                return failed(str(missing), missing.advice)
            if unit.active_state == "failed":
                return failed(f"{unit.unit} has failed ({unit.result})", f"see `journalctl -u {unit.unit}`")
        return ok(", ".join(f"{unit.unit} is {unit.active_state}" for unit in states))

    async def _polkit(self) -> CheckResult:
        if self._parts.config.units.back_end is not BackEnd.SYSTEMD:
            return not_applicable("units are the daemon's own processes")
        try:
            await self._parts.control.check_permission(self._parts.units.controlled[0])
        except (NotPermitted, UnitMissing, UnitsUnavailable) as error:
            return failed(str(error), error.advice)
        return ok("polkit lets the daemon control its units")

    async def _environment(self) -> CheckResult:
        built = {node.node_id: node.status.environment for node in self._parts.nodes if node.entry.link is Link.UP}
        broken = sorted(name for name, told in built.items() if told.state == ENVIRONMENT_STATE_FAILED)
        if broken:
            told = built[broken[0]]
            return failed(f"not built on {listed(broken)}: {told.reason}", told.hint)
        lacking = [pool for pool in self._parts.pools if not await asyncio.to_thread(self._is_built, pool)]
        if lacking:
            environment, reason = lacking[0].plan.environment, lacking[0].status().reason
            fix = "the server's own agent builds it: `systemctl status clusterai-agent`, `clusteractl node list`"
            message = f"this machine has not built {environment.environment_hash} of the pool {lacking[0].plan.name}"
            return warning(f"{message}; it waits {reason}" if reason else message, fix)
        found = (pool.plan.environment for pool in self._parts.pools)
        return ok(", ".join(f"{one.environment_hash} (Python {one.python_minor}) is built" for one in found))

    def _is_built(self, pool: PoolPort) -> bool:
        directory = self._parts.config.pool.compute_directory / "env" / pool.plan.environment.environment_hash
        return read_complete(directory) is not None

    async def _disk(self) -> CheckResult:
        directory = self._parts.config.server.state_directory
        usage = await asyncio.to_thread(shutil.disk_usage, directory)
        message = f"{usage.free / (1 << 30):.1f} GiB free for {directory}"
        if usage.free < min(_LEAST_DISK_BYTES, usage.total * _LEAST_DISK_RATIO):
            return warning(message, f"make room: `df -h {directory}`; a full disk makes the cluster read-only")
        return ok(message)

    async def _store(self) -> CheckResult:
        if self._parts.store.problem:
            return failed(self._parts.store.problem, "see `df`, `journalctl -k`; it recovers by itself")
        if time.monotonic() >= self._store_known_until:  # it reads the whole file on the thread that writes
            self._store_found = await self._parts.store.check()
            self._store_known_until = time.monotonic() + _STORE_KNOWN_SECONDS
        if (found := self._store_found) != "ok":
            return failed(f"the store is damaged: {found}", "stop clusteraid and restore the store from a backup")
        return ok(f"{self._parts.store.path} is whole")


async def _bounded(name: str, check: Check) -> CheckResult:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            result = await check()
    except ClusterAIError as error:
        result = failed(str(error), error.advice)
    except OSError as error:  # TimeoutError too
        reason = str(error) or "it took too long"
        result = failed(f"the check could not be made ({reason})", "see `journalctl -u clusteraid`")
    result.check = name
    return result

