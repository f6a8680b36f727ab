"""The real gateway for tests: nginx with the repository's configuration, on free ports, with a cluster's certificates.

    with running_gateway(tmp_path) as gateway:
        gateway.write_routes(routes({"tower": port}, {"llama3.2:3b": {"tower": {"loaded": True, "fit": 1}}}))
        gateway.write_keys({SECRET: {"id": "k3v7q2xa"}})

`gateway.port` speaks plain HTTP to this machine, `gateway.tls_port` HTTPS; `https_port` is for browsers.
"""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from clusterai.files import write_atomic
from clusterai.models import GATEWAY_NAME, MIRROR_NAME, gate_name
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from support.journal import Journal
from support.ports import free_ports
from support.tree import ROOT

START_SECONDS, STOP_SECONDS = 30.0, 15.0
CLUSTER = "spiffe://11111111-2222-4333-8444-555555555555"
_NGINX = "/usr/sbin/nginx"


def certificate(
    authority: CertificateAuthority,
    kind: str,
    *names: str,
    lifetime: timedelta = timedelta(days=7),
    client: bool = True,
) -> bytes:
    """Return key and chain in one text, of a kind such as `gateway`, `web` or `gate/<node-id>`."""
    key = new_key()
    issued = authority.issue(
        new_csr(key), f"{CLUSTER}/{kind}", lifetime=lifetime, dns=names, server=True, client=client
    )
    return key_pem(key) + issued.chain_pem


def gate_certificate(authority: CertificateAuthority, node_id: str, **options: Any) -> bytes:
    """Return key and chain of a node's gate."""
    return certificate(authority, f"gate/{node_id}", gate_name(node_id), **options)


def routes(
    nodes: Mapping[str, int] | None = None,
    models: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    *,
    generation: int = 1,
    slots: int = 2,
    **changed: Any,
) -> dict[str, Any]:
    """Return a routes.json: nodes by port on 127.0.0.1, models by what each node has; `changed` are top-level keys."""
    listed = [{"name": name, "model": name, "size": 1, "modified_at": "2026-01-02T03:04:05Z"} for name in models or {}]
    gates = {
        node: {"host": "127.0.0.1", "port": port, "slots": slots}
        for node, port in (nodes or {}).items()
    }
    known = {
        name: {"digest": "ab" * 32, "nodes": dict(copies), "reason": "", "retry_after_seconds": 0}
        for name, copies in (models or {}).items()
    }
    return {
        "format": 1,
        "generation": generation,
        "settings": {"loopback_without_key": False, "mirror_bytes_per_second": 0},
        "nodes": gates,
        "models": known,
        "listing": {"version": "0.31.1", "tags": listed, "ps": []},
        "mirror": {"root": ""},
        "revoked_serials": [],
        **changed,
    }


@dataclass
class Gateway:
    """A gateway in a directory of its own. It can be killed, started again and reloaded."""

    directory: Path
    authority: CertificateAuthority
    workers: int = 1
    ports: list[int] = field(default_factory=lambda: free_ports(6))
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.port, self.tls_port, self.https_port, self.mirror_port, self.status_port = self.ports[:5]
        self.dashboard_port = self.ports[5]  # nobody listens there until a test does, nor here:
        self.webui_socket = self.directory / "w.sock"
        self.repository = self.directory / "repo"  # there is none until a test makes it
        self.state, self.listens = self.directory / "state", self.directory / "listen"
        self.log, self.access_log = self.directory / "error.log", self.directory / "access.log"
        self.journal = Journal(self.directory / "j.sock", self.access_log)
        for path in (self.state, self.listens, self.directory / "run", self.directory / "cache"):
            path.mkdir()
        (self.state / "cluster-ca.pem").write_bytes(self.authority.cert_pem)
        self.renew()
        self._configure()

    def renew(self) -> None:
        """Make the gateway's two certificates, anew if they are there."""
        names = (GATEWAY_NAME, MIRROR_NAME)
        web = certificate(self.authority, "web", "localhost", "127.0.0.1", client=False)
        write_atomic(self.state / "gateway.pem", certificate(self.authority, "gateway", *names), mode=0o600)
        write_atomic(self.state / "web.pem", web, mode=0o600)

    def _configure(self) -> None:
        """Copy the shipped configuration with this gateway's paths and ports in the place of the installed ones."""
        home = self.directory / "gateway"
        home.mkdir()
        text = (ROOT / "nginx/nginx.conf").read_text()
        for shipped, here in self._replacements().items():
            assert shipped in text, f"nginx.conf says nothing of {shipped}"
            text = text.replace(shipped, str(here))
        (home / "nginx.conf").write_text(text if os.geteuid() else f"user root;\n{text}")
        (home / "routed.conf").write_text((ROOT / "nginx/routed.conf").read_text())
        plain, secure = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.tls_port}"
        self._listen("gateway", f"{plain}", f"{secure} ssl http2")
        self._listen("https", f"127.0.0.1:{self.https_port} ssl http2")
        self._listen("mirror", f"127.0.0.1:{self.mirror_port} ssl")
        self._listen("status", f"127.0.0.1:{self.status_port}")

    def _replacements(self) -> dict[str, object]:
        return {
            "/usr/share/clusterai/gateway": ROOT / "nginx",
            "/etc/clusterai/gateway": self.listens,
            "/var/lib/clusterai-gateway": self.state,
            "/var/lib/clusterai-repo": self.repository,
            "/run/clusterai-gateway": self.directory / "run",
            "/var/cache/clusterai-gateway": self.directory / "cache",
            "/run/systemd/journal/stdout": self.journal.path,
            "worker_processes auto": f"worker_processes {self.workers}",
            "/run/open-webui/http.sock": self.webui_socket,
            "127.0.0.1:8787": f"127.0.0.1:{self.dashboard_port}",
        }

    def _listen(self, name: str, *lines: str) -> None:
        (self.listens / f"listen-{name}.conf").write_text("".join(f"listen {line};\n" for line in lines))

    @property
    def command(self) -> list[str]:
        """The command that runs it, as in its unit."""
        return [_NGINX, "-e", "stderr", "-c", str(self.directory / "gateway/nginx.conf")]

    def write_routes(self, table: Mapping[str, Any] | str) -> None:
        """Replace routes.json, as the daemon does; a text is written as it is."""
        self._write("routes.json", table)

    def write_keys(self, keys: Mapping[str, Mapping[str, Any]] | str, generation: int = 1) -> None:
        """Replace keys.json: what is known of each key, by the whole key; a text is written as it is."""
        if not isinstance(keys, str):
            by_hash = {hashlib.sha256(key.encode()).hexdigest(): known for key, known in keys.items()}
            self._write("keys.json", {"format": 1, "generation": generation, "keys": by_hash})
        else:
            self._write("keys.json", keys)

    def _write(self, name: str, content: Mapping[str, Any] | str) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        write_atomic(self.state / name, text.encode(), mode=0o640)

    def start(self) -> None:
        """Start it and wait until it answers, and each worker has its stream to the journal."""
        self.journal.start()
        streams = len(self.journal.heads) + self.workers
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers() or len(self.journal.heads) < streams:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"nginx does not answer: {self.errors()}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            self.status()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def test(self) -> subprocess.CompletedProcess[str]:
        """Run `nginx -t` on the configuration, as the unit does before every start and reload."""
        return subprocess.run([*self.command, "-t"], capture_output=True, text=True, timeout=START_SECONDS, check=False)

    def reload(self) -> None:
        """Do what `systemctl reload` does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """End all its processes as a power cut would."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Ask it to end at once, streams and all; none of its processes is left."""
        try:
            if self.process is not None:
                self._stop(self.process)
        finally:
            self.journal.stop()

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        process.terminate()  # nothing, when it has ended
        try:
            process.wait(STOP_SECONDS)
        finally:
            with suppress(ProcessLookupError):  # a worker may outlive its master
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)

    def status(self, path: str = "/status") -> Any:
        """Return what /status says, or the text of /metrics."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=10)) as connection:
            connection.request("GET", path)
            text = connection.getresponse().read().decode()
        return json.loads(text) if path == "/status" else text

    def worker_ids(self) -> list[int]:
        """Return the process ids of nginx's workers."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the access log's lines so far."""
        if not self.access_log.exists():
            return []
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]

    def errors(self) -> str:
        """Return the end of the error log."""
        return self.log.read_text()[-4000:] if self.log.exists() else ""


@contextmanager
def running_gateway(
    directory: Path, *, workers: int = 1, authority: CertificateAuthority | None = None
) -> Iterator[Gateway]:
    """Yield a gateway that runs; it has no routes and no keys until it is given some."""
    home = directory / "gw"
    home.mkdir()
    gateway = Gateway(home, authority or CertificateAuthority.create("test cluster", CLUSTER), workers)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()
