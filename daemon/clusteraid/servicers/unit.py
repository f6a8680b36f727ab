"""UnitService: the server's own units."""

from typing import Any

from clusterai.units import UnitStatus
from clusterai.v1 import unit_pb2 as pb
from clusterai.v1.unit_pb2_grpc import UnitServiceServicer
from clusteraid.machine_units import MachineUnits


class UnitServicer(UnitServiceServicer):
    def __init__(self, units: MachineUnits) -> None:
        self._units = units

    async def ListUnits(self, request: pb.ListUnitsRequest, context: Any) -> pb.ListUnitsResponse:
        units = [_to_wire(unit) for unit in await self._units.list()]
        return pb.ListUnitsResponse(units=units, back_end=self._units.back_end)

    async def StartUnit(self, request: pb.StartUnitRequest, context: Any) -> pb.StartUnitResponse:
        return pb.StartUnitResponse(unit=_to_wire(await self._units.start(request.unit)))

    async def StopUnit(self, request: pb.StopUnitRequest, context: Any) -> pb.StopUnitResponse:
        return pb.StopUnitResponse(unit=_to_wire(await self._units.stop(request.unit)))

    async def RestartUnit(self, request: pb.RestartUnitRequest, context: Any) -> pb.RestartUnitResponse:
        return pb.RestartUnitResponse(unit=_to_wire(await self._units.restart(request.unit)))


def _to_wire(status: UnitStatus) -> pb.Unit:
    return pb.Unit(
        unit=status.unit, description=status.description, active_state=status.active_state,
        sub_state=status.sub_state, main_process_id=status.main_process_id, restart_count=status.restart_count,
        result=status.result, since_unix_seconds=status.since_unix_seconds, installed=status.installed,
    )
