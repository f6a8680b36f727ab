"""The two tunnels of a node with Ollama, both stunnel: the gate, which lets the gateway in, and the way to the mirror.

Their launch files are data that the agent writes. stunnel's own configuration can load modules and start programs, so
it is made here, from checked values, where the agent cannot write it.
"""

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from clusterai.files import CannotWrite, write_atomic
from clusterai.launch_spec import Launch, is_address, is_host

_PORTS = range(1, 1 << 16)
_CONNECT_SECONDS, _HANDSHAKE_SECONDS, _CLOSE_SECONDS = 5, 30, 10
_IDLE_SECONDS = 86400  # a model may load for long, and a stream pause: Ollama and nginx have their own limits
_COMMON = {
    "foreground": "yes",
    "pid": "",
    "syslog": "no",
    "debug": "warning",
}


def stunnel() -> str | None:
    """Return the program; None where it is not installed."""
    return next(filter(None, map(shutil.which, ("stunnel", "stunnel4"))), None)


class _Tunnel(Launch):
    """What both have: own key and certificate, the CA, and the only name that the other side may have."""

    certificate: Path
    ca: Path
    peer_name: str

    @property
    def kind(self) -> str:
        """Names the section and the file."""
        raise NotImplementedError

    def ends(self) -> dict[str, str]:
        """Return where it listens and where it leads."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse values that make no sense."""
        self.require(is_host(self.peer_name) and self.peer_name, "peer_name", "not a name")
        self.check_paths()

    def check_presence(self) -> None:
        """Refuse when stunnel or a file is not there."""
        self.require(stunnel(), "(program)", "stunnel is not installed: `sudo apt install stunnel4`")
        self.require_readable("certificate", "ca")

    def configuration(self) -> str:
        """Return stunnel's configuration."""
        service = self.ends() | {
            "cert": str(self.certificate),
            "CAfile": str(self.ca),
            "verifyChain": "yes",
            "checkHost": self.peer_name,
            "sslVersionMin": "TLSv1.2",
            "sessionResume": "no",  # a resumed session would not be verified again
            "TIMEOUTbusy": str(_HANDSHAKE_SECONDS),
            "TIMEOUTconnect": str(_CONNECT_SECONDS),
            "TIMEOUTclose": str(_CLOSE_SECONDS),
            "TIMEOUTidle": str(_IDLE_SECONDS),
        }
        lines = [*_lines(_COMMON), f"[{self.kind}]", *_lines(service)]
        return "\n".join(lines) + "\n"

    @property
    def file(self) -> Path:
        """Where stunnel reads it, at its start and on SIGHUP: in the unit's runtime directory where there is one."""
        return Path(os.environ.get("RUNTIME_DIRECTORY", self.certificate.parent)) / f"{self.kind}.conf"

    def prepare(self) -> None:
        """Write stunnel's configuration."""
        try:
            write_atomic(self.file, self.configuration().encode())
        except CannotWrite as error:
            raise OSError(str(error)) from error

    def command(self) -> list[str]:
        """Return the command that is exec'ed."""
        return [stunnel() or "stunnel", str(self.file)]


@dataclass(frozen=True)
class GateLaunch(_Tunnel):
    """TLS from the gateway on `port`, plain to Ollama on this machine. An empty host listens on all addresses."""

    host: str
    port: int
    ollama_address: str
    certificate: Path
    ca: Path
    peer_name: str

    kind = "gate"

    def check(self) -> None:
        """Refuse values that make no sense."""
        super().check()
        self.require(not self.host or is_host(self.host), "host", "not a host")
        self.require(self.port in _PORTS, "port", "must be 1 to 65535")
        self.require(is_address(self.ollama_address), "ollama_address", "must be HOST:PORT")

    def ends(self) -> dict[str, str]:
        """Return where it listens and where it leads."""
        accept = f"{self.host or _everywhere()}:{self.port}"
        return {"accept": accept, "connect": _plain(self.ollama_address)}


@dataclass(frozen=True)
class MirrorLaunch(_Tunnel):
    """Plain from this machine's Ollama on 127.0.0.1, TLS to the server's copies of models."""

    port: int
    server_address: str
    certificate: Path
    ca: Path
    peer_name: str

    kind = "mirror"

    def check(self) -> None:
        """Refuse values that make no sense."""
        super().check()
        self.require(self.port in _PORTS, "port", "must be 1 to 65535")
        self.require(is_address(self.server_address), "server_address", "must be HOST:PORT")

    def ends(self) -> dict[str, str]:
        """Return where it listens and where it leads."""
        accept = f"127.0.0.1:{self.port}"
        return {"client": "yes", "accept": accept, "connect": _plain(self.server_address), "sni": self.peer_name}


def _everywhere() -> str:
    """All addresses of both families; of IPv4 alone where the kernel has no other."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return "0.0.0.0"
    return "::"


def _plain(address: str) -> str:
    """HOST:PORT as stunnel reads it: the port is after the last colon, and there are no brackets."""
    return address.replace("[", "").replace("]", "")


def _lines(options: dict[str, str]) -> list[str]:
    return [f"{name} = {value}" for name, value in options.items()]
