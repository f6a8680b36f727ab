"""The login on disk: one operator certificate with its key, the cluster's CA, and where the server is."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from clusterai.credentials import Credentials, load_credentials, save_credentials
from clusterai.files import BadFile, load_json, read_limited, write_atomic

_FILE_LIMIT = 1 << 16


@dataclass(frozen=True)
class Login:
    """Who the user is at which cluster. `addresses` are host:port of the server's mTLS port, the best first."""

    operator: str
    cluster_id: str
    addresses: tuple[str, ...]
    ca_pem: bytes
    credentials: Credentials

    def expired(self, now: datetime) -> bool:
        """Whether the certificate's life is over."""
        return now >= self.credentials.not_after


class Logins:
    """The directory that holds the login: operator.pem (0600), ca.pem, config.json."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._operator, self._ca, self._config = (
            directory / name for name in ("operator.pem", "ca.pem", "config.json")
        )

    def load(self) -> Login | None:
        """Return the login, or nothing when there is none; raise BadFile when its files are damaged."""
        if not self._config.exists():
            return None
        config = load_json(self._config)
        try:
            names = str(config["operator_name"]), str(config["cluster_id"])
            addresses = tuple(str(address) for address in config["server_addresses"])
            _ = addresses[0]
        except (KeyError, TypeError, IndexError) as error:
            raise BadFile(self._config, "not a login", "log in again: clusteractl login --server HOST") from error
        return Login(*names, addresses, read_limited(self._ca, _FILE_LIMIT), load_credentials(self._operator))

    def save(self, operator: str, cluster_id: str, addresses: tuple[str, ...], ca_pem: bytes) -> None:
        """Write who and where; `save_credentials` comes first, so that a login is whole or absent."""
        config = {"operator_name": operator, "cluster_id": cluster_id, "server_addresses": list(addresses)}
        write_atomic(self._ca, ca_pem, 0o644)
        write_atomic(self._config, json.dumps(config, indent=2).encode() + b"\n", 0o600)

    def save_credentials(self, key_pem: bytes, chain_pem: bytes) -> None:
        """Write key and certificate, readable by nobody else."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_credentials(self._operator, key_pem, chain_pem)

    def replace_authority(self, ca_pem: bytes) -> None:
        """Write the CAs to trust from now on."""
        write_atomic(self._ca, ca_pem, 0o644)

    def remove(self) -> bool:
        """Forget the login; return whether there was one."""
        present = [path for path in (self._config, self._operator, self._ca) if path.exists()]
        for path in present:
            path.unlink()
        return bool(present)
