"""What `clusteractl doctor` asks of the gateway, its keys, the models and Open WebUI. It looks and changes nothing."""

import asyncio
import http.client
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterai.credentials import load_credentials
from clusterai.units import Units, UnitStatus
from clusterai.v1.cluster_pb2 import CheckResult
from clusteraid.findings import Check, failed, listed, not_applicable, ok, warning
from clusteraid.gateway.data import DataFile
from clusteraid.gateway.routes import Peer
from clusteraid.gateway.status import GatewayStatus
from clusteraid.machine_units import GATEWAY_UNIT, WEBUI_UNIT
from clusteraid.models.ports import Inventory
from clusteraid.webui.wait import answers

_CONNECT_SECONDS, _TAKEN_SECONDS, _STEP_SECONDS = 3.0, 2.0, 0.2
_LOGS = "see `journalctl -u clusterai-gateway`, then `sudo systemctl restart clusterai-gateway`"


@dataclass(frozen=True)
class GatewayChecked:
    """What the checks look at."""

    units: Units
    status: GatewayStatus
    files: Sequence[DataFile]  # routes.json, keys.json
    web: Path
    https_port: int
    keys: Callable[[], int]
    inventory: Inventory
    peers: Callable[[], Sequence[Peer]]


class GatewayChecks:
    """The checks by name."""

    def __init__(self, checked: GatewayChecked) -> None:
        self._checked = checked

    def all(self) -> dict[str, Check]:
        """Return them."""
        return {"gateway": self._gateway, "keys": self._keys, "models": self._models, "open-webui": self._webui}

    async def _gateway(self) -> CheckResult:
        unit = await self._checked.units.status(GATEWAY_UNIT)
        if not unit.installed or not self._checked.files[0].installed:
            return not_applicable("there is no gateway on this machine")
        if unit.active_state != "active":
            return failed(f"{unit.unit} is {_state(unit)}", "`sudo systemctl start clusterai-gateway`, and see its log")
        if behind := await self._behind():
            return failed(behind, _LOGS)
        port = self._checked.https_port
        shown = await asyncio.to_thread(_shown_certificate, port, self._checked.web)
        if shown != _first(load_credentials(self._checked.web).chain_pem.decode()):
            return failed(f"port {port} shows another certificate than {self._checked.web}", _LOGS)
        return ok(f"the gateway runs with the newest table and certificate; it answers on port {port}")

    async def _behind(self) -> str:
        """Return which table the gateway has not taken within its time; empty: it has both."""
        async with asyncio.timeout(_CONNECT_SECONDS):
            for _ in range(round(_TAKEN_SECONDS / _STEP_SECONDS)):
                status = await self._checked.status.read()
                late = [file for file in self._checked.files if _generation(status, file) < file.generation]
                if not late:
                    return ""
                await asyncio.sleep(_STEP_SECONDS)
        told = status.get(late[0].path.stem)
        problem = told.get("problem") if isinstance(told, dict) else ""
        return f"the gateway has not taken {late[0].path}" + (f": {problem}" if problem else "")

    async def _keys(self) -> CheckResult:
        if not self._checked.files[0].installed:
            return not_applicable("there is no gateway on this machine")
        count = self._checked.keys()
        if not count:
            return warning("there is no usable key: nobody can use a model", "make one: `clusteractl key create NAME`")
        return ok(f"{count} usable key{'' if count == 1 else 's'}")

    async def _models(self) -> CheckResult:
        peers = [peer for peer in self._checked.peers() if peer.ollama.version]
        if not peers:
            return not_applicable("no node with Ollama is connected")
        if findings := [f"{peer.node_id}: {said}" for peer in peers for said in peer.ollama.findings]:
            return warning(listed(findings), "on that machine: `sudo systemctl restart clusterai-agent ollama`")
        versions = sorted({peer.ollama.version for peer in peers})
        if len(versions) > 1:
            fix = "install the same version everywhere: `sudo clusterai-agent setup ollama` on each"
            return warning(f"Ollama's versions differ: {listed(versions)}", fix)
        models = self._checked.inventory.models()
        if away := [model.name for model in models if not model.served]:
            return warning(f"nobody can serve now: {listed(away)}", "`clusteractl model list` says why")
        return ok(f"{len(models)} models on {len(peers)} nodes with Ollama {versions[0]}")

    async def _webui(self) -> CheckResult:
        unit = await self._checked.units.status(WEBUI_UNIT)
        if not unit.installed or unit.active_state == "inactive":
            ways = "`sudo clusteraid setup open-webui` sets it up, `sudo systemctl start open-webui` starts it"
            return not_applicable(f"Open WebUI does not run: {ways}")
        if unit.active_state != "active":
            return failed(f"{unit.unit} is {_state(unit)}", "`sudo systemctl start open-webui`, and see its log")
        if await asyncio.to_thread(answers):
            return ok("Open WebUI answers")
        fix = "see `journalctl -u open-webui`; its start takes a minute"
        return failed("Open WebUI runs and does not answer", fix)


def _state(unit: UnitStatus) -> str:
    return f"{unit.active_state} ({unit.result})" if unit.result not in ("", "success") else unit.active_state


def _generation(status: dict[str, object], file: DataFile) -> int:
    told = status.get(file.path.stem)
    found = told.get("generation") if isinstance(told, dict) else None
    return int(found) if isinstance(found, int | float) else 0


def _shown_certificate(port: int, web: Path) -> bytes:
    """Return what the port shows, in DER, trusting only the certificates in the file."""
    context = ssl.create_default_context(cadata=load_credentials(web).chain_pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an own certificate stands for itself
    context.check_hostname = False  # the file says which certificate it has to be
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=_CONNECT_SECONDS, context=context)
    try:
        connection.connect()
        return connection.sock.getpeercert(binary_form=True) or b""
    finally:
        connection.close()


def _first(chain_pem: str) -> bytes:
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(chain_pem.partition(end)[0] + end)

