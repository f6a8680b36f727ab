"""The pool's Python environment on the user's own machine."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from clusteractl.command import Ctl
from clusteractl.errors import OtherEnvironment
from clusteractl.progress import progress_on
from clusterai.environment import IndexConfig, build, read_complete, require_python
from clusterai.v1.types_pb2 import EnvironmentSpec
from clusterai.v1.worker_pb2 import IssueDaskClientResponse


def create_environment(
    ctl: Ctl, path: Path, reply: IssueDaskClientResponse, index_url: str, wheels: Path | None
) -> None:
    """Build the environment that the reply describes, unless it is there, and say how to use it.

    Raises:
        NoSuchPython: this machine lacks the pool's Python minor.
        EnvironmentBuildFailed, NotAnEnvironment: as `build` does.
        OtherEnvironment: a finished one with other versions is there.
    """
    present = read_complete(path)
    if present is None:
        with _quiet_log() if ctl.out.as_json else nullcontext():
            ctl.run(_built(ctl, path, reply, IndexConfig(index_url, wheels, offline=wheels is not None)))
    elif wrong := difference(present, reply.environment):
        raise OtherEnvironment(path=path, difference=wrong)
    ctl.out.note(f"The environment is ready. Use it with: . {path}/bin/activate")


def difference(present: Mapping[str, str], wanted: EnvironmentSpec) -> str:
    """Return what is not as wanted, `dask 2026.8.0 is wanted, 2025.1.0 is there`; empty when all is."""
    python = present.get("python", wanted.python_minor)
    if wanted.python_minor and not f"{python}.".startswith(f"{wanted.python_minor}."):
        return f"Python {wanted.python_minor} is wanted, {python} is there"
    for name, version in sorted(wanted.versions.items()):
        if present.get(name) != version:
            return f"{name} {version} is wanted, {present.get(name, 'none')} is there"
    return ""


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep the builder's log off stderr, where a script reads one JSON object."""
    log, handler = logging.getLogger("clusterai"), logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


async def _built(ctl: Ctl, path: Path, reply: IssueDaskClientResponse, index: IndexConfig) -> None:
    python = require_python(reply.environment.python_minor)
    with progress_on(ctl, f"Building {path.name}") as progress:

        def heard(ratio: float, text: str) -> None:
            progress.step(ratio, text, text)

        await build(path, reply.lock_text, python, index=index, progress=heard)
