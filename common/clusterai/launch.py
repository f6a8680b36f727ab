"""Becomes a Dask scheduler or worker, or a tunnel: checks the launch file, then exec's the program.

Run by the units as `python3 -I -m clusterai.launch --kind worker|scheduler|gate|mirror SPEC.json`. The process keeps
its id, so the unit's main process is the program's own.
"""

import argparse
import ctypes
import math
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterai.files import BadFile, read_limited
from clusterai.launch_spec import BadLaunch, Launch, bracketed, is_address, is_host
from clusterai.tunnels import GateLaunch, MirrorLaunch

__all__ = ["KINDS", "BadLaunch", "Launch", "SchedulerLaunch", "WorkerLaunch", "load", "main"]

_SPEC_LIMIT = 1 << 16
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,78}[a-z0-9])?")
_RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_DEVICES = re.compile(r"[A-Za-z0-9/,_-]{0,1000}")
_DEATH_SECONDS = 60  # without a scheduler the worker ends and its unit starts it again
_BOARD_PREFIX = "dask"  # the path under which the gateway shows it; "/" leads there too
_PR_SET_PDEATHSIG = 1  # prctl(2)

# What Dask's nanny would set; with --no-nanny nobody else does. It has to be there before Python starts.
_NANNY_VARIABLES = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_SETTINGS = {
    "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
}
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "DASK_SCHEDULER_ADDRESS")


class _DaskLaunch(Launch):
    """What both of Dask's programs need."""

    environment: Path

    def check_presence(self) -> None:
        """Refuse when the environment is not built, or a file cannot be read."""
        python = self.environment / "bin/python"
        self.require(os.access(python, os.X_OK), "environment", f"{python} is not there; it may not be built yet")
        self.require_readable("certificate", "ca", "preload")

    def defaults(self) -> dict[str, str]:
        """Return the environment variables that the unit's own go before."""
        return _NANNY_VARIABLES


@dataclass(frozen=True)
class WorkerLaunch(_DaskLaunch):
    """One Dask worker without a nanny. The addresses are `tls://HOST:PORT` and a bare host to listen on."""

    name: str
    environment: Path
    scheduler_address: str
    thread_count: int
    memory_limit_bytes: int
    resources: Mapping[str, float]
    cuda_visible_devices: str
    certificate: Path
    ca: Path
    scratch: Path
    contact_address: str
    preload: Path

    def check(self) -> None:
        """Refuse values that make no sense."""
        self.require(_NAME.fullmatch(self.name), "name", "not a worker's name")
        self.require(1 <= self.thread_count <= 4096, "thread_count", "must be 1 to 4096")
        self.require(1 << 20 <= self.memory_limit_bytes < 1 << 60, "memory_limit_bytes", "must be 1 MiB or more")
        self.require(_is_tls_address(self.scheduler_address), "scheduler_address", "must be tls://HOST:PORT")
        self.require(not self.contact_address or is_host(self.contact_address), "contact_address", "not a host")
        self.require(_DEVICES.fullmatch(self.cuda_visible_devices), "cuda_visible_devices", "not a list of devices")
        for name, amount in self.resources.items():
            self.require(_RESOURCE.fullmatch(name), "resources", f"{name[:80]!r} is not a name")
            self.require(math.isfinite(amount) and amount > 0, "resources", f"{name}: {amount} is not an amount")
        self.check_paths()

    def prepare(self) -> None:
        """Make the scratch directory."""
        self.scratch.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """Return the command that is exec'ed."""
        host = ["--host", bracketed(self.contact_address)] if self.contact_address else []
        given = " ".join(f"{name}={amount!r}" for name, amount in sorted(self.resources.items()))
        return [
            *_python(self.environment, "dask_worker"),
            *(self.scheduler_address, "--name", self.name, "--no-nanny", "--protocol", "tls"),
            # Even without a dashboard Dask serves its health and metrics; not to the network.
            *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
            *("--nthreads", str(self.thread_count), "--memory-limit", str(self.memory_limit_bytes)),
            *("--local-directory", str(self.scratch), "--death-timeout", str(_DEATH_SECONDS)),
            *host,
            *(["--resources", given] if given else []),
            *_tls(self.certificate, self.ca, self.preload),
        ]

    def variables(self) -> dict[str, str]:
        """Return what is added to the environment variables."""
        devices = {"CUDA_VISIBLE_DEVICES": self.cuda_visible_devices} if self.cuda_visible_devices else {}
        return _SETTINGS | devices


@dataclass(frozen=True)
class SchedulerLaunch(_DaskLaunch):
    """The Dask scheduler of a pool. An empty host listens on all addresses; the dashboard's is `HOST:PORT`."""

    pool: str
    environment: Path
    host: str
    port: int
    dashboard_address: str
    certificate: Path
    ca: Path
    control_socket: Path
    preload: Path

    def check(self) -> None:
        """Refuse values that make no sense."""
        self.require(_NAME.fullmatch(self.pool), "pool", "not a pool's name")
        self.require(not self.host or is_host(self.host), "host", "not a host")
        self.require(0 <= self.port < 1 << 16, "port", "must be 0 to 65535")
        self.require(
            not self.dashboard_address or is_address(self.dashboard_address), "dashboard_address", "must be HOST:PORT"
        )
        fits = len(os.fsencode(self.control_socket)) < 108  # unix(7)
        self.require(fits, "control_socket", "longer than the 107 bytes that a socket's path may have")
        self.check_paths()

    def command(self) -> list[str]:
        """Return the command that is exec'ed."""
        served = ("--dashboard-address", self.dashboard_address, "--dashboard-prefix", _BOARD_PREFIX)
        board = served if self.dashboard_address else ("--no-dashboard",)
        return [
            *_python(self.environment, "dask_scheduler"),
            *("--host", f"tls://{bracketed(self.host)}", "--port", str(self.port), "--protocol", "tls"),
            *board,
            *_tls(self.certificate, self.ca, self.preload),
            *("--preload", str(self.preload.with_name("dask_preload_versions.py"))),
            *("--preload", str(self.preload.with_name("dask_preload_scheduler.py"))),
        ]

    def variables(self) -> dict[str, str]:
        """Return what is added to the environment variables."""
        scratch = {"DASK_TEMPORARY_DIRECTORY": str(self.control_socket.parent)}  # the one that Dask's user can write
        own = {"CLUSTERAI_CONTROL_SOCKET": str(self.control_socket), "CLUSTERAI_POOL": self.pool}
        return _SETTINGS | scratch | own


def _is_tls_address(text: str) -> bool:
    return text.startswith("tls://") and is_address(text.removeprefix("tls://"))


def _python(environment: Path, program: str) -> list[str]:
    """Dask's own entry point by module: the scripts in bin/ carry the path that they were built at."""
    return [str(environment / "bin/python"), "-I", "-u", "-m", f"distributed.cli.{program}"]


def _tls(certificate: Path, ca: Path, preload: Path) -> list[str]:
    return [
        *("--tls-cert", str(certificate), "--tls-key", str(certificate), "--tls-ca-file", str(ca)),
        *("--preload", str(preload)),
    ]


KINDS: dict[str, type[Launch]] = {
    "gate": GateLaunch,
    "mirror": MirrorLaunch,
    "scheduler": SchedulerLaunch,
    "worker": WorkerLaunch,
}


def load(kind: str, spec: Path) -> Launch:
    """Return the launch of a file, checked, and everything there that it names.

    Raises:
        BadFile: unreadable.
        BadLaunch: see `parse`; or something that it names is not there.
    """
    text = read_limited(spec, _SPEC_LIMIT)
    try:
        launch = KINDS[kind].parse(text)
        launch.check_presence()
    except BadLaunch as error:
        raise BadLaunch(error.key, error.reason, str(spec)) from error
    return launch


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, however it dies; exec keeps that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != parent:
        raise BadLaunch("--die-with", f"process {parent} is gone")


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the program; return an exit code only when that is impossible."""
    parser = argparse.ArgumentParser(prog="clusterai.launch", description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--die-with", type=int, metavar="PID", default=0, help="the parent to die with")
    parser.add_argument("spec", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.die_with:
            _die_with(options.die_with)
        launch = load(options.kind, options.spec)
        _become(launch)
    except (BadLaunch, BadFile) as error:
        print(f"clusterai.launch: {error}\n  {error.advice}", file=sys.stderr)
        return error.status.exit_code
    except OSError as error:
        print(f"clusterai.launch: cannot start what {options.spec} describes: {error}", file=sys.stderr)
        return 1
    return 0


def _become(launch: Launch) -> None:
    launch.prepare()
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    command = launch.command()
    os.execve(command[0], command, launch.defaults() | kept | launch.variables())  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
