"""What a Dask client needs, as environment lines and as YAML; the key and certificate on disk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from clusteractl.target import Local, Target
from clusteractl.views.cluster import environment_line
from clusteractl.words import moment, printable
from clusterai.credentials import chain_pem, save_credentials
from clusterai.files import write_atomic
from clusterai.v1.worker_pb2 import IssueDaskClientResponse

Setting = tuple[tuple[str, ...], str | bool]
_WARNING = (
    "This certificate is as good as a shell as clusterai-dask on the scheduler and on every node:",
    "keep its file to yourself.",
)


@dataclass(frozen=True)
class DaskClient:
    """A pool, where its scheduler is, the files of the client's certificate, and what has to match."""

    pool: str
    scheduler_address: str
    certificate: Path
    authority: Path
    expires_unix_seconds: float
    versions: str

    def settings(self) -> tuple[Setting, ...]:
        """The Dask settings that make `Client()` connect, as paths of keys and values."""
        tls = ("distributed", "comm", "tls")
        return (
            (("scheduler-address",), self.scheduler_address),
            (("distributed", "comm", "require-encryption"), True),
            ((*tls, "ca-file"), str(self.authority)),
            ((*tls, "client", "cert"), str(self.certificate)),
            ((*tls, "client", "key"), str(self.certificate)),
        )

    def comments(self) -> tuple[str, ...]:
        """What a person should know before using them."""
        pool = "" if self.pool == "main" else f"--pool {self.pool} "
        return (
            f"Dask client of the pool {self.pool}: `from dask.distributed import Client; Client()` connects with this.",
            f"Match these: {self.versions}",
            f"`clusteractl dask env {pool}--create PATH` makes such an environment.",
            f"The certificate ends {moment(self.expires_unix_seconds)}; run this command again for a new one.",
            *_WARNING,
        )


def environment_lines(client: DaskClient) -> str:
    """The settings as lines for a shell: `. ./cluster.env`."""
    lines = [f"# {printable(line)}" for line in client.comments()]
    for path, value in client.settings():
        name = "DASK_" + "__".join(path).upper().replace("-", "_")
        lines.append(f"export {name}={_quoted(str(value))}")
    return "\n".join(lines)


def yaml_text(client: DaskClient) -> str:
    """The settings as a file for ~/.config/dask/."""
    lines = [f"# {printable(line)}" for line in client.comments()]
    tree: dict[str, object] = {}
    for path, value in client.settings():
        _put(tree, path, value)
    return "\n".join((*lines, *_yaml(tree, "")))


def kept(directory: Path, pool: str, target: Target, key_pem: bytes, reply: IssueDaskClientResponse) -> DaskClient:
    """Write key, certificate and CA below the directory, apart for each cluster, and return what they make."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{pool}-{hashlib.sha256(reply.ca_bundle_pem).hexdigest()[:8]}"
    certificate, authority = directory / f"{name}.pem", directory / f"{name}-ca.pem"
    save_credentials(certificate, key_pem, chain_pem(reply.certificate_chain_der))
    write_atomic(authority, reply.ca_bundle_pem, 0o644)
    address = with_host(reply.scheduler_address, target)
    versions = environment_line(reply.environment)
    return DaskClient(pool, address, certificate, authority, reply.expires_unix_seconds, versions)


def with_host(address: str, target: Target) -> str:
    """Return the scheduler's address; where it names no host, that of the server which this command talks to."""
    parts = urlsplit(address)
    if parts.hostname and parts.hostname not in ("0.0.0.0", "::"):
        return address
    host = "127.0.0.1" if isinstance(target, Local) else target.login.addresses[0].rpartition(":")[0]
    return f"{parts.scheme or 'tls'}://{host}:{parts.port or 8786}"


def _quoted(value: str) -> str:
    """The value as one word of a POSIX shell; plain where it needs no quotes."""
    import shlex

    return shlex.quote(value)


def _put(tree: dict[str, object], path: Sequence[str], value: object) -> None:
    for key in path[:-1]:
        inner = tree.setdefault(key, {})
        assert isinstance(inner, dict)
        tree = inner
    tree[path[-1]] = value


def _yaml(tree: Mapping[str, object], indent: str) -> list[str]:
    """Nested mappings as YAML; a JSON scalar is a YAML scalar."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_yaml(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines
