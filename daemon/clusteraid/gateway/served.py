"""What `clusteractl status` says of models: how many answer now, on how many nodes, and through which gateway."""

from collections.abc import Callable

from clusterai.errors import ClusterAIError
from clusterai.units import Units, UnitStatus
from clusterai.v1.cluster_pb2 import ModelsStatus
from clusteraid.machine_units import GATEWAY_UNIT
from clusteraid.models.ports import Inventory

_STATES = {"active": "running", "reloading": "running", "activating": "starting", "failed": "failed"}


class Served:
    """Counts what is served; asks systemd how the gateway is. `urls`: where it is; none where there is no gateway."""

    def __init__(self, urls: Callable[[], tuple[str, ...]], units: Units, inventory: Inventory) -> None:
        self._urls, self._units, self._inventory = urls, units, inventory

    async def status(self) -> ModelsStatus | None:
        """Return it; None where there is no gateway on this machine."""
        urls = self._urls()
        if not urls:
            return None
        served = [model for model in self._inventory.models() if model.served]
        nodes = {copy.node_id for model in served for copy in model.copies if copy.usable}
        state, reason = await self._state()
        return ModelsStatus(
            model_count=len(served), node_count=len(nodes), gateway_state=state, reason=reason,
            gateway_urls=urls,
        )

    async def _state(self) -> tuple[str, str]:
        try:
            return _word(await self._units.status(GATEWAY_UNIT))
        except ClusterAIError as error:
            return "unknown", str(error)


def _word(unit: UnitStatus) -> tuple[str, str]:
    if not unit.installed:
        return "stopped", "its unit is not installed"
    return _STATES.get(unit.active_state, "stopped"), ""
