"""The daemon's configuration: /etc/clusterai/clusteraid.toml. Every key has a default."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path

from clusterai.config import Section, decode, read_toml
from clusteraid.pool_config import MOBILE, MobileConfig, PoolConfig

DEFAULT_FILE = Path("/etc/clusterai/clusteraid.toml")
_PORTS = range(1 << 16)


class BackEnd(Enum):
    """How units are controlled."""

    SYSTEMD = "systemd"
    PROCESS = "process"


class LogLevel(Enum):
    """The least important messages that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class ServerConfig(Section):
    """`[server]`: where the daemon listens and keeps its state. Port 0: any free one, written to `ports.json`."""

    listen: str = "0.0.0.0"  # gRPC listens on :: as well where there is IPv6
    port: int = 7443
    enrollment_port: int = 7444
    socket: Path = Path("/run/clusterai/clusteraid.sock")
    state_directory: Path = Path("/var/lib/clusterai")
    advertise: tuple[str, ...] = ()  # host names or addresses that nodes shall use; empty: this machine's own

    def validate(self) -> None:
        """Refuse ports that are none, and two servers on one port."""
        for key in ("port", "enrollment_port"):
            if getattr(self, key) not in _PORTS:
                self.reject(key, getattr(self, key), "must be 0 to 65535")
        if self.port and self.port == self.enrollment_port:
            self.reject("enrollment_port", self.enrollment_port, "must differ from port")

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.state_directory / "clusteraid.sqlite"


@dataclass(frozen=True)
class SessionConfig(Section):
    """`[session]`: how often nodes are heard, and when silence counts."""

    heartbeat_seconds: float = 5.0
    offline_seconds: float = 12.0
    phone_heartbeat_seconds: float = 15.0  # of phones, which sleep in between; offline after 2.4 of them
    heartbeats_per_second: float = 2000.0  # of all nodes together: with more of them, each is heard less often

    def validate(self) -> None:
        """Refuse intervals with which every node would go offline between two heartbeats."""
        if not 0.05 <= self.heartbeat_seconds <= 300:
            self.reject("heartbeat_seconds", self.heartbeat_seconds, "must be 0.05 to 300")
        if not 0.05 <= self.phone_heartbeat_seconds <= 300:
            self.reject("phone_heartbeat_seconds", self.phone_heartbeat_seconds, "must be 0.05 to 300")
        if not 2 * self.heartbeat_seconds <= self.offline_seconds <= 3600:
            self.reject("offline_seconds", self.offline_seconds, "must be 2 × heartbeat_seconds to 3600")
        if not self.heartbeats_per_second >= 1:
            self.reject("heartbeats_per_second", self.heartbeats_per_second, "must be 1 or more")


@dataclass(frozen=True)
class LocalNodeConfig:
    """`[local_node]`: the server's own agent joins by itself."""

    enroll: bool = True
    token_file: Path = Path("/run/clusterai-local/token")


@dataclass(frozen=True)
class UnitsSection:
    """`[units]`: how the scheduler and the other units of this machine are controlled."""

    back_end: BackEnd = BackEnd.SYSTEMD
    state_directory: Path | None = None  # of the process back-end; default: units in the daemon's state directory
    stop_on_exit: bool = False  # the process back-end stops what it started when the daemon stops


@dataclass(frozen=True)
class DiscoveryConfig:
    """`[discovery]`: whether the daemon is announced by multicast DNS."""

    announce: bool = True


@dataclass(frozen=True)
class CertificateConfig(Section):
    """`[certificates]`: how long leaf certificates live; they are renewed at 2/3 of it."""

    lifetime_seconds: float = 7 * 86400.0

    def validate(self) -> None:
        """Refuse lives that are over before they can be renewed, or that make revocation the only way out."""
        if not 5 <= self.lifetime_seconds <= 90 * 86400:
            self.reject("lifetime_seconds", self.lifetime_seconds, "must be 5 s to 90 days")

    @property
    def lifetime(self) -> timedelta:
        """The life of a leaf."""
        return timedelta(seconds=self.lifetime_seconds)


@dataclass(frozen=True)
class DrainConfig(Section):
    """`[drain]`: how long a drain may take when the operator gives no deadline."""

    deadline_seconds: float = 3600.0

    def validate(self) -> None:
        """Refuse deadlines that are over at once."""
        if not 1 <= self.deadline_seconds <= 30 * 86400:
            self.reject("deadline_seconds", self.deadline_seconds, "must be 1 s to 30 days")


@dataclass(frozen=True)
class GatewayConfig(Section):
    """`[gateway]`: what clusterai-gateway.service is given. Its listen lines are in files of their own.

    The ports are what clients and nodes are told. Without `directory` there is no gateway on this machine.
    """

    directory: Path = Path("/var/lib/clusterai-gateway")
    loopback_without_key: bool = False
    names: tuple[str, ...] = ()  # further DNS names and addresses for its certificate
    certificate: Path | None = None  # an own certificate chain and key (PEM) in place of one of the cluster's CA
    key: Path | None = None
    port: int = 11434
    https_port: int = 443
    status_port: int = 11436  # on 127.0.0.1: its state and metrics
    gate_port: int = 11443  # on every node with Ollama
    mirror_port: int = 11444

    def validate(self) -> None:
        """Refuse ports that are none, and half a certificate."""
        for key in ("port", "https_port", "status_port", "gate_port", "mirror_port"):
            if getattr(self, key) not in _PORTS[1:]:
                self.reject(key, getattr(self, key), "must be 1 to 65535")
        if (self.certificate is None) != (self.key is None):
            self.reject("certificate", self.certificate, "certificate and key go together")


@dataclass(frozen=True)
class RepositoryConfig(Section):
    """`[repository]`: the packages that nodes get from here. The gateway serves what lies in its `current`."""

    directory: Path = Path("/var/lib/clusterai-repo")
    keep_versions: int = 3  # of each package; older ones are withdrawn when a new one is added

    def validate(self) -> None:
        """Refuse to keep nothing."""
        if not 1 <= self.keep_versions <= 100:
            self.reject("keep_versions", self.keep_versions, "must be 1 to 100")


@dataclass(frozen=True)
class ModelsConfig(Section):
    """`[models]`: what every Ollama of the cluster is started with, and the administrator's own catalogue entries."""

    context_length: int = 8192  # tokens, for each request slot
    parallel: int = 2  # requests at a time for each loaded model
    keep_alive: str = "5m"  # how long a model stays in memory; "-1": for ever
    catalog_file: Path = Path("/etc/clusterai/models.toml")  # need not exist

    def validate(self) -> None:
        """Refuse what Ollama would not take."""
        if not 512 <= self.context_length <= 1 << 21:
            self.reject("context_length", self.context_length, "must be 512 to 2097152")
        if not 1 <= self.parallel <= 64:
            self.reject("parallel", self.parallel, "must be 1 to 64")
        if not re.fullmatch(r"-1|0|\d{1,6}(s|m|h)?", self.keep_alive):
            self.reject("keep_alive", self.keep_alive, 'must be a time such as "5m", "0" or "-1"')


@dataclass(frozen=True)
class LogConfig:
    """`[log]`."""

    level: LogLevel = LogLevel.INFO


@dataclass(frozen=True)
class DaemonConfig(Section):
    """All of it."""

    server: ServerConfig = field(default_factory=ServerConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    mobile: MobileConfig = field(default_factory=MobileConfig)
    local_node: LocalNodeConfig = field(default_factory=LocalNodeConfig)
    units: UnitsSection = field(default_factory=UnitsSection)
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    certificates: CertificateConfig = field(default_factory=CertificateConfig)
    drain: DrainConfig = field(default_factory=DrainConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    repository: RepositoryConfig = field(default_factory=RepositoryConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def validate(self) -> None:
        """Refuse two pools of one name or on one port."""
        if not self.mobile.enabled:
            return
        if self.pool.name == MOBILE:
            self.reject("pool.name", MOBILE, "it is the pool of the phones, which is enabled in [mobile]")
        taken = {self.pool.scheduler_port, self.pool.dashboard_port}
        for key in ("scheduler_port", "dashboard_port"):
            port = getattr(self.mobile, key)
            if port and port in taken:
                self.reject(f"mobile.{key}", port, "must differ from the ports of [pool] and from each other")
            taken.add(port)

    @property
    def pools(self) -> tuple[PoolConfig, ...]:
        """All pools, the main one first."""
        return (self.pool, self.mobile.pool(self.pool)) if self.mobile.enabled else (self.pool,)


def load_config(file: Path | None) -> DaemonConfig:
    """Return the configuration of the file; without one, that of the default file if it exists, else the defaults.

    Raises:
        ConfigError: unreadable, no TOML, an unknown key, or a value that makes no sense; names file, key and reason.
    """
    if file is None and not DEFAULT_FILE.exists():
        return DaemonConfig()
    file = file or DEFAULT_FILE
    return decode(DaemonConfig, read_toml(file), file=file)
