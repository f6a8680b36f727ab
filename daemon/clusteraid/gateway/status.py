"""What the running gateway says of itself: its table's generation, and what is in flight where."""

import asyncio
import http.client
import json
from collections.abc import Mapping
from typing import Any

from clusterai.errors import Unreachable
from clusteraid.models.ports import PeerLoad

_SECONDS = 1.0
_LIMIT = 16 << 20


class GatewayStatus:
    """Asks the gateway on this machine. The only module that speaks HTTP to it."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def read(self) -> dict[str, Any]:
        """Return /status; raise Unreachable when it does not answer within a second or says something else."""
        return await asyncio.to_thread(self._read)

    async def fetch(self) -> Mapping[str, PeerLoad] | None:
        """Return the load of each node that the gateway knows; None when it does not answer. Never raises."""
        try:
            nodes = (await self.read()).get("nodes")
        except Unreachable:
            return None
        return {str(name): _load(told) for name, told in nodes.items()} if isinstance(nodes, dict) else {}

    def _read(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_SECONDS)
        try:
            connection.request("GET", "/status", headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read(_LIMIT))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._silent(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if answer.status != 200 or not isinstance(body, dict):
            raise self._silent(f"status {answer.status}")
        return body

    def _silent(self, reason: str) -> Unreachable:
        fix = "see `systemctl status clusterai-gateway` and `journalctl -u clusterai-gateway`"
        return Unreachable(f"the gateway on 127.0.0.1:{self._port}", reason, fix)


def _load(told: object) -> PeerLoad:
    entry = told if isinstance(told, dict) else {}
    count = entry.get("in_flight")
    return PeerLoad(count if isinstance(count, int) and 0 <= count < 1 << 31 else 0, entry.get("failing") is True)
