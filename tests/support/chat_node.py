"""A node that chats, as processes: the double of Ollama and before it the real gate (stunnel)."""

import http.client
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from clusterai.models import GATEWAY_NAME
from clusterai.pki import CertificateAuthority
from clusterai.tunnels import GateLaunch
from fakes.registry import MadeModel
from support.children import Child
from support.gateway import gate_certificate
from support.ports import free_ports
from support.tree import ROOT

_START_SECONDS = 60.0


class ChatNode:
    """One node: `port` is its gate's."""

    def __init__(
        self, directory: Path, name: str, authority: CertificateAuthority, models: Iterable[MadeModel]
    ) -> None:
        self.name = name
        self._home = directory / name
        self._home.mkdir()
        self.port, self._ollama_port = free_ports(2)
        for model in models:
            model.install(self._home / "models")
        (self._home / "gate.pem").write_bytes(gate_certificate(authority, name))
        (self._home / "ca.pem").write_bytes(authority.cert_pem)
        self._ollama, self._gate = self._made_ollama(), self._made_gate()

    def _made_ollama(self) -> Child:
        own = {
            "OLLAMA_HOST": f"127.0.0.1:{self._ollama_port}", "OLLAMA_MODELS": str(self._home / "models"),
            "OLLAMA_NUM_PARALLEL": "4", "PYTHONPATH": str(ROOT / "tests"), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        command = ["/usr/bin/python3", "-m", "fakes.ollama", "serve"]
        return Child(command, self._home / "ollama.log", variables={**os.environ, **own})

    def _made_gate(self) -> Child:
        certificate, ca = self._home / "gate.pem", self._home / "ca.pem"
        ollama = f"127.0.0.1:{self._ollama_port}"
        launch = GateLaunch("127.0.0.1", self.port, ollama, certificate, ca, GATEWAY_NAME)
        launch.prepare()
        return Child(launch.command(), self._home / "gate.log")

    def start(self) -> None:
        """Start both and wait until both listen."""
        for child, port in ((self._ollama, self._ollama_port), (self._gate, self.port)):
            child.start()
            child.wait_until(lambda port=port: _listens(port), _START_SECONDS)  # type: ignore[misc]

    @property
    def runs(self) -> bool:
        """Whether its plug is in."""
        return self._gate.runs

    def kill(self) -> None:
        """Pull its plug."""
        self._gate.kill()
        self._ollama.kill()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask its Ollama itself, past the gate: JSON in, JSON out."""
        with closing(http.client.HTTPConnection("127.0.0.1", self._ollama_port, timeout=30)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body))
            return json.load(connection.getresponse())

    def behave(self, **faults: object) -> None:
        """Tell its Ollama how to behave (fakes.ollama.Faults)."""
        self.ask("POST", "/fake/faults", faults)

    def requests(self, path: str) -> list[dict[str, Any]]:
        """Return what its Ollama was asked for on this path."""
        return [seen for seen in self.ask("GET", "/fake/state")["requests"] if seen["path"] == path]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def chat_nodes(
    directory: Path, authority: CertificateAuthority, *names: str, models: Iterable[MadeModel]
) -> Iterator[dict[str, ChatNode]]:
    """Yield nodes that run, all with the same models."""
    made = tuple(models)
    nodes = {name: ChatNode(directory, name, authority, made) for name in names}
    try:
        for node in nodes.values():
            node.start()
        yield nodes
    finally:
        for node in nodes.values():
            node.kill()
