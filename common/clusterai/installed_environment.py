"""A phone's compute environment: what the package clusterai-compute installed, in a virtual environment's clothes.

Nothing is built on a phone. A directory that looks like every other environment (an interpreter, a line that leads to
the package's modules) lets workers start there as they do elsewhere; numpy and msgpack are Termux's own packages.
"""

import json
import subprocess
import sys
from pathlib import Path

from clusterai.environment import COMPLETE, TELL_VERSIONS, EnvironmentBuildFailed
from clusterai.errors import ClusterAIError, Status
from clusterai.files import BadFile, make_shared, read_limited, write_atomic
from clusterai.lockfile import EnvironmentKey

LOCK_NAME = "pool.lock"
_LOCK_LIMIT = 1 << 20
_VERIFY_SECONDS = 120
_PROOF = f"""
import dask, distributed, distributed.cli.dask_worker
import cloudpickle, msgpack, numpy
{TELL_VERSIONS}"""


class ComputeNotInstalled(ClusterAIError):
    code, status = "compute-not-installed", Status.FAILED
    message = "the package clusterai-compute is not installed: {reason}"
    hint = "install it: `pkg install clusterai-compute`"


class OtherPython(ClusterAIError):
    code, status = "other-python", Status.FAILED
    message = "this phone's Python is {own}, that of its pool is {wanted}"
    hint = "{fix}"


class OtherLock(ClusterAIError):
    code, status = "other-lock", Status.FAILED
    message = "clusterai-compute here makes environment {own}, the server's pool has {wanted}"
    hint = "run `pkg upgrade`; when there is nothing newer, the server needs the newer version"


def own_minor() -> str:
    """Return the minor of the Python that runs this: "3.14"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def check_installed(modules: Path, wanted_hash: str, wanted_minor: str, minor: str = "") -> None:
    """Check that what is installed is the environment that is wanted.

    Raises:
        ComputeNotInstalled, OtherPython, OtherLock: it is not; the hint says what to do.
    """
    minor = minor or own_minor()
    try:
        lock_text = read_limited(modules / LOCK_NAME, _LOCK_LIMIT).decode()
    except (BadFile, UnicodeDecodeError) as error:
        raise ComputeNotInstalled(reason=str(error)) from error
    if minor != wanted_minor:
        newer = _numbers(minor) > _numbers(wanted_minor)
        wait = "wait until the server's pool has this one; until then this phone does not compute"
        raise OtherPython(own=minor, wanted=wanted_minor, fix=wait if newer else "run `pkg upgrade`")
    found = EnvironmentKey(minor, lock_text).hash
    if found != wanted_hash:
        raise OtherLock(own=found, wanted=wanted_hash)


def assemble(directory: Path, modules: Path, proof: str = _PROOF) -> dict[str, str]:
    """Make the directory an environment of the installed modules and return its versions.

    `proof` is Python that runs in it and tells versions. What a killed call left is made anew.

    Raises:
        EnvironmentBuildFailed: it cannot be written, or what is installed does not run.
    """
    import venv  # once in an environment's life

    make_shared(directory.parent)
    try:
        venv.create(directory, system_site_packages=True, clear=True, symlinks=True)
        packages = directory / f"lib/python{own_minor()}/site-packages"
        (packages / "clusterai.pth").write_text(f"{modules}\n", encoding="utf-8")
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentBuildFailed(f"cannot make {directory}: {error}", "check free space: df -h") from error
    versions = _proven(directory, proof)
    record = {"versions": versions, "python": versions["python"], "hash": directory.name}
    write_atomic(directory / COMPLETE, json.dumps(record, indent=1).encode(), 0o640)
    return versions


def _proven(directory: Path, proof: str) -> dict[str, str]:
    command = [str(directory / "bin/python"), "-I", "-c", proof]
    fix = "run `pkg upgrade` and `pkg reinstall clusterai-compute`"
    try:
        ended = subprocess.run(command, capture_output=True, timeout=_VERIFY_SECONDS, check=False, cwd="/")
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentBuildFailed(f"{command[0]} does not run: {error}", fix) from error
    lines = ended.stdout.decode(errors="replace").splitlines()
    if ended.returncode or not lines:
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        raise EnvironmentBuildFailed(f"what is installed does not run: {said[-1][:300] if said else 'no word'}", fix)
    return {str(name): str(version) for name, version in json.loads(lines[-1]).items()}


def _numbers(minor: str) -> list[int]:
    return [int(part) for part in minor.split(".")]
