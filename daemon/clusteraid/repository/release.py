"""One release of the repository: a directory that is complete before anybody sees it, and never changes afterwards.

    releases/000012/packages.json          what it offers
                    clusterai.asc, .gpg    the key that signed it
                    setup.sh               makes a machine use it
                    debian/pool/…          the packages
                    debian/dists/stable/InRelease, main/binary-ARCH/{Packages,Packages.xz,by-hash/…}
                    termux/…               the same

Whoever began to read an earlier release goes on to find its indices (by their hash) and its packages here.
"""

import hashlib
import json
import lzma
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clusterai.files import BadFile, load_json, sync_directory
from clusteraid.repository.key import PublicKey, SigningKey
from clusteraid.repository.package import Distribution, Package
from clusteraid.repository.tools import packages_index, release_file

SUITE, COMPONENT = "stable", "main"
LIST, SETUP, KEY_TEXT, KEY_BINARY = "packages.json", "setup.sh", "clusterai.asc", "clusterai.gpg"
VALID_SECONDS = 30 * 86400
_FORMAT = 1
_HASH = "SHA256"


@dataclass(frozen=True)
class Release:
    """What a published release offers, and since when."""

    directory: Path
    packages: tuple[Package, ...]
    published_unix_seconds: float

    def pool(self) -> dict[str, Path]:
        """Return its packages' files by their path below the release."""
        paths = (f"{package.distribution.value}/{package.path}" for package in self.packages)
        return {path: self.directory / path for path in paths}


def load_release(directory: Path) -> Release:
    """Return the release in the directory; raise BadFile when its list cannot be read."""
    path = directory / LIST
    told = load_json(path, limit=16 << 20)
    try:
        packages = tuple(_package(one) for one in told["packages"])
        return Release(directory, packages, float(told["published_unix_seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(path, f"not the list of a release ({error!r})") from error


def build(release: Release, files: dict[str, Path], key: SigningKey, setup: bytes, earlier: Sequence[Release]) -> None:
    """Fill the release's directory. `files` are those of its packages, by their path below a release.

    Raises:
        OSError: no space, no permission. ToolFailed, ToolMissing: a program did not do its part.
    """
    public = key.public()
    for path in release.pool():
        _link(files[path], release.directory / path)
    for distribution in Distribution:
        _index(release.directory / distribution.value, distribution, key)
    for one in earlier:
        _keep_readable(one, release.directory)
    _write_beside(release, public, setup)
    _sync(release.directory)


def _index(root: Path, distribution: Distribution, key: SigningKey) -> None:
    """Write the indices of what is in the directory's pool, and sign them."""
    (root / "pool").mkdir(parents=True, exist_ok=True)
    suite = root / "dists" / SUITE
    for architecture in distribution.architectures:
        directory = suite / COMPONENT / f"binary-{architecture}"
        directory.mkdir(parents=True)
        index = packages_index(root, architecture)
        (directory / "Packages").write_bytes(index)
        (directory / "Packages.xz").write_bytes(lzma.compress(index))
    told = release_file(suite, _fields(distribution))
    (suite / "InRelease").write_bytes(key.sign(told))
    for index_file in _indices(root):
        _link(index_file, _by_hash(index_file))


def _fields(distribution: Distribution) -> dict[str, str]:
    return {
        "Origin": "Cluster AI",
        "Label": "Cluster AI",
        "Suite": SUITE,
        "Codename": SUITE,
        "Architectures": " ".join(distribution.architectures),
        "Components": COMPONENT,
        "Acquire-By-Hash": "yes",
        "ValidTime": str(VALID_SECONDS),
        "Description": f"packages of this cluster for {distribution.value.capitalize()}",
    }


def _indices(root: Path) -> list[Path]:
    return sorted((root / "dists" / SUITE / COMPONENT).glob("binary-*/Packages*"))


def _by_hash(index_file: Path) -> Path:
    return index_file.parent / "by-hash" / _HASH / hashlib.sha256(index_file.read_bytes()).hexdigest()


def _keep_readable(earlier: Release, directory: Path) -> None:
    """Let those who read the earlier release find what it told them of."""
    for path, file in earlier.pool().items():
        _link(file, directory / path)
    for distribution in Distribution:
        for index_file in _indices(earlier.directory / distribution.value):
            by_hash = _by_hash(index_file).relative_to(earlier.directory)
            _link(index_file, directory / by_hash)


def _write_beside(release: Release, public: PublicKey, setup: bytes) -> None:
    packages = [{**asdict(one), "distribution": one.distribution.value} for one in release.packages]
    told = {"format": _FORMAT, "published_unix_seconds": release.published_unix_seconds, "packages": packages}
    (release.directory / LIST).write_text(json.dumps(told, indent=1))
    (release.directory / KEY_TEXT).write_text(public.armoured)
    (release.directory / KEY_BINARY).write_bytes(public.binary)
    (release.directory / SETUP).write_bytes(setup)


def _package(told: Any) -> Package:
    package = Package(**told)
    return replace(package, distribution=Distribution(told["distribution"]))


def _link(file: Path, to: Path) -> None:
    """Give the file a second name; one that is there already has the same content."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if not to.exists():
        os.link(file, to)


def _sync(directory: Path) -> None:
    """Bring all of it to disk: a power cut leaves no release that is named and empty."""
    for place, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(Path(place, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(place))
