"""Small wheels, made on the spot, that stand for a pool's packages: a real pip installs them in a moment."""

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# What `clusterai.environment` imports to prove that an environment works.
MODULES = {
    "dask": ("dask/__init__.py",),
    "distributed": (
        "distributed/__init__.py", "distributed/cli/__init__.py", "distributed/cli/dask_worker.py",
        "distributed/cli/dask_scheduler.py",
    ),
    "bokeh": ("bokeh/__init__.py",),
    "numpy": ("numpy/__init__.py",),
    "cloudpickle": ("cloudpickle/__init__.py",),
    "msgpack": ("msgpack/__init__.py",),
    "lz4": ("lz4/__init__.py", "lz4/frame.py"),
}  # fmt: skip
VERSION = "1.0"


@dataclass(frozen=True)
class WheelDirectory:
    """A directory of wheels and the lock that names them."""

    path: Path
    lock_text: str


def make_wheels(
    directory: Path,
    extra: str = "",
    broken: str = "",
    platform: str = "any",
    modules: Mapping[str, tuple[str, ...]] = MODULES,
) -> WheelDirectory:
    """Write a wheel for each package; `extra` is a module that dask imports, `broken` a package that fails to."""
    directory.mkdir()
    pins = []
    for name, files in modules.items():
        texts = dict.fromkeys(files, "raise ImportError('broken on purpose')\n" if name == broken else "")
        if name == "dask" and extra:
            texts["dask/__init__.py"] = extra
        wheel = directory / f"{name.replace('-', '_')}-{VERSION}-py3-none-{platform}.whl"
        _write(wheel, name, texts, platform)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        pins.append(f"{name}=={VERSION} \\\n    --hash=sha256:{digest}\n")
    return WheelDirectory(directory, "".join(pins))


def _write(path: Path, name: str, texts: dict[str, str], platform: str) -> None:
    info = f"{name.replace('-', '_')}-{VERSION}.dist-info"
    texts = texts | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSION}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-{platform}\n",
    }
    record = "".join(f"{file},sha256={_digest(text)},{len(text)}\n" for file, text in texts.items())
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in (texts | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            wheel.writestr(file, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
