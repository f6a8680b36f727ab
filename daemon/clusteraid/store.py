"""SQLite, the only place of what must outlive the daemon: opened, checked, written by one thread in grouped commits.

What may be asked of it is in `store_access` (tokens, certificates, operators) and `store_nodes` (nodes, events).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clusterai.errors import ClusterAIError, Status
from clusteraid.migrations import MIGRATIONS

T = TypeVar("T")
log = logging.getLogger(__name__)
_GROUP_LIMIT = 256  # transactions that share one commit
_BUSY_SECONDS = 5
_CLOSE_SECONDS = 3.0
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SPACE_HINT = "make room or repair the disk (`df {directory}`, `journalctl -k`); the daemon recovers by itself"


class StoreDamaged(ClusterAIError):
    code, status = "store-damaged", Status.FAILED
    message = "the store {path} is damaged: {reason}"
    hint = (
        "stop clusteraid, keep a copy of {path}*, then restore {path} from a backup, or try "
        "`sqlite3 {path} .recover | sqlite3 {path}.new` and put {path}.new in its place"
    )


class StoreTooNew(ClusterAIError):
    code, status = "store-too-new", Status.FAILED
    message = "the store {path} has schema {found}; this version knows schemas up to {known}"
    hint = "install the version of clusteraid that wrote it, or a newer one"


class StoreUnavailable(ClusterAIError):
    code, status = "store-unavailable", Status.EXHAUSTED
    message = "nothing can be changed now: {path} cannot be written: {reason}"
    hint = _SPACE_HINT


class StoreUnreadable(ClusterAIError):
    code, status = "store-unreadable", Status.FAILED
    message = "cannot open the store {path}: {reason}"
    hint = "check who may read and write {directory} (`ls -ld {directory}`) and its free space (`df {directory}`)"


class StoreInUse(ClusterAIError):
    code, status = "store-in-use", Status.CONFLICT
    message = "another clusteraid (process {process_id}) uses {directory}"
    hint = "stop that one (`systemctl stop clusteraid`), or give this one another [server] state_directory"


@dataclass(frozen=True)
class _Job:
    """One transaction, and who waits for it."""

    work: Callable[[sqlite3.Connection], Any]
    writes: bool
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class Store:
    """The database. Every transaction is one function; a write returns when it is on disk (WAL, synchronous FULL)."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self.problem = ""  # a sentence while it cannot be written

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Store"]:
        """Open the store, making or migrating it as needed; close it at the end.

        Raises:
            StoreInUse: another daemon has it.
            StoreDamaged, StoreTooNew, StoreUnreadable: it cannot be used; it is left as it is.
        """
        with _locked(path.parent):
            store = cls(path, await asyncio.to_thread(_connect, path))
            store._thread.start()
            try:
                yield store
            finally:
                store._jobs.put(None)
                await asyncio.to_thread(store._thread.join, _CLOSE_SECONDS)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function that only reads."""
        return await self._run(work, writes=False)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in a transaction and return when it is committed; its own errors roll it back.

        Raises:
            StoreUnavailable: disk full, or it cannot be written for another reason; nothing was changed.
        """
        return await self._run(work, writes=True)

    async def check(self) -> str:
        """Return `ok`, or what is damaged. Reads the whole file."""
        found: str = await self.read(lambda db: db.execute("PRAGMA quick_check(1)").fetchone()[0])
        return found

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, writes, loop, future))
        return await asyncio.shield(future)  # a caller that goes away does not undo what is being committed

    # ---- below: the store's thread -------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (jobs := self._next_group()) is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._commit([job for job in jobs if job.writes])
                for job in jobs:
                    if not job.writes:
                        _answer(job, *_attempt(job.work, self._connection, self.path))
        with contextlib.suppress(sqlite3.Error):  # a full disk at the last checkpoint: the WAL stays and is whole
            self._connection.close()

    def _next_group(self) -> list[_Job] | None:
        """Wait for a job and take those that came meanwhile: they share one commit."""
        first = self._jobs.get()
        if first is None:
            return None
        jobs = [first]
        while len(jobs) < _GROUP_LIMIT and not self._jobs.empty():
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)
                break
            jobs.append(job)
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        """Run the jobs, each in a savepoint of its own, and commit them together; no answer goes out before that."""
        if not jobs:
            return
        answers: list[tuple[Any, BaseException | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                answers.append(_attempt(_in_savepoint(job.work), self._connection, self.path))
                if not self._connection.in_transaction:  # on some errors SQLite rolls everything back by itself
                    raise sqlite3.OperationalError(str(answers[-1][1]))
            self._connection.execute("COMMIT")
            self._now_writable()
        except sqlite3.Error as error:
            answers = [(None, self._failed(error))] * len(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            _answer(job, *answer)

    def _now_writable(self) -> None:
        if self.problem:
            log.info("%s can be written again", self.path)
        self.problem = ""

    def _failed(self, error: sqlite3.Error) -> ClusterAIError:
        """Roll back, and say what happened; the next transaction tries anew."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.rollback()
        told = _told(error, self.path)
        if not self.problem:
            log.error("%s; %s", told, told.advice)
        self.problem = str(told)
        return told


def _in_savepoint(work: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
    def run(connection: sqlite3.Connection) -> T:
        connection.execute("SAVEPOINT job")
        try:
            result = work(connection)
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls all of it back on some errors
                connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            raise
        connection.execute("RELEASE job")
        return result

    return run


def _attempt(
    work: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection, path: Path
) -> tuple[T | None, BaseException | None]:
    """Return what the work returned, or the error that it ended with."""
    try:
        return work(connection), None
    except (sqlite3.IntegrityError, ClusterAIError, ValueError, TypeError, LookupError) as error:
        return None, error
    except sqlite3.Error as error:
        return None, _told(error, path)


def _told(error: sqlite3.Error, path: Path) -> ClusterAIError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
        return StoreDamaged(path=path, reason=str(error))
    return StoreUnavailable(path=path, reason=str(error), directory=path.parent)


def _answer(job: _Job, result: Any, error: BaseException | None) -> None:
    job.loop.call_soon_threadsafe(_settle, job.future, result, error)


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
        future.exception()  # the caller may be gone: no complaint about an error that nobody asked for


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock that keeps a second daemon out; the kernel releases it however this one ends."""
    path = directory / "clusteraid.lock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUnreadable(path=path, reason=error.strerror, directory=directory) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):  # a full disk: the number is only for the other's error message
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
        raise StoreInUse(process_id=holder, directory=directory) from error
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would make it readable for others
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreUnreadable(path=path, reason=error, directory=path.parent) from error
    try:
        _prepare(connection, path)
    except (sqlite3.Error, ClusterAIError) as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise _told(error, path) from error
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check the file and bring it to this version's schema."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}")
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreDamaged(path=path, reason=found)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreTooNew(path=path, found=version, known=len(MIGRATIONS))
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
