"""The JSON files that the gateway reads: written whole or not at all, and only when they differ."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clusterai.files import BadFile, CannotWrite, load_json, write_atomic
from clusteraid.status import Problems
from clusteraid.uninterrupted import uninterrupted

log = logging.getLogger(__name__)
FILE_MODE = 0o640  # the directory is setgid: the gateway's group reads them
_FORMAT = 1
_FILE_LIMIT = 64 << 20
_GATHER_SECONDS = 0.1
_REST = 3.0  # so many times as long as a look took until the next one: a storm of changes leaves time for others
_RETRY_SECONDS = 2.0
Table = dict[str, Any]


class DataFile:
    """One file with a format and a generation. Writers take turns.

    The generation grows over restarts of the daemon, and when the file was lost: it begins with the time. Lua's numbers
    hold 53 bits, and its JSON writes 14 digits of them.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = path, clock
        self._turn = asyncio.Lock()
        self.generation, self.content = self._load()

    @property
    def installed(self) -> bool:
        """Whether there is a gateway on this machine: the package makes its directory."""
        return self.path.parent.is_dir()

    async def put(self, make: Callable[[], Table]) -> bool:
        """Make the content and write it; false when it is the old one or there is no gateway here.

        Raises:
            CannotWrite: the old file stays.
        """
        return await uninterrupted(self._put(make))

    async def _put(self, make: Callable[[], Table]) -> bool:
        async with self._turn:
            if not self.installed:
                return False
            content = make()
            if self.generation and content == self.content and self.path.exists():
                return False
            generation = max(int(self._clock()), self.generation + 1)
            data = json.dumps({"format": _FORMAT, "generation": generation, **content}, separators=(",", ":"))
            await asyncio.to_thread(write_atomic, self.path, data.encode(), FILE_MODE)
            self.generation, self.content = generation, content
            return True

    def _load(self) -> tuple[int, Table]:
        """What an earlier daemon wrote; nothing when that cannot be used."""
        try:
            content = load_json(self.path, limit=_FILE_LIMIT)
        except BadFile:
            return 0, {}
        generation = content.pop("generation", None)
        if content.pop("format", None) != _FORMAT or type(generation) is not int:
            return 0, {}
        return generation, content


class KeptFile:
    """Keeps a file as it should be: `changed` asks for a look, many of them together make one."""

    def __init__(self, file: DataFile, make: Callable[[], Table], problems: Problems) -> None:
        self.file, self._make, self._problems = file, make, problems
        self._wake, self._frozen = asyncio.Event(), False
        self._subject = f"gateway {file.path.name}"

    def changed(self, *_: object) -> None:
        """Look soon."""
        self._wake.set()

    def freeze(self) -> None:
        """Write no more: the daemon stops, and what it says from now on of nodes is not true."""
        self._frozen = True

    async def keep(self, until_due: Callable[[], float] = lambda: 3600.0) -> None:
        """Write when asked or due, for ever; what could not be written is tried again."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            began = loop.time()
            done = await self._look()
            took = loop.time() - began
            await asyncio.sleep(max(_GATHER_SECONDS - took, _REST * took) if done else _RETRY_SECONDS)
            await self._wait(until_due() if done else 0.0)

    async def put(self) -> None:
        """Write now; raise CannotWrite when that is not possible, and try again by itself then."""
        try:
            await self.file.put(self._make)
        except CannotWrite as error:
            self._tell(error)
            self._wake.set()
            raise
        self._tell(None)

    async def _look(self) -> bool:
        if self._frozen:
            return True
        try:
            await self.put()
        except CannotWrite:
            return False
        return True

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _tell(self, error: CannotWrite | None) -> None:
        if error is not None and not self._problems.find(self._subject):
            log.warning("%s; %s", error, error.advice)
        sentence = f"the gateway goes on with old data: {error}; {error.advice}" if error else ""
        if sentence or self._problems.find(self._subject):
            self._problems.set(self._subject, sentence)
