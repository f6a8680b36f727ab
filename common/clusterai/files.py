"""Files that are there whole or not at all."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from clusterai.errors import ClusterAIError, Status

_SHARED_UMASK = 0o027


class BadFile(ClusterAIError):
    code, status = "bad-file", Status.FAILED
    message = "cannot use {path}: {reason}"
    hint = "{fix}"

    def __init__(self, path: Path, reason: str, fix: str = "put the file back from a backup, or remove it") -> None:
        super().__init__(path=path, reason=reason, fix=fix)


class CannotWrite(ClusterAIError):
    code, status = "cannot-write", Status.FAILED
    message = "cannot write {path}: {reason}"
    hint = "check free space (`df {directory}`) and who may write there (`ls -ld {directory}`)"

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(path=path, reason=error.strerror or str(error), directory=path.parent)


def write_atomic(path: Path, data: bytes, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace the file's content so that a crash leaves the old file or the new one, never half of one.

    The directory may be another user's: what is made is written and given away by its descriptor, never by its name.

    Raises:
        CannotWrite: no space, no permission, no directory; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o600)
        try:
            _write_synced(descriptor, data, mode, owner)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise CannotWrite(path, error) from error


def _write_synced(descriptor: int, data: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    with open(descriptor, "wb") as file:
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def point_link(link: Path, target: str | Path) -> None:
    """Make the symbolic link lead to the target, at once: there is never none. Raise CannotWrite."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
        sync_directory(link.parent)
    except OSError as error:
        raise CannotWrite(link, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Bring the directory's entries to disk: a rename is durable only then."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove the file if it is there; raise CannotWrite where that is not possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWrite(path, error) from error


def make_shared(directory: Path) -> None:
    """Make the directory, readable by the group that its setgid parent gives it. A later chmod would drop setgid.

    Raises:
        CannotWrite: it cannot be made.
    """
    before = os.umask(_SHARED_UMASK)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(directory, error) from error
    finally:
        os.umask(before)


def read_limited(path: Path, limit: int) -> bytes:
    """Return the file's bytes; raise BadFile when it is unreadable or longer than the limit."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BadFile(path, error.strerror or str(error), "check that it exists and who may read it") from error
    if len(data) > limit:
        raise BadFile(path, f"longer than {limit} bytes")
    return data


def load_json(path: Path, *, limit: int = 1 << 20) -> dict[str, Any]:
    """Return the JSON object in the file.

    Raises:
        BadFile: unreadable, too long, or not one JSON object.
    """
    try:
        value = json.loads(read_limited(path, limit))
    except (ValueError, RecursionError) as error:
        raise BadFile(path, f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadFile(path, "not a JSON object")
    return value
