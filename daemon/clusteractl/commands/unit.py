"""`clusteractl unit`: the server's own units."""

import time
from typing import Any

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.inputs import unit_name
from clusteractl.shape import shape
from clusteractl.views.lists import unit_list
from clusterai.v1 import unit_pb2 as pb

_PATIENCE = 90.0  # what systemd itself gives a unit to start or stop


@click.group(cls=CtlGroup, examples="clusteractl unit list\nclusteractl unit restart clusterai-scheduler@main")
def unit() -> None:
    """List, start, stop and restart the server's own units."""


@unit.command("list", examples="clusteractl unit list")
@pass_ctl
def list_units(ctl: Ctl) -> None:
    """List the units with their state, process and restarts."""

    async def fetch() -> pb.ListUnitsResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("UnitService/ListUnits", pb.ListUnitsRequest(), pb.ListUnitsResponse)

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply), unit_list(reply.units, reply.back_end, time.time()))


@unit.command(examples="clusteractl unit start clusterai-scheduler@main")
@click.argument("name")
@pass_ctl
def start(ctl: Ctl, name: str) -> None:
    """Start the unit NAME and wait until it runs."""
    _change(ctl, "UnitService/StartUnit", pb.StartUnitRequest(unit=unit_name(name)), pb.StartUnitResponse, "is started")


@unit.command(examples="clusteractl unit stop clusterai-scheduler@main")
@click.argument("name")
@pass_ctl
def stop(ctl: Ctl, name: str) -> None:
    """Stop the unit NAME. The scheduler's tasks are lost with it."""
    _change(ctl, "UnitService/StopUnit", pb.StopUnitRequest(unit=unit_name(name)), pb.StopUnitResponse, "is stopped")


@unit.command(examples="clusteractl unit restart clusterai-scheduler@main")
@click.argument("name")
@pass_ctl
def restart(ctl: Ctl, name: str) -> None:
    """Restart the unit NAME and wait until it runs again."""
    _change(
        ctl,
        "UnitService/RestartUnit",
        pb.RestartUnitRequest(unit=unit_name(name)),
        pb.RestartUnitResponse,
        "is restarted",
    )


def _change(ctl: Ctl, method: str, request: Any, reply_type: type[Any], done: str) -> None:
    async def send() -> Any:
        async with ctl.cluster() as cluster:
            patience = max(ctl.timeout, _PATIENCE)
            return await cluster.call(method, request, reply_type, timeout=patience)

    reply = ctl.run(send())
    state = f"{reply.unit.active_state} ({reply.unit.sub_state})"
    ctl.out.show(shape(reply.unit), [f"{reply.unit.unit} {done}: {state}"])
