"""Ends a worker that takes more memory than it may, where neither systemd nor Dask's nanny is there to do it."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from clusterai_agent.supervisor.workers import Workers

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
_MEGABYTE = 1e6


def resident_bytes(process_id: int) -> int:
    """Return the memory that the process holds (VmRSS, proc(5): statm counts pages); 0 when it is gone."""
    try:
        pages = Path(f"/proc/{process_id}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class MemoryGuard:
    """Looks at the workers of the process back-end. One that is ended starts again, and says why it was."""

    def __init__(
        self, workers: Workers, changed: Callable[[], None], measure: Callable[[int], int] = resident_bytes
    ) -> None:
        self._workers, self._changed, self._measure = workers, changed, measure

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once at every worker that runs."""
        for name in self._workers.names():
            launch, process_id = self._workers.launch(name), await self._workers.process_id(name)
            if launch is None or not process_id:
                continue
            used = self._measure(process_id)
            if used > launch.memory_limit_bytes:
                self._end(name, process_id, used, launch.memory_limit_bytes)

    def _end(self, name: str, process_id: int, used: int, limit: int) -> None:
        """Kill it at once: asked to end, it would go on taking memory from the owner's apps meanwhile."""
        try:
            os.kill(process_id, signal.SIGKILL)
        except OSError as error:
            log.warning("worker %s cannot be ended: %s", name, error)
            return
        sizes = f"it held {used / _MEGABYTE:,.0f} MB, and may hold {limit / _MEGABYTE:,.0f} MB"
        log.warning("ended worker %s: %s", name, sizes)
        self._workers.note(name, f"ended at {time.strftime('%H:%M:%S')}, because {sizes}; started again")
        self._changed()
