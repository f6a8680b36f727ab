"""The directory of `clusteraid local`: who owns it, where things lie, and the configuration made for it."""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clusterai.credentials import chain_pem, save_credentials
from clusterai.errors import ClusterAIError, Status
from clusterai.files import BadFile, CannotWrite, load_json, write_atomic
from clusterai.v1.worker_pb2 import IssueDaskClientResponse
from clusteraid.local_ports import HOST, claimed_ports

_SOCKET_LIMIT = 90  # a Unix socket's path has at most 107 bytes (unix(7)); the longest name below takes 16
_PREFERRED = {"port": 17443, "enrollment_port": 17444, "scheduler_port": 18786, "dashboard_port": 18787}
_PORTS = range(1024, 1 << 15)  # above are those that the kernel gives to outgoing connections


class AlreadyRunning(ClusterAIError):
    code, status = "already-running", Status.CONFLICT
    message = "a local cluster already runs in {directory} (process {process_id})"
    hint = "use it: `. {directory}/dask.env`; or start another one with --state DIR"


@dataclass(frozen=True)
class LocalOptions:
    """What the command line asks for. Empty or 0: the default."""

    state: Path
    workers: int = 0
    threads: int = 0
    python: str = ""
    index_url: str = ""
    wheels: Path | None = None
    command: tuple[str, ...] = ()
    stay: bool = False


def default_state() -> Path:
    """Return ~/.local/share/clusterai/local, or its place below XDG_DATA_HOME."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()) / "clusterai" / "local"


@dataclass(frozen=True)
class LocalState:
    """The state directory S and what lies in it."""

    directory: Path

    @property
    def run(self) -> Path:
        """Sockets and the token: S/run, or a short path elsewhere when S is too long for a socket."""
        run = self.directory / "run"
        if len(os.fsencode(run)) <= _SOCKET_LIMIT:
            return run
        name = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"clusterai-{os.getuid()}-{name}"

    @property
    def socket(self) -> Path:
        """The daemon's local socket."""
        return self.run / "clusteraid.sock"

    @property
    def token(self) -> Path:
        """What the agent joins with, once: the daemon writes it."""
        return self.run / "local.token"

    @property
    def agent_can_join(self) -> bool:
        """Whether the agent has an identity, or the means to get one."""
        return self.token.exists() or (self.directory / "agent/node.pem").exists()

    @property
    def logs(self) -> Path:
        """The logs of daemon and agent."""
        return self.directory / "logs"

    @property
    def daemon_config(self) -> Path:
        """The generated clusteraid.toml."""
        return self.directory / "clusteraid.toml"

    @property
    def agent_config(self) -> Path:
        """The generated agent.toml."""
        return self.directory / "agent.toml"

    @property
    def dask_env(self) -> Path:
        """Lines for a shell that make `Client()` connect."""
        return self.directory / "dask.env"

    def environment(self, environment_hash: str) -> Path:
        """The compute environment of this hash."""
        return self.directory / "compute" / "env" / environment_hash

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the directory and own it until the block ends; the kernel gives it back when this process dies.

        Raises:
            AlreadyRunning: another process owns it.
            CannotWrite: it cannot be made.
        """
        lock = self.directory / "lock"
        try:
            for part in (self.directory, self.logs):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._link_logs()
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotWrite(lock, error) from error
        try:
            self._take(descriptor)
            self._make_run()
            yield
            shutil.rmtree(self.run, ignore_errors=True)
        finally:
            os.close(descriptor)

    def _link_logs(self) -> None:
        """Put the programs' own logs where `clusteractl logs` looks for those of their units."""
        for owner, unit, program in (("units", "clusteraid", "daemon"), ("agent", "clusterai-agent", "agent")):
            link = self.directory / owner / "logs" / f"{unit}.service.log"
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(self.logs / f"{program}.log")

    def _make_run(self) -> None:
        """Make the directory of sockets; where others may write, one that they made does not serve."""
        try:
            self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.run.lstat()
        except OSError as error:
            raise CannotWrite(self.run, error) from error
        if owner.st_uid != os.getuid() or not stat.S_ISDIR(owner.st_mode) or stat.S_IMODE(owner.st_mode) & 0o077:
            raise BadFile(self.run, "it is not a directory of yours alone", f"remove it: rm -r {self.run}")

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise AlreadyRunning(directory=self.directory, process_id=owner or "unknown") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    @contextlib.contextmanager
    def configured(self, options: LocalOptions) -> Iterator[None]:
        """Write the configuration of daemon and agent; its ports, the last run's if free, are ours until the end."""
        with claimed_ports(self._last_ports()) as ports:
            write_atomic(self.directory / "ports.json", json.dumps(ports).encode())
            write_atomic(self.daemon_config, _toml(self._daemon_tables(options, ports)).encode())
            write_atomic(self.agent_config, _toml(self._agent_tables(options, ports)).encode())
            yield

    def _last_ports(self) -> Mapping[str, int]:
        try:
            last = load_json(self.directory / "ports.json")
        except BadFile:
            return _PREFERRED
        kept = {name: port for name, port in last.items() if type(port) is int and port in _PORTS}
        return {name: kept.get(name, other) for name, other in _PREFERRED.items()}

    def _daemon_tables(self, options: LocalOptions, ports: Mapping[str, int]) -> Mapping[str, Mapping[str, object]]:
        compute = self.directory / "compute"
        server = {
            "listen": HOST, "port": ports["port"], "enrollment_port": ports["enrollment_port"],
            "socket": self.socket, "state_directory": self.directory / "daemon", "advertise": [HOST],
        }  # fmt: skip
        pool = {
            "python": options.python, "scheduler_host": HOST, "scheduler_port": ports["scheduler_port"],
            "dashboard_port": ports["dashboard_port"], "scheduler_directory": self.directory / "scheduler",
            "compute_directory": compute, "runtime_directory": self.run,
        }  # fmt: skip
        return {
            "server": server,
            "pool": pool,
            "local_node": {"enroll": True, "token_file": self.token},
            "units": {"back_end": "process", "state_directory": self.directory / "units", "stop_on_exit": True},
            "discovery": {"announce": False},
            "gateway": {"directory": self.directory / "gateway"},  # never that of a server on this machine
        }

    def _agent_tables(self, options: LocalOptions, ports: Mapping[str, int]) -> Mapping[str, Mapping[str, object]]:
        server = {
            "addresses": [f"{HOST}:{ports['port']}"], "discover": False,
            "local_token_file": self.token,
        }  # fmt: skip
        state = {
            "directory": self.directory / "agent", "compute_directory": self.directory / "compute",
            "scratch_directory": self.directory / "dask",
        }  # fmt: skip
        index = {"index_url": options.index_url, "offline": options.wheels is not None}
        return {
            "server": server,
            "state": state,
            "units": {"back_end": "process", "stop_on_exit": True},
            "worker": {"count": options.workers, "threads": options.threads, "contact_address": HOST},
            "environment": index | ({"wheel_directory": options.wheels.absolute()} if options.wheels else {}),
        }

    def write_dask_env(self, reply: IssueDaskClientResponse, key_pem: bytes) -> dict[str, str]:
        """Write the client's certificate and dask.env; return the variables that make `Client()` connect."""
        client = self.directory / "client"
        client.mkdir(mode=0o700, exist_ok=True)
        certificate, authority = client / "dask.pem", client / "dask-ca.pem"
        save_credentials(certificate, key_pem, chain_pem(reply.certificate_chain_der))
        write_atomic(authority, reply.ca_bundle_pem)
        variables = dask_variables(reply.scheduler_address, certificate, authority)
        variables["DASK_TEMPORARY_DIRECTORY"] = str(self.directory / "dask")
        programs = self.environment(reply.environment.environment_hash) / "bin"
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        head = "# For a shell: . dask.env; then `python` and Dask's Client() are the cluster's."
        text = "\n".join([head, *lines, f"export PATH={shlex.quote(str(programs))}:$PATH\n"])
        write_atomic(self.dask_env, text.encode())
        return variables | {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def dask_variables(scheduler_address: str, certificate: Path, authority: Path) -> dict[str, str]:
    """Return Dask's configuration as environment variables."""
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    return {
        "DASK_SCHEDULER_ADDRESS": scheduler_address,
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        f"{tls}CA_FILE": str(authority),
        f"{tls}CLIENT__CERT": str(certificate),
        f"{tls}CLIENT__KEY": str(certificate),
    }


def program(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our programs with this very Python and these modules."""
    return [sys.executable, "-P", "-m", module, *arguments]


def _toml(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Tables of plain values as TOML: a JSON string, list of strings, number or boolean is one of TOML as well."""
    lines = ["# Written by `clusteraid local` at each start."]
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        for key, value in table.items():
            plain = str(value) if isinstance(value, Path) else value
            lines.append(f"{key} = {json.dumps(plain, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
