"""The programs that make a repository: dpkg-deb, dpkg, apt-ftparchive, gpg, gpgv. The only module that starts them."""

import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from clusterai.errors import ClusterAIError, Status

_PACKAGE_OF = {"apt-ftparchive": "apt-utils", "gpg": "gpg", "gpgconf": "gpgconf", "gpgv": "gpgv"}
_STRONG_ONLY = ("-o", "APT::FTPArchive::MD5=no", "-o", "APT::FTPArchive::SHA1=no")
_SECONDS = 120.0
_TOLD = 300  # characters of what a program complained


class ToolFailed(ClusterAIError):
    code, status = "repository-tool-failed", Status.FAILED
    message = "{program} failed: {said}"
    hint = "check free space (`df /var/lib/clusterai-repo /tmp`); nothing was changed"


class ToolMissing(ClusterAIError):
    code, status = "repository-tool-missing", Status.FAILED
    message = "the program {program} is missing"
    hint = "apt install {package}"


class Unreadable(ClusterAIError):
    """dpkg-deb cannot read the file: it is none of its packages, or not all of one."""

    code, status = "not-a-package", Status.USAGE
    message = "not a Debian package, or not all of one ({said})"
    hint = "fetch or build it again"


def run(program: str, *arguments: str | Path, given: bytes = b"", at: Path | None = None) -> bytes:
    """Run the program, in a directory that takes its temporary files too, and return its output.

    Raises:
        ToolMissing, ToolFailed: it is not there; it complained or took too long.
    """
    command = [program, *(str(argument) for argument in arguments)]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, timeout=_SECONDS, check=False, cwd=at, env=_environment(at)
        )
    except FileNotFoundError as error:
        raise ToolMissing(program=program, package=_PACKAGE_OF.get(program, "dpkg")) from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(program=program, said=f"no end after {_SECONDS:.0f} s") from error
    if done.returncode:
        raise ToolFailed(program=program, said=_last_words(done.stderr))
    return done.stdout


def control_fields(deb: Path, names: Sequence[str]) -> dict[str, str]:
    """Return these fields of the package's control file; raise Unreadable when it is no package."""
    try:
        told = run("dpkg-deb", "--field", deb.absolute(), *names, at=deb.parent).decode(errors="replace")
    except ToolFailed as error:
        raise Unreadable(said=error.details["said"]) from error
    pairs = (line.partition(":") for line in told.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def packed_paths(deb: Path) -> Iterator[str]:
    """Yield the path of everything that the package installs, to the end: so it is whole. Raise Unreadable when not."""
    with _unpacking(deb) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield from (member.name for member in tar)
            while process.stdout.read(1 << 16):  # what pads the end
                pass
        except tarfile.TarError as error:
            raise Unreadable(said=str(error)) from error
        assert process.stderr is not None
        said = process.stderr.read()
        if process.wait(_SECONDS):
            raise Unreadable(said=_last_words(said))


@cache
def is_older(version: str, other: str) -> bool:
    """Whether dpkg sorts the first version before the other."""
    command = ["dpkg", "--compare-versions", version, "lt", other]
    return subprocess.run(command, timeout=_SECONDS, check=False, env=_environment()).returncode == 0


def packages_index(root: Path, architecture: str) -> bytes:
    """Return the index (`Packages`) of the packages below `pool` in the directory."""
    return run("apt-ftparchive", *_STRONG_ONLY, "--arch", architecture, "packages", "pool", at=root)


def release_file(suite: Path, fields: Mapping[str, str]) -> bytes:
    """Return the `Release` of the indices below the directory."""
    options = [f"APT::FTPArchive::Release::{name}={value}" for name, value in fields.items()]
    words = (word for option in options for word in ("-o", option))
    return run("apt-ftparchive", *_STRONG_ONLY, *words, "release", suite)


@contextmanager
def _unpacking(deb: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run dpkg-deb, its output a tar stream; it ends with the block, or after its time."""
    command = ["dpkg-deb", "--fsys-tarfile", os.fspath(deb)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
    ) as process:
        timer = threading.Timer(_SECONDS, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            timer.join()
            with suppress(OSError):
                process.kill()


def _environment(temporary: Path | None = None) -> dict[str, str]:
    """What our programs are started with: nothing of the caller's."""
    given = {"TMPDIR": os.fspath(temporary)} if temporary else {}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **given}


def _last_words(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return "".join(c if c.isprintable() else "?" for c in "; ".join(lines)[-_TOLD:]) or "it gave no reason"
