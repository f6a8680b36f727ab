"""A release of Ollama as an archive: fetched, checked by its SHA-256, unpacked beside its place, then moved in."""

import contextlib
import hashlib
import http.client
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from clusterai.errors import ClusterAIError, Status

Progress = Callable[[str, int, int], None]  # what is done; bytes done, bytes in all (0: not known)
_CHUNK = 1 << 20
_FETCH_SECONDS = 60  # without a byte
_UNPACKED_RATIO = 3  # libraries shrink to a third or less
_UNPACKED_LIMIT = 32 << 30
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}  # elf.h
_RELEASES = "https://github.com/ollama/ollama/releases"


class SetupFailed(ClusterAIError):
    code, status = "setup-failed", Status.FAILED
    message = "{what}: {reason}"
    hint = "{fix}"

    def __init__(self, what: object, reason: str, fix: str) -> None:
        super().__init__(what=what, reason=reason, fix=fix)


class WrongHash(ClusterAIError):
    code, status = "wrong-hash", Status.FAILED
    message = "{source} has the SHA-256 {found}, not {wanted}"
    hint = "nothing was changed; fetch it again, and take the hash from where the release was published"


class NotEnoughSpace(ClusterAIError):
    code, status = "no-space", Status.EXHAUSTED
    message = "{place} has {free:.1f} GB of free space, and {needed:.1f} GB are needed"
    hint = "nothing was changed; make room and run the same command again"


def machine_name() -> str:
    """Return this machine's architecture as releases name it; raise SetupFailed where there is none."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    if (name := names.get(platform.machine())) is None:
        fix = "take another machine, or a container that answers on 127.0.0.1:11434"
        raise SetupFailed("Ollama", f"there is no release for the architecture {platform.machine()}", fix)
    return name


def no_source() -> SetupFailed:
    """Return what to say where nobody named an archive."""
    fix = (
        f"fetch ollama-linux-{machine_name()}.tgz and sha256sum.txt from {_RELEASES}, then run "
        "`sudo clusterai-agent setup ollama --from FILE --sha256 HASH` (a URL will do for FILE)"
    )
    return SetupFailed("Ollama", "no release is named, and this program brings none", fix)


@dataclass(frozen=True)
class Source:
    """An archive by path or URL, and the SHA-256 that it must have, in hex."""

    place: str
    sha256: str

    @property
    def is_url(self) -> bool:
        """Whether it is to be fetched."""
        return self.place.startswith(("https://", "http://"))

    def checked(self) -> "Source":
        """Return itself; raise SetupFailed when the hash is none."""
        digits = self.sha256.lower()
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise SetupFailed("--sha256", "not a SHA-256 in hex", "take it from where the release was published")
        return Source(self.place, digits)


def install(source: Source, prefix: Path, progress: Progress) -> None:
    """Put the release's bin/ollama and lib/ollama below the prefix, in place of those that are there.

    Until the last moment nothing below the prefix changes; what is left half done is removed.

    Raises:
        WrongHash, NotEnoughSpace, SetupFailed: nothing was changed.
    """
    try:
        prefix.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".ollama-setup-", dir=prefix) as name:
            staging = Path(name)
            archive = _fetched(source, staging, progress) if source.is_url else _copied(source, staging, progress)
            _check_hash(source, archive, progress)
            _check_space(prefix, archive.stat().st_size * _UNPACKED_RATIO)
            _unpack(archive, staging / "new", progress)
            _check_program(staging / "new/bin/ollama")
            _move_in(staging, prefix)
    except (OSError, tarfile.TarError, EOFError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise SetupFailed(source.place, reason, "nothing was changed; run the same command again") from error


def _fetched(source: Source, directory: Path, progress: Progress) -> Path:
    goal = directory / "archive"
    try:
        with urllib.request.urlopen(source.place, timeout=_FETCH_SECONDS) as answer, goal.open("wb") as file:  # noqa: S310
            size = int(answer.headers.get("Content-Length") or 0)
            _check_space(directory, size * (1 + _UNPACKED_RATIO))
            _copy(answer, file, lambda done: progress("fetching", done, size))
    except urllib.error.HTTPError as error:
        error.close()
        raise SetupFailed(source.place, f"HTTP status {error.code}", "nothing was changed; check the URL") from error
    except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        fix = "nothing was changed; check the URL, or fetch it yourself"
        raise SetupFailed(source.place, str(error), fix) from error
    return goal


def _copied(source: Source, directory: Path, progress: Progress) -> Path:
    """A copy that only root can write: what was checked is what is unpacked, whoever owns the file that was named."""
    goal = directory / "archive"
    with Path(source.place).open("rb") as file, goal.open("wb") as copy:
        size = os.fstat(file.fileno()).st_size
        _check_space(directory, size * (1 + _UNPACKED_RATIO))
        _copy(file, copy, lambda done: progress("copying", done, size))
    return goal


def _check_hash(source: Source, archive: Path, progress: Progress) -> None:
    digest, size, done = hashlib.sha256(), archive.stat().st_size, 0
    with archive.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress("checking", done, size)
    if digest.hexdigest() != source.sha256:
        raise WrongHash(source=source.place, found=digest.hexdigest(), wanted=source.sha256)


def _check_space(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed:
        raise NotEnoughSpace(place=place, free=free / 1e9, needed=needed / 1e9)


def _unpack(archive: Path, goal: Path, progress: Progress) -> None:
    """Write bin/ollama and lib/ollama of the archive, and nothing else, nowhere else."""
    done = 0
    with _opened(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as members:
        for member in members:
            place = _place(member.name)
            if place is None:
                continue
            path = goal / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.issym() or member.islnk():
                _link(member, goal, path)
            elif member.isfile() and (content := members.extractfile(member)) is not None:
                done += member.size
                if done > _UNPACKED_LIMIT:
                    raise SetupFailed(archive, "it holds more than 32 GiB", "nothing was changed; take a release")
                with path.open("wb") as file:
                    _copy(content, file, lambda _: None)
                path.chmod(0o755 if member.mode & 0o100 else 0o644)
                progress("unpacking", done, 0)


def _place(name: str) -> PurePosixPath | None:
    """Where a member belongs; None for what is none of Ollama's."""
    path = PurePosixPath(name)
    parts = path.parts[1:] if path.parts[:1] in ((".",), ("usr",)) else path.parts
    if ".." in parts or path.is_absolute():
        return None
    found = PurePosixPath(*parts)
    library = parts[:2] == ("lib", "ollama") and len(parts) > 2
    return found if library or found == PurePosixPath("bin/ollama") else None


def _link(member: tarfile.TarInfo, goal: Path, path: Path) -> None:
    """A library's other name. A link may lead to what is in the release, and nowhere else."""
    named, libraries = PurePosixPath(member.linkname), (goal / "lib/ollama").resolve()
    if member.islnk():
        place = _place(member.linkname)
        target = goal / place if place else Path("/")
    else:
        target = path.parent.resolve() / named
    upwards = [part == ".." for part in named.parts]
    straight = upwards == sorted(upwards, reverse=True)  # no way up again behind a name, which may be a link itself
    if not straight or not Path(os.path.normpath(target)).is_relative_to(libraries):
        raise SetupFailed(member.name, "it is a link that leads out of the release", "nothing was changed")
    if member.islnk():
        os.link(target, path, follow_symlinks=False)
    else:
        path.symlink_to(named)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[IO[bytes]]:
    """The plain tar in the archive: gzip is read here, zstd by the program (Python's own is too new)."""
    with archive.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        import gzip

        with gzip.open(archive, "rb") as stream:
            yield stream  # type: ignore[misc]
    elif magic == b"\x28\xb5\x2f\xfd":
        with _unzstd(archive) as stream:
            yield stream
    else:
        raise SetupFailed(archive, "neither a .tgz nor a .tar.zst", "nothing was changed; take a release's archive")


@contextlib.contextmanager
def _unzstd(archive: Path) -> Iterator[IO[bytes]]:
    if (program := shutil.which("zstd")) is None:
        raise SetupFailed(archive, "zstd is needed to unpack it", "`sudo apt install zstd`, then run the same command")
    with subprocess.Popen([program, "-dcq", str(archive)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
            process.stdout.read()  # what follows the archive's end
            if process.wait(_FETCH_SECONDS):
                raise SetupFailed(archive, "it is damaged", "nothing was changed; fetch it again")
        finally:
            process.kill()


def _check_program(program: Path) -> None:
    if not program.is_file():
        raise SetupFailed("the archive", "there is no bin/ollama in it", "nothing was changed; take a release")
    with program.open("rb") as file:
        head = file.read(20)
    machine = int.from_bytes(head[18:20], "little")
    wanted = _ELF_MACHINES.get(platform.machine())
    if head[:4] == b"\x7fELF" and machine != wanted:
        fix = f"nothing was changed; take ollama-linux-{machine_name()}"
        raise SetupFailed("the archive", f"its program is not for this machine ({platform.machine()})", fix)
    program.chmod(0o755)


def _move_in(staging: Path, prefix: Path) -> None:
    """Two renames; the libraries that were there come back when the second fails."""
    new, libraries, program = staging / "new", prefix / "lib/ollama", prefix / "bin/ollama"
    for folder in (libraries.parent, program.parent):
        folder.mkdir(parents=True, exist_ok=True)
    (new / "lib/ollama").mkdir(parents=True, exist_ok=True)
    old = staging / "old"
    if libraries.exists():
        libraries.rename(old)
    try:
        (new / "lib/ollama").rename(libraries)
        (new / "bin/ollama").replace(program)
    except OSError:
        if old.exists():
            shutil.rmtree(libraries, ignore_errors=True)
            old.rename(libraries)
        raise


def _copy(source: IO[bytes] | http.client.HTTPResponse, goal: IO[bytes], told: Callable[[int], None]) -> None:
    done = 0
    while chunk := source.read(_CHUNK):
        goal.write(chunk)
        done += len(chunk)
        told(done)
