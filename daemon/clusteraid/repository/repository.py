"""The repository's directory: `current` leads to the newest release, and is switched when the next is complete."""

import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from clusterai.errors import ClusterAIError, Status, TimedOut
from clusterai.files import CannotWrite, point_link, sync_directory
from clusteraid.repository.contents import Contents, added, in_order, removed
from clusteraid.repository.key import SigningKey
from clusteraid.repository.package import FIELDS, Package, PackageRefused, package_of
from clusteraid.repository.release import SETUP, VALID_SECONDS, Release, build, load_release
from clusteraid.repository.tools import Unreadable, control_fields, is_older, packed_paths

CURRENT, _RELEASES, _NEW, _LOCK = "current", "releases", "new", ".lock"
_KEPT_RELEASES, _KEPT_SECONDS = 3, 3600.0  # as many, and all that are younger
_RENEW_AFTER_SECONDS = VALID_SECONDS / 3
_LOCK_SECONDS = 120.0
_CHUNK = 1 << 20


class FileRefused(ClusterAIError):
    code, status = "file-refused", Status.USAGE
    message = "{file}: {reason}"
    hint = "{fix}"

    def __init__(self, file: Path, reason: str, fix: str) -> None:
        super().__init__(file=file, reason=reason, fix=fix)


@dataclass(frozen=True)
class OpenFile:
    """A file that somebody wants published, opened while we were who may read it."""

    path: Path
    descriptor: int


@contextmanager
def open_file(path: Path) -> Iterator[OpenFile]:
    """Open a .deb for reading; raise FileRefused for what is no plain file. Links are not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a symbolic link" if path.is_symlink() else error.strerror or str(error)
        raise FileRefused(path, reason, "name the .deb itself, where you may read it") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileRefused(path, "it is no file", "name a .deb")
        yield OpenFile(path, descriptor)
    finally:
        os.close(descriptor)


class Repository:
    """Adds, removes, lists and renews. `setup` makes `setup.sh` of the public key's text and fingerprint."""

    def __init__(
        self, directory: Path, key: SigningKey, keep_versions: int, setup: Callable[[str, str], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._directory, self._key, self._keep, self._setup = directory, key, keep_versions, setup
        self._clock = clock

    def add(self, files: Sequence[OpenFile]) -> tuple[Package, ...]:
        """Publish the packages, all or none; return them.

        Raises:
            FileRefused: it is no good package. VersionTaken, OlderVersion: see there.
            KeyLost, CannotWrite, ToolFailed, ToolMissing: nothing was changed.
        """
        with self._locked(), self._new_release() as work:
            staged = [_stage(file, work / f"{number}.deb") for number, file in enumerate(files)]
            before = self._current()
            contents = before.packages if before else ()
            after = added(contents, [package for package, _ in staged], is_older, self._keep)
            self._key.make() if before is None else self._key.require(self._directory)
            if after != contents:
                self._publish(work, after, dict(_named(staged)))
            return tuple(package for package, _ in staged)

    def remove(self, name: str, version: str) -> Contents:
        """Withdraw every version of the package, or one; return what was withdrawn. Raise NoSuchPackage."""
        with self._locked(), self._new_release() as work:
            after, gone = removed(self.packages(), name, version)
            self._key.require(self._directory)
            self._publish(work, after, {})
            return gone

    def renew(self) -> bool:
        """Sign anew when a third of the time is over or `setup.sh` has changed; return whether that was needed."""
        with self._locked(), self._new_release() as work:
            before = self._current()
            if before is None:
                return False
            self._key.require(self._directory)
            age = self._clock() - before.published_unix_seconds
            if 0 <= age < _RENEW_AFTER_SECONDS and (before.directory / SETUP).read_bytes() == self._setup_text():
                return False
            self._publish(work, before.packages, {})
            return True

    def packages(self) -> Contents:
        """Return what is offered now."""
        current = self._current()
        return in_order(current.packages, is_older) if current else ()

    def _current(self) -> Release | None:
        link = self._directory / CURRENT
        return load_release(link.resolve()) if link.is_symlink() else None

    def _setup_text(self) -> bytes:
        public = self._key.public()
        return self._setup(public.armoured, public.fingerprint)

    def _publish(self, work: Path, contents: Contents, files: dict[str, Path]) -> None:
        """Build the release in the working directory, give it its number, and switch to it."""
        now = self._clock()
        known = self._releases()
        earlier = [one for number, one in enumerate(known) if _is_kept(one, number, now)]
        files = {**(known[0].pool() if known else {}), **files}
        release = Release(work / "release", tuple(contents), now)
        release.directory.mkdir()
        build(release, files, self._key, self._setup_text(), earlier)
        place = self._directory / _RELEASES
        number = 1 + max((int(one.directory.name) for one in known), default=0)
        release.directory.replace(place / f"{number:06}")
        sync_directory(place)
        point_link(self._directory / CURRENT, f"{_RELEASES}/{number:06}")
        for one in (one for one in known if one not in earlier):
            shutil.rmtree(one.directory)

    def _releases(self) -> list[Release]:
        """Return all releases up to the current one, the newest first."""
        current = self._current()
        if current is None:
            return []
        numbers = (path for path in (self._directory / _RELEASES).iterdir() if path.name <= current.directory.name)
        return [load_release(path) for path in sorted(numbers, reverse=True)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time. Whoever died in the middle leaves no lock."""
        descriptor = self._open_lock()
        deadline = time.monotonic() + _LOCK_SECONDS
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if time.monotonic() >= deadline:
                    raise TimedOut(what="waiting for another `clusteraid repo`", limit=f"{_LOCK_SECONDS:.0f} s")
                time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        path = self._directory / _LOCK
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotWrite(path, error) from error

    @contextmanager
    def _new_release(self) -> Iterator[Path]:
        """An empty directory to work in, gone afterwards; with what somebody left who was killed."""
        work = self._directory / _NEW
        try:
            self._clear()
            (self._directory / _RELEASES).mkdir(exist_ok=True)
            work.mkdir()
            yield work
        except OSError as error:
            raise CannotWrite(self._directory / CURRENT, error) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what an interrupted run left: its work, and a release that nothing leads to yet."""
        shutil.rmtree(self._directory / _NEW, ignore_errors=True)
        for link in self._directory.glob(f".{CURRENT}.*"):
            link.unlink()
        current = self._current()
        for path in (self._directory / _RELEASES).glob("*"):
            if current is None or path.name > current.directory.name:
                shutil.rmtree(path)


def _is_kept(release: Release, number: int, now: float) -> bool:
    return number < _KEPT_RELEASES or now - release.published_unix_seconds < _KEPT_SECONDS


def _named(staged: Sequence[tuple[Package, Path]]) -> Iterator[tuple[str, Path]]:
    for package, path in staged:
        yield f"{package.distribution.value}/{package.path}", path


def _stage(file: OpenFile, to: Path) -> tuple[Package, Path]:
    """Copy the file, and read from the copy what it is; nobody can change that any more."""
    digest, size = hashlib.sha256(), 0
    os.lseek(file.descriptor, 0, os.SEEK_SET)
    with to.open("wb") as copy:
        while chunk := os.read(file.descriptor, _CHUNK):
            copy.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    try:
        fields = control_fields(to, FIELDS)
        return package_of(fields, packed_paths(to), digest.hexdigest(), size), to
    except (Unreadable, PackageRefused) as error:
        raise FileRefused(file.path, str(error), error.advice) from error
