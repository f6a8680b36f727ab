"""What the gateway is measured with: a trivial back-end and plain nginx in front of it, and wrk."""

import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.measure import Costs
from bench.processes import STOP_SECONDS, move
from clusterai.pki import CertificateAuthority
from support.gateway import Gateway
from support.ports import free_ports

TURN_SECONDS = 0.2
_HEAD = """daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 8192; }}
http {{
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 1000000;
    client_max_body_size 64m;
"""
_BACK_END = """
    access_log off;
    client_body_buffer_size 1m;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {home}/gate.pem;
        ssl_certificate_key {home}/gate.pem;
        ssl_client_certificate {home}/ca.pem;
        ssl_verify_client on;
        location / {{
            default_type application/json;
            return 200 '{{"model":"llama3.2:3b","done":true,"prompt_eval_count":26,"eval_count":298}}';
        }}
    }}
}}
"""
_PLAIN = """
    log_format json escape=json '{{"time":"$time_iso8601","path":"$uri","node":"$upstream_addr","status":$status,'
        '"method":"$request_method","request_bytes":$request_length,"response_bytes":$bytes_sent,'
        '"first_byte_seconds":"$upstream_header_time","total_seconds":$request_time,"client":"$remote_addr"}}';
    access_log {home}/access.log json;
    client_body_buffer_size 64k;
    upstream gates {{
        server 127.0.0.1:{back_end};
        server 127.0.0.1:{back_end};
        keepalive 256;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Host localhost;
        proxy_set_header Connection "";
        proxy_buffering off;
        proxy_ssl_certificate {state}/gateway.pem;
        proxy_ssl_certificate_key {state}/gateway.pem;
        proxy_ssl_trusted_certificate {state}/cluster-ca.pem;
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 2;
        proxy_ssl_name {name};
        proxy_ssl_server_name on;
        location / {{ proxy_pass https://gates; }}
    }}
    server {{
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {state}/gateway.pem;
        ssl_certificate_key {state}/gateway.pem;
        ssl_client_certificate {state}/cluster-ca.pem;
        ssl_verify_client on;
        sendfile on;
        root {home}/files;
    }}
}}
"""
_SCRIPT = """
local body = io.open("{body}"):read("*a")
wrk.method = #body > 0 and "POST" or "GET"
wrk.body = #body > 0 and body or nil
wrk.headers["Authorization"] = "Bearer {key}"
wrk.headers["Content-Type"] = "application/json"
function done(summary, latency)
    local errors, form = summary.errors, 'RESULT {{"requests":%d,"seconds":%f,"failed":%d,"p50":%f,"p99":%f}}'
    local failed = errors.status + errors.connect + errors.read + errors.timeout
    local p50, p99 = latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
    print(form:format(summary.requests, summary.duration / 1e6, failed, p50, p99))
end
"""


class _Nginx:
    """An nginx with a configuration of its own in a directory of its own; leaving the block ends it."""

    def __init__(self, home: Path, text: str, processors: frozenset[int]) -> None:
        self.home, self._processors = home, processors
        (home / "nginx.conf").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(["/usr/sbin/nginx", "-e", "stderr", "-c", str(self.home / "nginx.conf")])
        deadline = time.monotonic() + 20
        while not self.worker_ids():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("nginx does not start")
            time.sleep(0.02)
        for process_id in (self._process.pid, *self.worker_ids()):
            move(process_id, self._processors)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(STOP_SECONDS)

    def worker_ids(self) -> list[int]:
        """Return the process ids of its workers."""
        assert self._process is not None
        process_id = self._process.pid
        return [int(child) for child in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


class BackEnd(_Nginx):
    """A gate with an Ollama that answers at once."""

    def __init__(
        self, directory: Path, authority: CertificateAuthority, pem: bytes, processors: frozenset[int]
    ) -> None:
        home, (self.port,) = directory / "back-end", free_ports(1)
        home.mkdir()
        (home / "gate.pem").write_bytes(pem)
        (home / "ca.pem").write_bytes(authority.cert_pem)
        super().__init__(home, (_HEAD + _BACK_END).format(home=home, port=self.port), processors)


class Plain(_Nginx):
    """What the gateway is compared with: round-robin with the same TLS and log; files over TLS."""

    def __init__(self, directory: Path, gateway: Gateway, back_end: int, name: str, processors: frozenset[int]) -> None:
        home, (self.port, self.tls_port) = directory / "plain", free_ports(2)
        home.mkdir()
        text = (_HEAD + _PLAIN).format(
            home=home, port=self.port, tls_port=self.tls_port, state=gateway.state, back_end=back_end, name=name
        )
        super().__init__(home, text, processors)

    def serve(self, root: Path) -> None:
        """Serve the files below the directory."""
        (self.home / "files").symlink_to(root)


@dataclass(frozen=True)
class Load:
    """What came of a load on one nginx worker."""

    per_second: float
    cpu_microseconds: float
    p50_milliseconds: float
    p99_milliseconds: float
    failed: int


def wrk(
    worker: int, url: str, body: str, key: str, *, connections: int, seconds: int, processors: frozenset[int]
) -> Load:
    """Send requests for so long to the URL, which that nginx worker process serves. An empty body: GET."""
    _run(url, body, key, connections, 1, processors)  # it warms up: connections are made, code is compiled
    before = Costs.of(worker).cpu_seconds
    said = _run(url, body, key, connections, seconds, processors)
    cpu, requests = Costs.of(worker).cpu_seconds - before, said["requests"]
    return Load(requests / said["seconds"], cpu / requests * 1e6, said["p50"], said["p99"], said["failed"])


def wrk_in_turns(
    targets: Mapping[int, str], body: str, key: str, *, connections: int, seconds: int, processors: frozenset[int]
) -> list[Load]:
    """Load all targets, URLs by worker process, and let one worker run at a time, the others stopped by signal.

    Each has the processor to itself, and all meet the same machine, whose speed changes within seconds. The latencies
    that come of it are of no use.
    """
    workers = list(targets)
    before = [Costs.of(worker).cpu_seconds for worker in workers]
    ran = dict.fromkeys(workers, 0.0)
    with _stopped(workers), ExitStack() as stack:
        running = [
            stack.enter_context(
                running_wrk(url, body, key, connections=connections, seconds=seconds, processors=processors)
            )
            for url in targets.values()
        ]
        for worker in itertools.cycle(workers):
            if any(process.poll() is not None for process in running):
                break
            begun = time.monotonic()
            os.kill(worker, signal.SIGCONT)
            time.sleep(TURN_SECONDS)
            os.kill(worker, signal.SIGSTOP)
            ran[worker] += time.monotonic() - begun
        results = [_said(process, seconds) for process in running]
    loads = []
    for worker, cpu_before, said in zip(workers, before, results, strict=True):
        cpu, requests = Costs.of(worker).cpu_seconds - cpu_before, said["requests"]
        loads.append(Load(requests / ran[worker], cpu / requests * 1e6, said["p50"], said["p99"], said["failed"]))
    return loads


@contextmanager
def _stopped(process_ids: Iterable[int]) -> Iterator[None]:
    """Stop the processes, by signal; they go on after the block."""
    for process_id in process_ids:
        os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        for process_id in process_ids:
            os.kill(process_id, signal.SIGCONT)


def _run(url: str, body: str, key: str, connections: int, seconds: int, processors: frozenset[int]) -> dict[str, Any]:
    with running_wrk(url, body, key, connections=connections, seconds=seconds, processors=processors) as process:
        return _said(process, seconds)


def _said(process: subprocess.Popen[str], seconds: int) -> dict[str, Any]:
    return dict(json.loads(process.communicate(timeout=seconds + 60)[0].rpartition("RESULT ")[2]))


@contextmanager
def running_wrk(
    url: str, body: str, key: str, *, connections: int, processors: frozenset[int], seconds: int = 600
) -> Iterator[subprocess.Popen[str]]:
    """Run wrk until the end of the block, or its own."""
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name:
        (Path(name) / "body").write_text(body)
        script = Path(name) / "wrk.lua"
        script.write_text(_SCRIPT.format(body=Path(name) / "body", key=key))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        move(process.pid, processors)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
