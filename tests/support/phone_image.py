"""Root file systems of the simulated phone: Debian's programs stand in for those that Termux compiles for Android."""

import re
import shutil
from pathlib import Path

from lab import cache
from lab.commands import run
from lab.images import _mirror

HERE = Path(__file__).resolve().parent / "phone"
USER, GROUP = 10123, 10123
MINORS = {"forky": "3.14", "trixie": "3.13"}  # Termux's own minor now, and one that it had
_PACKAGES = (
    "apt", "bash", "ca-certificates", "coreutils", "curl", "gpgv", "openssl", "procps", "python3",
    "python3-msgpack", "python3-numpy", "python3-psutil", "runit", "util-linux", "xz-utils",
)  # fmt: skip


def phone_image(release: str) -> Path:
    """Return the directory of the root file system; the first call builds it, in about a minute."""
    content = "".join((Path(__file__).read_text(), (HERE / "sitecustomize.py").read_text(), release, *_PACKAGES))
    return cache.made_once(f"phone-{release}", content, lambda path: _make(release, path))


def _make(release: str, path: Path) -> None:
    tar = path.with_suffix(".tar")
    # Testing's release file may be past its date on a mirror.
    options = ['--aptopt=Acquire::Check-Valid-Until "false"', f"--include={','.join(_PACKAGES)}"]
    try:
        run(["mmdebstrap", "--quiet", "--variant=apt", *options, release, tar, *_mirror()], seconds=900)
        run(["tar", "-xpf", tar, "-C", path, "--exclude=./dev/*"], seconds=300)
    finally:
        tar.unlink(missing_ok=True)
    for directory in ("data", "system", "mnt"):
        (path / directory).mkdir(exist_ok=True)
    for leftover in ("etc/hostname", "etc/resolv.conf"):
        (path / leftover).unlink(missing_ok=True)
    (path / "etc/hosts").write_text("127.0.0.1 localhost\n::1 ip6-localhost\n")
    _become_android(path)


def _become_android(path: Path) -> None:
    """Let Python and psutil be as Termux has them, and the user be known."""
    modules = path / "usr/lib/python3/dist-packages"
    for library in path.glob("usr/lib/python3.*"):
        (library / "sitecustomize.py").unlink(missing_ok=True)  # a link to Debian's
        shutil.copy(HERE / "sitecustomize.py", library)
    common = modules / "psutil/_common.py"
    text = common.read_text()
    patched = re.sub(r'(LINUX = sys\.platform\.startswith\()"linux"\)', r'\1("linux", "android"))', text)
    if patched == text:
        raise AssertionError(f"{common} does not ask for Linux where Termux's patch expects it")
    common.write_text(patched)
    _compile(path)
    home = "/data/data/com.termux/files"
    with (path / "etc/passwd").open("a") as users:
        users.write(f"u0_a123:x:{USER}:{GROUP}::{home}/home:{home}/usr/bin/bash\n")
    with (path / "etc/group").open("a") as groups:
        groups.write(f"u0_a123:x:{GROUP}:\n")


def _compile(path: Path) -> None:
    """Compile what was changed, as Termux's packages do; otherwise each program would, in its own memory."""
    run(["chroot", path, "python3", "-m", "compileall", "-q", "-r", "0", "/usr/lib/python3/dist-packages/psutil"])
    run(["chroot", path, "sh", "-c", "python3 -m py_compile /usr/lib/python3.*/sitecustomize.py"])
