"""A package, and which of the two repositories it belongs to: read from the .deb, never from the file's name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from clusterai.errors import ClusterAIError, Status

FIELDS = ("Package", "Version", "Architecture")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}")  # Debian policy 5.6.1
_VERSION = re.compile(r"(\d{1,9}:)?\d[A-Za-z0-9.+~-]{0,99}")  # 5.6.12
_TERMUX_ROOT = "data/data/com.termux"


class Distribution(Enum):
    """A repository of its own, with its own architectures."""

    DEBIAN = "debian"
    TERMUX = "termux"

    @property
    def architectures(self) -> tuple[str, ...]:
        """Those that its dpkg knows, `all` first."""
        return _ARCHITECTURES[self]


_ARCHITECTURES = {
    Distribution.DEBIAN: ("all", "amd64", "arm64", "armel", "armhf", "i386", "ppc64el", "riscv64", "s390x"),
    Distribution.TERMUX: ("all", "aarch64", "arm", "i686", "x86_64"),
}


class PackageRefused(ClusterAIError):
    code, status = "package-refused", Status.USAGE
    message = "{reason}"
    hint = "{fix}"

    def __init__(self, reason: str, fix: str = "build it again with a name and a version of Debian's form") -> None:
        super().__init__(reason=reason, fix=fix)


@dataclass(frozen=True)
class Package:
    """One .deb. `sha256` is hexadecimal."""

    distribution: Distribution
    name: str
    version: str
    architecture: str
    sha256: str
    size_bytes: int

    @property
    def path(self) -> str:
        """Where it lies in its repository. Other bytes are another path: no reader ever gets two for one name."""
        version = self.version.rpartition(":")[2]
        return f"pool/{self.sha256[:16]}/{self.name}_{version}_{self.architecture}.deb"

    @property
    def key(self) -> tuple[str, str, str]:
        """Packages of the same key are versions of one another."""
        return self.distribution.value, self.name, self.architecture

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.distribution.value}, {self.architecture})"


def package_of(fields: Mapping[str, str], paths: Iterable[str], sha256: str, size_bytes: int) -> Package:
    """Return the package of these control fields and paths.

    Raises:
        PackageRefused: a name, version or architecture that cannot be, or files of both distributions.
    """
    name, version, architecture = (fields.get(field, "") for field in FIELDS)
    if not _NAME.fullmatch(name):
        raise PackageRefused(f"its name {name[:80]!r} is none of a Debian package")
    if not _VERSION.fullmatch(version):
        raise PackageRefused(f"its version {version[:80]!r} is none of a Debian package")
    distribution = _distribution_of(paths)
    if architecture not in distribution.architectures:
        known = ", ".join(distribution.architectures)
        fix = f"{distribution.value} has {known}"
        raise PackageRefused(f"there is no architecture {architecture[:40]!r} in {distribution.value}", fix)
    return Package(distribution, name, version, architecture, sha256, size_bytes)


def _distribution_of(paths: Iterable[str]) -> Distribution:
    """Termux packages install below its prefix and nowhere else; Debian's never do."""
    inside = outside = False
    for path in paths:
        below = path.removeprefix("./").strip("/")
        if below.startswith(f"{_TERMUX_ROOT}/"):
            inside = True
        elif below not in _PARENTS:
            outside = True
    if inside and outside:
        fix = "a Termux package has all its files below /data/data/com.termux, a Debian package none"
        raise PackageRefused("it has files for Debian and for Termux", fix)
    return Distribution.TERMUX if inside else Distribution.DEBIAN


_PARENTS = ("", ".", "data", "data/data", _TERMUX_ROOT)
