"""The agent's configuration: agent.toml, every key with a default."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from clusterai.config import Section, decode, read_toml
from clusterai.logs import LEVELS
from clusterai.policy import MachineClass
from clusterai.termux import is_android
from clusterai_agent.addresses import Address, is_loopback
from clusterai_agent.places import places

_PHONE_MEMORY_FRACTION = 0.5  # Android's own apps need the other half


class BackEnd(Enum):
    """Who runs units on this machine."""

    SYSTEMD = "systemd"
    PROCESS = "process"


@dataclass(frozen=True)
class ServerSection(Section):
    """Where the server is. `addresses` are HOST[:PORT] of the mTLS port; the token is for the server's own agent."""

    addresses: tuple[str, ...] = ()
    discover: bool = True
    local_token_file: Path = Path("/run/clusterai-local/token")

    def validate(self) -> None:
        for text in self.addresses:
            if Address.parse(text) is None:
                self.reject("addresses", text, "must be HOST or HOST:PORT, an IPv6 address in brackets")

    @property
    def is_local(self) -> bool:
        """Whether the configured server is this very machine."""
        hosts = [address.host for text in self.addresses if (address := Address.parse(text))]
        return bool(hosts) and all(is_loopback(host) for host in hosts)


@dataclass(frozen=True)
class NodeSection:
    """What this machine wants to be called; empty: its host name."""

    name: str = ""


@dataclass(frozen=True)
class StateSection:
    """Where things lie. `runtime_directory` holds what everybody may read; packaged: /run/clusterai-agent."""

    directory: Path = field(default_factory=lambda: places().state)
    compute_directory: Path = field(default_factory=lambda: places().compute)
    scratch_directory: Path = field(default_factory=lambda: places().scratch)
    gate_directory: Path | None = None  # default: /var/lib/clusterai-gate, or `gate` in another state directory
    runtime_directory: Path | None = None

    @property
    def gate(self) -> Path:
        """Where what the gate's user may read lies."""
        packaged = places().gate if self.directory == places().state else self.directory / "gate"
        return self.gate_directory or packaged

    @property
    def shown_in(self) -> Path:
        """Where the running agent says how it is."""
        packaged = places().runtime if self.directory == places().state else self.directory
        return self.runtime_directory or packaged


@dataclass(frozen=True)
class UnitsSection:
    """The back-end for worker units; `stop_on_exit` ends the workers with the agent (process back-end only).

    On a phone it does: whoever stops the service wants no worker that goes on.
    """

    back_end: BackEnd = field(default_factory=lambda: BackEnd.PROCESS if is_android() else BackEnd.SYSTEMD)
    stop_on_exit: bool = field(default_factory=is_android)


@dataclass(frozen=True)
class WorkerSection(Section):
    """What workers may take of this machine. 0 leaves the choice to the server; a phone has one worker."""

    enabled: bool = True
    count: int = field(default_factory=lambda: int(is_android()))
    threads: int = 0
    memory_fraction: float = field(default_factory=lambda: _PHONE_MEMORY_FRACTION if is_android() else 0.6)
    contact_address: str = ""

    def validate(self) -> None:
        if not 0 <= self.count <= 1024:
            self.reject("count", self.count, "must be 0 to 1024")
        if not 0 <= self.threads <= 4096:
            self.reject("threads", self.threads, "must be 0 to 4096")
        if not 0.05 <= self.memory_fraction <= 0.95:
            self.reject("memory_fraction", self.memory_fraction, "must be 0.05 to 0.95")


@dataclass(frozen=True)
class EnvironmentSection:
    """Where the compute environment's packages and its Python come from."""

    index_url: str = ""
    wheel_directory: Path | None = None
    offline: bool = False
    python: Path | None = None


@dataclass(frozen=True)
class OllamaSection(Section):
    """The Ollama of this machine. `enabled = false`: it is not looked at, and the server hears nothing of it.

    An empty address, and no models directory: found by itself. `mirror_port` is where Ollama finds the server's copies.
    Phones serve no models.
    """

    enabled: bool = field(default_factory=lambda: not is_android())
    address: str = ""
    models_directory: Path | None = None
    mirror_port: int = 11445

    def validate(self) -> None:
        if self.address and ((parsed := Address.parse(self.address)) is None or not parsed.port):
            self.reject("address", self.address, "must be HOST:PORT, an IPv6 address in brackets")
        if not 1 <= self.mirror_port < 1 << 16:
            self.reject("mirror_port", self.mirror_port, "must be 1 to 65535")


@dataclass(frozen=True)
class PolicySection:
    """What class of machine this is, where it is not the one that the machine shows."""

    machine_class: MachineClass | None = None


@dataclass(frozen=True)
class LogSection(Section):
    """How much the agent logs."""

    level: str = "info"

    def validate(self) -> None:
        if self.level not in LEVELS:
            self.reject("level", self.level, f"must be one of {', '.join(LEVELS)}")


@dataclass(frozen=True)
class AgentConfig:
    """All of agent.toml."""

    server: ServerSection = field(default_factory=ServerSection)
    node: NodeSection = field(default_factory=NodeSection)
    state: StateSection = field(default_factory=StateSection)
    units: UnitsSection = field(default_factory=UnitsSection)
    worker: WorkerSection = field(default_factory=WorkerSection)
    environment: EnvironmentSection = field(default_factory=EnvironmentSection)
    ollama: OllamaSection = field(default_factory=OllamaSection)
    policy: PolicySection = field(default_factory=PolicySection)
    log: LogSection = field(default_factory=LogSection)


def load_config(file: Path | None) -> AgentConfig:
    """Return the file's configuration; without a file named, the default file's, or the defaults where there is none.

    Raises:
        ConfigError: names file, key, value and reason.
    """
    if file is None and not places().config.exists():
        return AgentConfig()
    path = file or places().config
    return decode(AgentConfig, read_toml(path), file=path)
