"""Environments that this machine builds for schedulers that run on it, beside that of its own pool."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from clusterai.v1.types_pb2 import EnvironmentStatus
from clusterai_agent.config import EnvironmentSection
from clusterai_agent.server import Server
from clusterai_agent.supervisor.desired import DesiredEnvironment
from clusterai_agent.supervisor.environments import Environments


class FurtherEnvironments:
    """One builder for each. The interpreter that agent.toml names is for the node's own pool, not for these."""

    def __init__(self, root: Path, section: EnvironmentSection, server: Server, changed: Callable[[], None]) -> None:
        self._root, self._section, self._server, self._changed = root, replace(section, python=None), server, changed
        self._builders: dict[str, Environments] = {}

    @property
    def statuses(self) -> list[EnvironmentStatus]:
        """How each is."""
        return [builder.status for builder in self._builders.values()]

    async def want(self, wanted: Collection[DesiredEnvironment]) -> None:
        """Take care of these from now on; none is removed, whoever does not want it any more."""
        kept = {one.hash for one in wanted}
        for name in self._builders.keys() - kept:
            await self._builders.pop(name).close()
        for one in wanted:
            builder = self._builders.get(one.hash)
            if builder is None:
                builder = Environments(self._root, self._section, self._server, self._changed)
                self._builders[one.hash] = builder
            await builder.want(one, None)

    async def close(self) -> None:
        """Stop the builds in progress."""
        for builder in self._builders.values():
            await builder.close()
