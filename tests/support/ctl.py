"""Runs the real `clusteractl` as a process of its own, as a person or a script would."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LIMIT_SECONDS = 90


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)

    @property
    def records(self) -> list[Any]:
        """Its output as JSON, one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """What it said with --json when it failed."""
        return json.loads(self.err)["error"]


@dataclass(frozen=True)
class Ctl:
    """A user with a home directory; `socket` is what CLUSTERAI_SOCKET says, if anything."""

    home: Path
    socket: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its commands: nothing of the test's own but the way to Python's modules."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        given = {"HOME": str(self.home), "PATH": os.environ["PATH"], "PYTHONPATH": path, "TZ": "UTC", "LANG": "C.UTF-8"}
        local = {"CLUSTERAI_SOCKET": str(self.socket)} if self.socket else {}
        return {**given, "TMPDIR": os.environ.get("TMPDIR", "/tmp"), **local, **self.variables}

    async def __call__(self, *words: str, stdin: str = "") -> Ended:
        """Run a command to its end."""
        async with self.running(*words) as process:
            async with asyncio.timeout(_LIMIT_SECONDS):
                out, err = await process.communicate(stdin.encode())
            return Ended(process.returncode or 0, out.decode(), err.decode())

    @asynccontextmanager
    async def running(self, *words: str) -> AsyncIterator[Process]:
        """Start a command and end it with the block, if it has not ended by itself."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-W", "error", "-m", "clusteractl", *words,
            stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self.environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
