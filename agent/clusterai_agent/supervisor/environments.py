"""Builds the pool's compute environment on this machine and says how far it is."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from clusterai.environment import (
    EnvironmentKey,
    IndexConfig,
    NoSuchPython,
    build,
    read_complete,
    remove_others,
    require_python,
)
from clusterai.errors import ClusterAIError, Status
from clusterai.installed_environment import ComputeNotInstalled, OtherLock, OtherPython, assemble, check_installed
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import EnvironmentState, EnvironmentStatus
from clusterai_agent.config import EnvironmentSection
from clusterai_agent.server import Server
from clusterai_agent.supervisor.desired import DesiredEnvironment

log = logging.getLogger(__name__)

_RETRY_SECONDS = (20.0, 600.0)
_STEP = 0.01  # smaller progress is not worth a message
_DETAIL_LIMIT = 1000


class WrongLock(ClusterAIError):
    code, status = "wrong-lock", Status.FAILED
    message = "the server's lock file is not the one of environment {wanted}: it makes {found}"
    hint = "restart clusteraid; if it stays so, its package is damaged"


class Environments:
    """The environments below one directory; at most one is being built.

    With `modules`, the directory of a phone's package clusterai-compute, nothing is built: it is there or it is not.
    """

    def __init__(
        self, root: Path, section: EnvironmentSection, server: Server, changed: Callable[[], None],
        modules: Path | None = None,
    ) -> None:
        self._root, self._section, self._server, self._changed = root, section, server, changed
        self._modules = modules
        self._status = EnvironmentStatus()
        self._wanted: DesiredEnvironment | None = None
        self._building: asyncio.Task[None] | None = None

    def directory(self, environment_hash: str) -> Path:
        """Where the environment of this hash lies."""
        return self._root / environment_hash

    @property
    def status(self) -> EnvironmentStatus:
        """How the wanted environment is."""
        return self._status

    @property
    def ready(self) -> bool:
        """Whether workers can start in it."""
        return bool(self._status.state == types.ENVIRONMENT_STATE_READY)

    async def want(self, wanted: DesiredEnvironment | None, others: Collection[str] | None = ()) -> None:
        """Take care of this environment from now on: find it, or start to build it.

        `others` are the hashes of further environments that stay on disk; None: all stay.
        """
        if wanted != self._wanted:
            await self.close()
            self._wanted = wanted
        if wanted is None:
            self._set(EnvironmentStatus())
        elif (unfit := self._unfit(wanted)) is not None:
            await self.close()
            self._failed(wanted, types.ENVIRONMENT_STATE_INCOMPATIBLE, unfit)
        elif (versions := read_complete(self.directory(wanted.hash))) is not None:
            await self.close()
            # It was there when the agent started, so nobody uses another one any more.
            if others is not None and not self._status.state:
                await asyncio.to_thread(_remove_others, self._root, {wanted.hash, *others})
            self._say(wanted, types.ENVIRONMENT_STATE_READY, versions=versions)
        elif not wanted.build and self._modules is None:
            await self.close()
            self._say(wanted, types.ENVIRONMENT_STATE_ABSENT, reason="the server has not asked to build it")
        elif self._building is None:
            self._building = asyncio.create_task(self._build_until_done(wanted), name="build environment")

    async def close(self) -> None:
        """Stop a build in progress."""
        task, self._building = self._building, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _build_until_done(self, wanted: DesiredEnvironment) -> None:
        pause = _RETRY_SECONDS[0]
        while True:
            try:
                await self._build(wanted)
            except NoSuchPython as error:
                self._failed(wanted, types.ENVIRONMENT_STATE_INCOMPATIBLE, error)
            except ClusterAIError as error:
                self._failed(wanted, types.ENVIRONMENT_STATE_FAILED, error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_SECONDS[1])

    def _unfit(self, wanted: DesiredEnvironment) -> ClusterAIError | None:
        """Return why what is installed is not the wanted environment; None where it is, or where one is built."""
        if self._modules is None:
            return None
        try:
            check_installed(self._modules, wanted.hash, wanted.python_minor)
        except (ComputeNotInstalled, OtherLock, OtherPython) as error:
            return error
        return None

    async def _build(self, wanted: DesiredEnvironment) -> None:
        if self._modules is not None:
            self._say(wanted, types.ENVIRONMENT_STATE_BUILDING, reason="checking that it imports")
            versions = await asyncio.to_thread(assemble, self.directory(wanted.hash), self._modules)
            self._say(wanted, types.ENVIRONMENT_STATE_READY, versions=versions)
            return
        self._say(wanted, types.ENVIRONMENT_STATE_BUILDING, reason="looking for Python and the lock file")
        python = await self._python(wanted.python_minor)
        await self._server.wait_connected()
        lock = await self._server.environment_lock(wanted.hash)
        found = EnvironmentKey(lock.python_minor, lock.lock_text).hash
        if found != wanted.hash or lock.python_minor != wanted.python_minor:
            raise WrongLock(wanted=wanted.hash, found=found)
        section = self._section
        index = IndexConfig(section.index_url, section.wheel_directory, section.offline)
        log.info("building environment %s with %s", wanted.hash, python)
        built = await build(
            self.directory(wanted.hash), lock.lock_text, python, index=index,
            progress=lambda ratio, text: self._progress(wanted, ratio, text),
        )
        log.info("environment %s is complete", wanted.hash)
        self._say(wanted, types.ENVIRONMENT_STATE_READY, versions=built.versions)

    async def _python(self, minor: str) -> Path:
        """The configured interpreter, else one of the minor that this machine has."""
        if self._section.python is not None:
            return self._section.python
        return await asyncio.to_thread(require_python, minor)

    def _progress(self, wanted: DesiredEnvironment, ratio: float, text: str) -> None:
        if abs(ratio - self._status.progress_ratio) < _STEP and text == self._status.reason:
            return
        self._say(wanted, types.ENVIRONMENT_STATE_BUILDING, reason=text[:_DETAIL_LIMIT], ratio=ratio)

    def _failed(self, wanted: DesiredEnvironment, state: EnvironmentState, error: ClusterAIError) -> None:
        if (self._status.environment_hash, self._status.reason) != (wanted.hash, str(error)[:_DETAIL_LIMIT]):
            log.error("environment %s: %s; %s", wanted.hash, str(error), error.advice)
        self._say(wanted, state, reason=str(error)[:_DETAIL_LIMIT], hint=error.advice[:_DETAIL_LIMIT])

    def _say(
        self, wanted: DesiredEnvironment, state: EnvironmentState, *,
        reason: str = "", hint: str = "", ratio: float = 0.0, versions: dict[str, str] | None = None,
    ) -> None:
        self._set(EnvironmentStatus(
            environment_hash=wanted.hash, state=state, reason=reason, hint=hint, progress_ratio=ratio,
            versions=versions or {},
        ))

    def _set(self, status: EnvironmentStatus) -> None:
        if status != self._status:
            self._status = status
            self._changed()


def _remove_others(root: Path, wanted: Collection[str]) -> None:
    """Make room: an environment of an earlier lock takes 300 MB."""
    try:
        for name in remove_others(root, wanted):
            log.info("removed environment %s, which no pool uses any more", name)
    except OSError as error:
        log.warning("environments that are not used any more cannot be removed: %s", error)
