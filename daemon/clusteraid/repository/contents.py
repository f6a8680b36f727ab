"""What a repository offers, and what adding and removing make of it: pure decisions."""

from collections.abc import Callable, Iterable, Sequence
from functools import cmp_to_key
from itertools import groupby

from clusterai.errors import ClusterAIError, Status
from clusteraid.repository.package import Package

Older = Callable[[str, str], bool]
Contents = tuple[Package, ...]


class VersionTaken(ClusterAIError):
    code, status = "version-taken", Status.CONFLICT
    message = "{package} is published already, with other content"
    hint = "give the new build a higher version: machines that have this one would never get it"


class OlderVersion(ClusterAIError):
    code, status = "older-version", Status.CONFLICT
    message = "{package} is older than {newest}, which is published"
    hint = "to go back, first remove the newer one: `sudo clusteraid repo remove {name}={newest}`"


class NoSuchPackage(ClusterAIError):
    code, status = "no-such-package", Status.NOT_FOUND
    message = "there is no package {wanted} in the repository"
    hint = "see `clusteraid repo list`"


def added(contents: Contents, new: Sequence[Package], older: Older, keep: int) -> Contents:
    """Return the contents with the new packages; of each package the newest `keep` versions stay.

    Raises:
        VersionTaken, OlderVersion: one of them cannot be published; then none is.
    """
    for package in reversed(in_order(new, older)):  # whatever the order, 1.9 comes before 1.10
        versions = [one for one in contents if one.key == package.key]
        same = next((one for one in versions if one.version == package.version), None)
        if same == package:
            continue
        if same is not None:
            raise VersionTaken(package=package)
        newer = [one.version for one in versions if older(package.version, one.version)]
        if newer:
            raise OlderVersion(package=package, newest=_newest_first(versions, older)[0].version, name=package.name)
        contents = _newest((*contents, package), package.key, older, keep)
    return in_order(contents, older)


def removed(contents: Contents, name: str, version: str) -> tuple[Contents, Contents]:
    """Return what stays and what goes: every version of the package, or the one; raise NoSuchPackage."""
    gone = tuple(one for one in contents if one.name == name and version in ("", one.version))
    if not gone:
        raise NoSuchPackage(wanted=f"{name}={version}" if version else name)
    return tuple(one for one in contents if one not in gone), gone


def in_order(contents: Iterable[Package], older: Older) -> Contents:
    """Sort by distribution, name, architecture, the newest version first."""
    by_key = groupby(sorted(contents, key=lambda one: one.key), lambda one: one.key)
    return tuple(one for _, versions in by_key for one in _newest_first(versions, older))


def _newest(contents: Contents, key: tuple[str, str, str], older: Older, keep: int) -> Contents:
    ours = _newest_first((one for one in contents if one.key == key), older)
    return (*(one for one in contents if one.key != key), *ours[:keep])


def _newest_first(versions: Iterable[Package], older: Older) -> list[Package]:
    def compared(version: str, other: str) -> int:
        return -1 if older(version, other) else int(older(other, version))

    by_version = cmp_to_key(compared)
    return sorted(versions, key=lambda one: by_version(one.version), reverse=True)
