"""The node's gate and its way to the mirror: certificate, both tunnels, and what there is to say of them."""

import logging
from collections.abc import Callable
from pathlib import Path

from clusterai.errors import ClusterAIError
from clusterai.files import CannotWrite
from clusterai.tunnels import GateLaunch, MirrorLaunch, stunnel
from clusterai.units import Units
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import GateStatus
from clusterai_agent.addresses import Address
from clusterai_agent.certificates import gate_certificate
from clusterai_agent.models.desired import Wanted
from clusterai_agent.models.tunnel_units import UNITS, Tunnels
from clusterai_agent.server import Server

log = logging.getLogger(__name__)

_INSTALL = "`sudo apt install stunnel4`"


class Gate:
    """One node's gate. What fails is told, and tried again at the next `settle`."""

    def __init__(
        self, directory: Path, mirror_port: int, units: Units, server: Server,
        has_stunnel: Callable[[], object] = stunnel,
    ) -> None:  # fmt: skip
        self._certificate = gate_certificate(directory, server)
        self._tunnels = Tunnels(directory, units)
        self._mirror_port, self._server, self._has_stunnel = mirror_port, server, has_stunnel
        self.status = GateStatus()
        self.mirror_problem = "the way to the server's copies is not open yet"
        self._reload_due: set[str] = set()
        self.settled = False  # nothing is on its way, so the next look may be later

    async def resume(self) -> None:
        """Start what ran before: until the server has said what it wants, nothing else is done."""
        for kind in UNITS:
            if problem := await _problem(self._tunnels.resume(kind)):
                log.warning("%s", problem)

    async def settle(self, wanted: Wanted, ollama_address: str) -> None:
        """Bring both to what is wanted; an empty address: there is no Ollama to lead to."""
        gate = wanted.gate_port if ollama_address else 0
        mirror = self._mirror_address(wanted) if gate and _needs_mirror(wanted) else ""
        problem = await self._certified() if gate else ""
        if not problem:
            problem = await _problem(self._run_gate(wanted, ollama_address) if gate else self._stop("gate"))
        self.status = await self._gate_status(gate, problem)
        self.mirror_problem = await self._settle_mirror(wanted, mirror, problem)
        self.settled = not (gate and self.status.state != types.SERVICE_STATE_READY) and not (
            mirror and self.mirror_problem
        )

    async def give_up(self) -> None:
        """Nobody may come in any more."""
        if problem := await _problem(self._tunnels.stop()):
            log.error("%s", problem)
        try:
            self._certificate.remove()
        except CannotWrite as error:
            log.error("%s; %s", str(error), error.advice)
        self.status = GateStatus()

    async def _certified(self) -> str:
        """Have a certificate; return why there is none."""
        if not self._has_stunnel():
            return f"stunnel is not installed: {_INSTALL}"
        try:
            if await self._certificate.ensure():
                self._reload_due = set(UNITS)
        except ClusterAIError as error:
            log.warning("no new certificate for the gate: %s; %s", str(error), error.advice)
            if not self._certificate.usable:
                return f"no certificate: {error}"
        return ""

    async def _run_gate(self, wanted: Wanted, ollama_address: str) -> None:
        certificate = self._certificate
        launch = GateLaunch(
            "", wanted.gate_port, ollama_address, certificate.file, certificate.ca, wanted.gateway_name
        )
        await self._run("gate", launch)

    async def _settle_mirror(self, wanted: Wanted, address: str, gate_problem: str) -> str:
        """Open or close the way to the server's copies; return why nothing can be fetched there."""
        if not address:
            stopped = await _problem(self._stop("mirror"))
            return stopped or "the address of the server's copies is not known"
        if gate_problem:
            return gate_problem
        certificate = self._certificate
        launch = MirrorLaunch(self._mirror_port, address, certificate.file, certificate.ca, wanted.mirror_name)
        if problem := await _problem(self._run("mirror", launch)):
            return problem
        state, reason = await self._tunnels.state("mirror", self._mirror_port)
        if state != types.SERVICE_STATE_READY:
            return reason or "the way to the server's copies is being opened"
        return ""

    async def _run(self, kind: str, launch: GateLaunch | MirrorLaunch) -> None:
        await self._tunnels.run(kind, launch, new_certificate=kind in self._reload_due)
        self._reload_due.discard(kind)

    async def _stop(self, kind: str) -> None:
        await self._tunnels.stop((kind,))

    async def _gate_status(self, port: int, problem: str) -> GateStatus:
        if not port:
            return GateStatus(state=types.SERVICE_STATE_STOPPED)
        state, reason = await self._tunnels.state("gate", port)
        if problem:
            state, reason = types.SERVICE_STATE_FAILED, problem
        return GateStatus(
            state=state, reason=reason[:500], port=port,
            certificate_not_after_unix_seconds=self._certificate.not_after,
        )  # fmt: skip

    def _mirror_address(self, wanted: Wanted) -> str:
        """HOST:PORT of the server's copies; the host at which the daemon was reached where the spec names none."""
        host, _, port = wanted.mirror_address.rpartition(":")
        server = Address.parse(self._server.address)
        host = host.strip("[]") or (server.host if server else "")
        if not host or not port.isdecimal() or not wanted.mirror_name:
            return ""
        return str(Address(host, int(port)))


def _needs_mirror(wanted: Wanted) -> bool:
    return any(model.from_mirror and not model.absent for model in wanted.models)


async def _problem(work: object) -> str:
    """Do it, and return why it failed; empty when it did not."""
    try:
        await work  # type: ignore[misc]
    except ClusterAIError as error:
        return f"{error}; {error.advice}" if error.advice else str(error)
    return ""
