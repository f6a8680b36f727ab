"""The compute environment: a virtual environment built from the pool's lock, there whole or not at all.

It is built where it will live, because console scripts and `pyvenv.cfg` name their own path; what makes it exist is
the file `.complete`, written last. Until then the directory holds `.building`, whose lock says that somebody is at
work, and what a killed build left there is removed by the next.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterai import pip_output
from clusterai.errors import ClusterAIError, Status
from clusterai.files import BadFile, load_json, write_atomic
from clusterai.lockfile import BadLock, EnvironmentKey, lock, versions_in
from clusterai.pip_output import EnvironmentBuildFailed
from clusterai.pythons import NoSuchPython, available_minors, find_python, require_python

__all__ = [
    "TELL_VERSIONS",
    "BadLock",
    "Built",
    "EnvironmentBuildFailed",
    "EnvironmentKey",
    "IndexConfig",
    "NoSuchPython",
    "available_minors",
    "build",
    "find_python",
    "lock",
    "read_complete",
    "remove_others",
    "require_python",
    "versions_in",
]

_log = logging.getLogger(__name__)
Progress = Callable[[float, str], None]

COMPLETE, _BUILDING = ".complete", ".building"
_UMASK = 0o027
_BUILD_SECONDS, _VERIFY_SECONDS = 3600, 120
_POLL_SECONDS, _CLEAR_ATTEMPTS, _KEPT_LINES, _LINE_LIMIT = 0.3, 50, 400, 1 << 16
_VENV_DONE, _COLLECTED, _INSTALLED = 0.08, 0.60, 0.95
_IN_THE_WAY = (
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_NO_BINARY", "PIP_ONLY_BINARY"),
    *("PIP_CONSTRAINT", "PIP_REQUIREMENT", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"),
)
# Dies with the program that builds (prctl(2), PR_SET_PDEATHSIG = 1), even when that is killed.
_GUARD = (
    "import ctypes,os,signal,sys;ctypes.CDLL(None).prctl(1,signal.SIGKILL);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);os.execv(sys.argv[2],sys.argv[2:])"
)
TELL_VERSIONS = """
import json, platform
from importlib.metadata import distributions
versions = {found.name.lower().replace("_", "-"): found.version for found in distributions()}
print(json.dumps(versions | {"python": platform.python_version()}))
"""
PROOF = f"""
import dask, distributed, distributed.cli.dask_worker, distributed.cli.dask_scheduler
import bokeh, cloudpickle, lz4.frame, msgpack, numpy
{TELL_VERSIONS}"""


class EnvironmentBusy(ClusterAIError):
    code, status = "environment-busy", Status.CONFLICT
    message = "{directory} is being built by another process"
    hint = "wait until it is done; `fuser {directory}/.building` shows which process"


class NotAnEnvironment(ClusterAIError):
    code, status = "not-an-environment", Status.USAGE
    message = "{directory} exists and is not an environment of Cluster AI"
    hint = "choose a path that does not exist yet"


@dataclass(frozen=True)
class IndexConfig:
    """Where wheels come from. Empty: pip's own configuration. `offline`: from `find_links` only."""

    index_url: str = ""
    find_links: Path | None = None
    offline: bool = False

    def options(self) -> list[str]:
        """Return pip's options."""
        index = ["--no-index"] if self.offline else ["--index-url", self.index_url] if self.index_url else []
        return index + (["--find-links", str(self.find_links)] if self.find_links else [])


@dataclass(frozen=True)
class Built:
    """A finished environment: package name to version, and "python" to its full version."""

    directory: Path
    versions: dict[str, str]


def read_complete(directory: Path) -> dict[str, str] | None:
    """Return the versions of a finished environment; None when it is not finished or its Python is gone."""
    try:
        record = load_json(directory / COMPLETE)
    except BadFile:
        return None
    versions = record.get("versions")
    if not isinstance(versions, dict) or not os.access(directory / "bin/python", os.X_OK):
        return None
    return {str(name): str(version) for name, version in versions.items()}


def remove_others(root: Path, keep: Collection[str]) -> tuple[str, ...]:
    """Remove environments below `root` that are not in `keep` (directory names) nor being built; return their names."""
    removed = []
    for directory in sorted(root.glob("[0-9a-f]" * 16)):
        if directory.name not in keep and _is_ours(directory):
            with contextlib.suppress(EnvironmentBusy), _claimed(directory):
                _clear(directory)
                _remove_empty(directory)
                removed.append(directory.name)
    return tuple(removed)


async def build(
    directory: Path, lock_text: str, python: Path, *, index: IndexConfig, progress: Progress, proof: str = PROOF
) -> Built:
    """Build the environment unless it is there already, and return what it contains.

    `progress` hears a fraction in 0..1 and what is being done. `proof` is Python that runs in it and tells versions.
    Takes an hour at most. A failed or cancelled build leaves nothing behind; a killed one what the next call removes.

    Raises:
        EnvironmentBuildFailed: why, in a sentence, with the fix; its subclasses tell the causes apart.
        EnvironmentBusy: another process builds it.
        NotAnEnvironment: something else is at that path.
    """
    found = read_complete(directory)
    if found is not None:
        return Built(directory, found)
    _prepare(directory)
    with _claimed(directory):
        try:
            async with _deadline(_BUILD_SECONDS):
                return await _Build(directory, lock_text, python, index, progress, proof).run()
        except OSError as error:
            raise pip_output.explain([str(error)], directory, "") from error
        finally:
            if read_complete(directory) is None:
                await asyncio.to_thread(_clear, directory)
                _remove_empty(directory)
            (directory / _BUILDING).unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        reason = f"it took longer than {seconds / 60:.0f} minutes"
        raise EnvironmentBuildFailed(reason, "try again with a faster index") from error


@contextlib.contextmanager
def _readable_by_group() -> Iterator[None]:
    """What is made inside can be read by the group, that of the workers. A later chmod would drop setgid."""
    before = os.umask(_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def _is_ours(directory: Path) -> bool:
    return any((directory / name).exists() for name in (COMPLETE, _BUILDING))


def _prepare(directory: Path) -> None:
    """Make the directory; refuse one that holds something else."""
    try:
        with _readable_by_group():
            directory.mkdir(parents=True, exist_ok=True)
        foreign = not _is_ours(directory) and any(directory.iterdir())
    except (NotADirectoryError, FileExistsError) as error:
        raise NotAnEnvironment(directory=directory) from error
    except OSError as error:
        raise EnvironmentBuildFailed(
            f"cannot make {directory}: {error.strerror}", f"check who may write there: ls -ld {directory.parent}"
        ) from error
    if foreign:
        raise NotAnEnvironment(directory=directory)


@contextlib.contextmanager
def _claimed(directory: Path) -> Iterator[None]:
    """Hold the right to change the directory; the kernel takes it back when this process dies."""
    descriptor = os.open(directory / _BUILDING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise EnvironmentBusy(directory=directory) from error
    finally:
        os.close(descriptor)


def _clear(directory: Path) -> None:
    """Remove all but the claim. A child of a killed build may still write for a moment: look again until it is gone."""
    (directory / COMPLETE).unlink(missing_ok=True)
    for _ in range(_CLEAR_ATTEMPTS):
        left = [path for path in directory.iterdir() if path.name != _BUILDING]
        for path in left:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if not left:
            return
        time.sleep(_POLL_SECONDS / 10)


def _remove_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        if not any(path.name != _BUILDING for path in directory.iterdir()):
            (directory / _BUILDING).unlink(missing_ok=True)
            directory.rmdir()


class _Build:
    """One build: the virtual environment, pip, the proof that it imports, the mark."""

    def __init__(
        self, directory: Path, lock_text: str, python: Path, index: IndexConfig, progress: Progress, proof: str
    ) -> None:
        self._directory, self._lock, self._source, self._proof = directory, lock_text, python, proof
        self._index, self._progress = index, progress
        self._minor = ""
        self._done = 0.0

    async def run(self) -> Built:
        await asyncio.to_thread(_clear, self._directory)
        (self._directory / ".tmp").mkdir()
        self._tell(0.01, "making the virtual environment")
        await self._make_venv()
        await self._install()
        self._tell(_INSTALLED, "checking that it imports")
        versions = await self._verified()
        self._tell(0.98, "writing to disk")
        await asyncio.to_thread(self._finish, versions)
        self._tell(1.0, "done")
        return Built(self._directory, versions)

    async def _make_venv(self) -> None:
        await self._run([str(self._source), "-I", "-m", "venv", str(self._directory)])
        found = next((self._directory / "lib").glob("python3.*"), None)
        if found is None:
            raise EnvironmentBuildFailed(f"{self._source} made no virtual environment", "reinstall that Python")
        self._minor = found.name.removeprefix("python")
        self._tell(_VENV_DONE, "reading the lock")

    async def _install(self) -> None:
        lock_file = self._directory / "pool.lock"
        lock_file.write_text(self._lock, encoding="utf-8")
        lock_file.chmod(0o640)
        total = max(1, len(versions_in(self._lock, self._minor)))
        counting = asyncio.create_task(self._count_installed(total), name="count installed packages")
        try:
            await self._run([*self._pip(), "-r", str(lock_file)], _Collected(total, self._tell))
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)

    def _pip(self) -> list[str]:
        return [
            *(str(self._directory / "bin/python"), "-I", "-m", "pip", "install", "--no-input"),
            *("--disable-pip-version-check", "--progress-bar", "off", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", *self._index.options()),
        ]

    async def _count_installed(self, total: int) -> None:
        """Show how many packages lie in place: pip itself is silent while it unpacks."""
        packages = self._directory / f"lib/python{self._minor}/site-packages"
        before = len(list(packages.glob("*.dist-info")))
        while True:
            count = len(list(packages.glob("*.dist-info"))) - before
            if count > 0:
                share = (_INSTALLED - _COLLECTED) * min(1, count / total)
                self._tell(_COLLECTED + share, f"installed {count} of {total}")
            await asyncio.sleep(_POLL_SECONDS)

    async def _verified(self) -> dict[str, str]:
        async with _deadline(_VERIFY_SECONDS):
            lines = await self._run([str(self._directory / "bin/python"), "-I", "-c", self._proof])
        try:
            versions = json.loads(lines[-1])
        except (ValueError, IndexError) as error:
            raise EnvironmentBuildFailed("what was installed does not tell its versions") from error
        return {str(name): str(version) for name, version in versions.items()}

    def _finish(self, versions: dict[str, str]) -> None:
        """Put everything on disk, then say that it is there."""
        shutil.rmtree(self._directory / ".tmp", ignore_errors=True)
        os.sync()
        key = EnvironmentKey(self._minor, self._lock)
        record = {"versions": versions, "python": versions["python"], "hash": key.hash}
        write_atomic(self._directory / COMPLETE, json.dumps(record, indent=1).encode(), 0o640)

    def _tell(self, fraction: float, text: str) -> None:
        self._done = max(self._done, fraction)
        self._progress(self._done, text)

    def _variables(self) -> dict[str, str]:
        """Ours, so that proxies and PIP_* reach pip, without what would install elsewhere or from source."""
        variables = {name: value for name, value in os.environ.items() if name not in _IN_THE_WAY}
        if variables.get("PIP_RETRIES", "0") == "0":
            variables["PIP_RETRIES"] = "2"  # without any, pip does not tell a dead index from a missing package
        variables.setdefault("PIP_DEFAULT_TIMEOUT", "30")
        return variables | {"TMPDIR": str(self._directory / ".tmp"), "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}

    async def _run(self, command: Sequence[str], heard: Callable[[str], None] = lambda _: None) -> list[str]:
        """Run the command to its end and return its last lines; raise what they mean when it fails."""
        guarded = [command[0], "-I", "-S", "-c", _GUARD, str(os.getpid()), *command]
        try:
            process = await asyncio.create_subprocess_exec(
                *guarded,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._variables(),
                cwd=self._directory,
                umask=_UMASK,
                start_new_session=True,
                limit=_LINE_LIMIT,
            )
        except OSError as error:
            reason = f"cannot run {command[0]}: {error.strerror}"
            raise EnvironmentBuildFailed(reason, "reinstall that Python") from error
        try:
            lines = await _listen(process, heard)
            status = await process.wait()
        finally:
            await _end(process)
        if status:
            _log.error("%s ended with %d:\n%s", " ".join(command[:4]), status, "\n".join(lines[-40:]))
            raise pip_output.explain(lines, self._directory.parent, self._minor or _minor_of(self._source))
        return lines


class _Collected:
    """Turns pip's lines into progress: one step for each package that it turns to."""

    def __init__(self, total: int, tell: Progress) -> None:
        self._total, self._tell, self._count = total, tell, 0

    def __call__(self, line: str) -> None:
        begun = pip_output.collected(line)
        self._count += begun
        text = pip_output.shown(line) or (f"collected {self._count} of {self._total}" if begun else "")
        if text:
            self._tell(_VENV_DONE + (_COLLECTED - _VENV_DONE) * min(1, self._count / self._total), text)


async def _listen(process: asyncio.subprocess.Process, heard: Callable[[str], None]) -> list[str]:
    assert process.stdout is not None
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    while True:
        try:
            raw = await process.stdout.readline()
        except ValueError:
            continue  # a line over the limit; asyncio has dropped it
        if not raw:
            return list(lines)
        line = raw.decode(errors="replace").rstrip()
        _log.debug("%s", line)
        lines.append(line)
        heard(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave no process of the group, however the wait for it ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _minor_of(python: Path) -> str:
    match = re.search(r"3\.\d+", python.name)
    return match[0] if match else "3"
