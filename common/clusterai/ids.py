"""Names and identities, checked once where they come in."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import NewType

from clusterai.errors import InvalidName

NodeId = NewType("NodeId", str)
OperatorName = NewType("OperatorName", str)
ClusterId = NewType("ClusterId", str)
PoolName = NewType("PoolName", str)
UnitName = NewType("UnitName", str)

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SHOWN = 80


def _label(what: str, text: str) -> str:
    """Return the text if it is a DNS label in lower case, the only shape a name may have before it meets a path."""
    if not _LABEL.fullmatch(text):
        raise InvalidName(what=what, name=text[:_SHOWN])
    return text


def parse_node_id(text: str) -> NodeId:
    """Return the node id, or raise InvalidName."""
    return NodeId(_label("node", text))


def parse_operator_name(text: str) -> OperatorName:
    """Return the operator name, or raise InvalidName."""
    return OperatorName(_label("operator", text))


def parse_key_name(text: str) -> str:
    """Return the name of a key, or raise InvalidName."""
    return _label("key", text)


def parse_pool_name(text: str) -> PoolName:
    """Return the pool name, or raise InvalidName."""
    return PoolName(_label("pool", text))


def suggest_node_id(hostname: str) -> NodeId:
    """Return a valid node id made of a host name: its first label, lower case, other characters as dashes."""
    label = re.sub(r"[^a-z0-9]+", "-", hostname.split(".", maxsplit=1)[0].lower()).strip("-")[:63].strip("-")
    return NodeId(label or "node")


class IdentityKind(Enum):
    """What a certificate's holder is."""

    NODE = "node"
    OPERATOR = "operator"
    DAEMON = "daemon"


@dataclass(frozen=True)
class Identity:
    """Who a certificate names: the one URI SAN, `spiffe://<cluster-id>/<kind>[/<name>]`."""

    cluster_id: ClusterId
    kind: IdentityKind
    name: str = ""

    def __str__(self) -> str:
        tail = f"/{self.name}" if self.name else ""
        return f"spiffe://{self.cluster_id}/{self.kind.value}{tail}"

    @classmethod
    def parse(cls, uri: str) -> "Identity":
        """Return the identity of a URI SAN; raise InvalidName for anything but the exact form."""
        match = re.fullmatch(r"spiffe://([a-z0-9-]{1,64})/(?:(node|operator)/([^/]+)|daemon)", uri)
        if match is None:
            raise InvalidName(what="identity", name=uri[:_SHOWN])
        cluster_id, kind, name = match.groups()
        if kind is None:
            return cls(ClusterId(cluster_id), IdentityKind.DAEMON)
        return cls(ClusterId(cluster_id), IdentityKind(kind), _label(kind, name))
