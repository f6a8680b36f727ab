"""Schedulers that an earlier daemon started, of pools that are not configured any more."""

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

from clusterai.errors import ClusterAIError, InvalidName
from clusterai.files import remove
from clusterai.ids import PoolName, parse_pool_name
from clusterai.units import Units
from clusteraid.machine_units import scheduler_unit

log = logging.getLogger(__name__)
_AGAIN_SECONDS = 10.0


class FormerSchedulers:
    """Their launch files, in the directory of those of all pools, are the record of what was started."""

    def __init__(self, directory: Path, pools: Collection[str], units: Units) -> None:
        self._directory, self._pools, self._units = directory, pools, units

    async def end(self) -> None:
        """Stop them and remove what they were started from, however often that fails."""
        while names := self._names():
            for name in names:
                try:
                    await self._end(name)
                except ClusterAIError as error:
                    log.warning("the scheduler of the former pool %s: %s; %s", name, str(error), error.advice)
            if self._names():
                await asyncio.sleep(_AGAIN_SECONDS)

    def _names(self) -> list[PoolName]:
        found = []
        for file in sorted(self._directory.glob("*.json")):
            try:
                name = parse_pool_name(file.stem)
            except InvalidName:
                continue
            if name not in self._pools:
                found.append(name)
        return found

    async def _end(self, name: PoolName) -> None:
        log.info("stopping the scheduler of the pool %s, which is not configured any more", name)
        await self._units.stop(scheduler_unit(name))
        for file in (f"{name}-dask.pem", f"{name}.json"):
            remove(self._directory / file)
