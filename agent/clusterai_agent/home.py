"""The agent's own files: its certificate, the cluster's CA, and what it remembers."""

import json
from dataclasses import dataclass
from pathlib import Path

from clusterai.credentials import Credentials, load_credentials, save_credentials
from clusterai.files import BadFile, load_json, read_limited, remove, write_atomic
from clusterai.ids import ClusterId, NodeId, parse_node_id
from clusterai_agent.addresses import SERVER_PORT, Address, parse_all

_REMEMBERED = 16
_CA_LIMIT = 1 << 16


@dataclass(frozen=True)
class Membership:
    """Which node of which cluster this machine is, and where the server was seen, best first."""

    node_id: NodeId
    cluster_id: ClusterId
    server_addresses: tuple[str, ...] = ()

    def remembering(self, addresses: list[str]) -> "Membership":
        """The same with these addresses in front; bounded, unreadable ones dropped."""
        known = parse_all([*addresses, *self.server_addresses], SERVER_PORT)
        return Membership(self.node_id, self.cluster_id, tuple(str(address) for address in known[:_REMEMBERED]))


class Home:
    """The state directory, 0700, of the agent's user."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "node.pem"
        self.ca = directory / "cluster-ca.pem"
        self.state = directory / "state.json"
        self.policy = directory / "policy.json"  # the cluster's settings for work and rest, and what was decided last
        self.pause = directory / "pause.json"  # the owner's word, whatever the cluster

    @property
    def joined(self) -> bool:
        """Whether this machine has an identity."""
        return self.certificate.exists()

    def membership(self) -> Membership:
        """Return what state.json says; raise BadFile when it is damaged."""
        state = load_json(self.state)
        addresses = state.get("server_addresses", [])
        if not isinstance(state.get("node_id"), str) or not isinstance(state.get("cluster_id"), str):
            raise BadFile(self.state, "it names no node and cluster", "join again: `clusterai-agent join --force`")
        known = [text for text in addresses if isinstance(text, str)] if isinstance(addresses, list) else []
        return Membership(parse_node_id(state["node_id"]), ClusterId(state["cluster_id"]), tuple(known))

    def remember(self, membership: Membership) -> None:
        """Replace state.json."""
        state = {
            "node_id": membership.node_id,
            "cluster_id": membership.cluster_id,
            "server_addresses": list(membership.server_addresses),
        }
        write_atomic(self.state, json.dumps(state, indent=1).encode() + b"\n")

    def credentials(self) -> Credentials:
        """Return key and certificate; raise BadFile."""
        return load_credentials(self.certificate)

    def ca_pem(self) -> bytes:
        """Return the CA(s) that the daemon's certificate must come from."""
        return read_limited(self.ca, _CA_LIMIT)

    def store(self, membership: Membership, key_pem: bytes, chain_pem: bytes, ca_pem: bytes) -> None:
        """Write a new identity; the certificate comes last, because it makes the machine joined."""
        write_atomic(self.ca, ca_pem, 0o644)
        self.remember(membership)
        save_credentials(self.certificate, key_pem, chain_pem)

    def forget(self) -> None:
        """Remove the identity; the certificate goes first."""
        for path in (self.certificate, self.ca, self.state, self.policy):
            remove(path)

    def identity_mark(self) -> tuple[int, int]:
        """Something that changes whenever node.pem is replaced."""
        try:
            status = self.certificate.stat()
        except OSError:
            return (0, 0)
        return (status.st_ino, status.st_mtime_ns)


def reachable(membership: Membership) -> list[Address]:
    """The remembered server addresses, best first."""
    return parse_all(membership.server_addresses, SERVER_PORT)
