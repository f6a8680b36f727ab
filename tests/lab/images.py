"""Root file systems of Debian releases with everything that our packages depend on: machines have no internet."""

import re
import shutil
from pathlib import Path

from lab import cache
from lab.commands import run

ROOT = Path(__file__).resolve().parents[2]
RELEASES = {"bookworm": "3.11", "trixie": "3.13"}  # and the minor of their Python
_BASE = (
    "systemd", "systemd-sysv", "dbus", "polkitd", "iproute2", "iputils-ping", "python3", "procps", "man-db", "curl",
)  # fmt: skip
_MASKED = ("networking.service", "ifupdown-pre.service", "systemd-network-generator.service")  # nothing to do here
_OURS = {"clusteraid", "clusteractl", "clusterai-agent", "python3-clusterai"}
_OF_PYTHON = ("python3-grpcio", "python3-protobuf")  # ${python3:Depends} of python3-clusterai


def packages() -> tuple[str, ...]:
    """Return what a machine has besides Debian's own: what our packages depend on and recommend."""
    control = (ROOT / "packaging/debian/control").read_text()
    fields = re.findall(r"^(?:Depends|Recommends):((?:.*\n)(?:[ \t].*\n)*)", control, re.MULTILINE)
    names = {match for field in fields for match in re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9.+-]+)", field)}
    return tuple(sorted((names - _OURS) | {*_BASE, *_OF_PYTHON}))


def image(release: str) -> Path:
    """Return the directory of the release's root file system; the first call builds it, in about a minute."""
    wanted = packages()
    content = " ".join(wanted) + Path(__file__).read_text()
    return cache.made_once(f"image-{release}", content, lambda path: _make(release, wanted, path))


def _make(release: str, wanted: tuple[str, ...], path: Path) -> None:
    tar = path.with_suffix(".tar")
    # A lab needs no power cut survived: dpkg, there too, waits for no disk.
    options = ["--variant=important", "--dpkgopt=force-unsafe-io", f"--include={','.join(wanted)}"]
    try:
        run(["mmdebstrap", "--quiet", *options, release, tar, *_mirror()], seconds=900)
        run(["tar", "-xpf", tar, "-C", path, "--exclude=./dev/*"], seconds=300)
    finally:
        tar.unlink(missing_ok=True)
    for leftover in ("etc/network/interfaces", "etc/hostname", "etc/resolv.conf"):
        (path / leftover).unlink(missing_ok=True)
    (path / "etc/machine-id").write_text("")  # empty: a new id at first boot
    shutil.rmtree(path / "etc/apt/sources.list.d", ignore_errors=True)
    (path / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/srv/repository ./\n")
    run(["systemctl", f"--root={path}", "mask", *_MASKED])
    run(["systemctl", f"--root={path}", "enable", "systemd-networkd"])


def _mirror() -> list[str]:
    """The mirror that this machine itself installs Debian from; on other systems none: mmdebstrap knows one."""
    targets = run(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"], check=False)
    return [line.split()[1] for line in targets.splitlines() if line.startswith("Debian ")][:1]
