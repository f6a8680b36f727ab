"""The configuration of the pools: `[pool]`, which there always is, and `[mobile]`, the phones'."""

import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path

from clusterai.config import Section
from clusterai.errors import InvalidName
from clusterai.ids import parse_pool_name

MOBILE = "mobile"  # the pool of the phones
_PORTS = range(1 << 16)


class _DaskSection(Section):
    """What a pool's scheduler and its environment have in common."""

    scheduler_port: int
    dashboard_port: int
    python: str

    def validate(self) -> None:
        """Refuse minors and ports that are none."""
        if self.python and not re.fullmatch(r"3\.\d{1,2}", self.python):
            self.reject("python", self.python, 'must be a minor such as "3.11"')
        for key in ("scheduler_port", "dashboard_port"):
            if getattr(self, key) not in _PORTS:
                self.reject(key, getattr(self, key), "must be 0 to 65535")


@dataclass(frozen=True)
class PoolConfig(_DaskSection):
    """`[pool]`: the pool's scheduler and the environment that all its nodes share."""

    name: str = "main"
    scheduler_host: str = ""  # empty: all addresses
    scheduler_port: int = 8786
    dashboard_port: int = 8787
    python: str = ""  # a minor such as "3.11"; empty: this machine's own
    lock_file: Path | None = None  # another lock than the shipped one
    scheduler_directory: Path = Path("/var/lib/clusterai-scheduler")
    compute_directory: Path = Path("/var/lib/clusterai-compute")
    runtime_directory: Path = Path("/run/clusterai-dask")
    control_socket: Path | None = None  # of the scheduler; default: NAME.sock in the runtime directory

    def validate(self) -> None:
        """Refuse names, minors and ports that are none."""
        try:
            parse_pool_name(self.name)
        except InvalidName as error:
            self.reject("name", self.name, error.advice)
        super().validate()

    @property
    def python_minor(self) -> str:
        """The Python minor of the pool."""
        return self.python or ".".join(platform.python_version_tuple()[:2])

    @property
    def socket(self) -> Path:
        """The scheduler's control socket."""
        return self.control_socket or self.runtime_directory / f"{self.name}.sock"


@dataclass(frozen=True)
class MobileConfig(_DaskSection):
    """`[mobile]`: the pool `mobile`, of the phones. Where it is not enabled, phones compute nothing."""

    enabled: bool = False
    scheduler_port: int = 8788
    dashboard_port: int = 8789
    python: str = "3.14"  # Termux's minor; empty: this machine's own
    lock_file: Path | None = None  # another lock than the shipped one

    def pool(self, main: PoolConfig) -> PoolConfig:
        """Return the pool; its files lie beside those of the main one."""
        return replace(
            main, name=MOBILE, scheduler_port=self.scheduler_port, dashboard_port=self.dashboard_port,
            python=self.python, lock_file=self.lock_file, control_socket=None,
        )
