"""Python of the phones' minor for a server whose distribution has another: Debian testing's, made to run here.

It lies as `uv python install` leaves one, which is how a server's administrator gets it, and our programs find it so.
"""

from pathlib import Path

from lab import cache
from lab.commands import run
from lab.images import _mirror
from support.phone_image import MINORS

_RELEASE = "forky"
MINOR = MINORS[_RELEASE]
_PACKAGES = (f"python{MINOR}-venv",)
_WHEELS = "/usr/share/python-wheels/"  # where Debian's venv takes pip from


def phones_pythons() -> Path:
    """Return a directory for UV_PYTHON_INSTALL_DIR; the first call makes it, in half a minute."""
    content = Path(__file__).read_text()
    return cache.made_once(f"python-{_RELEASE}", content, _make)


def phones_python() -> Path:
    """Return the interpreter."""
    (found,) = phones_pythons().glob(f"cpython-{MINOR}.*/bin/python{MINOR}")
    return found


def _make(path: Path) -> None:
    root = path / "root"
    # Testing's release file may be past its date on a mirror.
    options = ['--aptopt=Acquire::Check-Valid-Until "false"', f"--include={','.join(_PACKAGES)}"]
    run(["mmdebstrap", "--quiet", "--variant=extract", *options, _RELEASE, root, *_mirror()], seconds=900)
    lasting = path.with_suffix("") / "root"  # it is moved there when it is whole
    (loader,) = root.glob("usr/lib/*-linux-gnu/ld-linux-*")
    libraries, python = loader.parent.relative_to(root), root / f"usr/bin/python{MINOR}"
    interpreter = lasting / loader.relative_to(root)
    # An older C library than its own is what this machine has.
    run(["patchelf", "--set-interpreter", interpreter, "--force-rpath", "--set-rpath", lasting / libraries, python])
    for data in root.glob(f"usr/lib/python{MINOR}/_sysconfigdata_*.py"):
        data.write_text(data.read_text().replace(f"'{_WHEELS}'", f"'{lasting}{_WHEELS}'"))
    (path / f"cpython-{MINOR}.0-linux").symlink_to("root/usr")
