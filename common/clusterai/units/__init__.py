"""Control of units, by systemd or as children of ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clusterai.units.api import (
    NotPermitted,
    UnitFailed,
    UnitMissing,
    Units,
    UnitsConfig,
    UnitStatus,
    UnitsUnavailable,
)

__all__ = [
    "NotPermitted", "UnitFailed", "UnitMissing", "UnitStatus", "Units", "UnitsConfig", "UnitsUnavailable", "open_units",
]


@asynccontextmanager
async def open_units(config: UnitsConfig) -> AsyncIterator[Units]:
    """Open the configured back-end.

    systemd's opens even while the bus is away; its methods raise UnitsUnavailable until it is back.

    Raises:
        UnitsUnavailable: the process back-end's state directory is in use by another program, or cannot be written.
    """
    if config.back_end == "systemd":
        from clusterai.units.systemd_bus import SystemdUnits  # the bus library only where a bus is used

        async with SystemdUnits(config.bus_address) as units:
            yield units
    else:
        from clusterai.units.process import ProcessUnits

        async with ProcessUnits(config) as processes:
            yield processes
