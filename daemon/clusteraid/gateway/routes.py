"""What the gateway is told of nodes and models: pure, from what the daemon knows to what routes.json says."""

import ipaddress
import math
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, FIT_TIGHT
from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    SERVICE_STATE_READY,
    LoadedModel,
    OllamaModel,
    OllamaStatus,
)
from clusteraid.models.ports import ClusterModel, Copy
from clusteraid.nodes import Node
from clusteraid.registry import Desired, Link, Rest

Table = dict[str, Any]
_FITS = (FIT_GPU, FIT_MAIN_MEMORY, FIT_TIGHT)
_SOON_SECONDS, _FETCHING_SECONDS, _LATER_SECONDS = 10, 30, 60
_NAMED, _REASON_LIMIT = 3, 300  # so many nodes are named in a reason, with so many characters
_EXPIRY_STEP = 30  # each request moves the end of a model's stay in memory: that alone makes no new table
_MOST_SLOTS = _MOST_LOADED = 64
_NEVER = "9999-12-31T23:59:59Z"
_LATEST = 2.0**37  # in the year 6325: later ones have no four digits
_NO_VERSION = "0.0.0"
_OWN_HOST = "127.0.0.1"
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}([-+][0-9A-Za-z.+-]{1,40})?")


@dataclass(frozen=True)
class Peer:
    """A node as the gateway sees one. `problem`: why it may not be used now. `unheard`: nothing is known of it yet.

    `own`: it is the server's.
    """

    node_id: str
    host: str = ""
    port: int = 0
    slots: int = 1
    problem: str = ""
    unheard: bool = False
    ollama: OllamaStatus = field(default_factory=OllamaStatus)
    own: bool = False

    @property
    def usable(self) -> bool:
        """Whether requests may be sent there."""
        return not self.problem

    def entry(self) -> Table:
        """Return it as routes.json has it."""
        return {"host": self.host, "port": self.port, "slots": self.slots}


@dataclass(frozen=True)
class RouteSettings:
    """What routes.json says beside nodes and models."""

    loopback_without_key: bool = False
    mirror_bytes_per_second: int = 0
    mirror_root: str = ""
    revoked_serials: Collection[str] = ()


def peer_of(node: Node, *, own: bool, gate_port: int, parallel: int) -> Peer:
    """Return the node as a peer; the server's own is reached without leaving the machine."""
    ollama = node.status.ollama
    return Peer(
        node.node_id,
        _OWN_HOST if own else _address(node.address),
        ollama.gate.port if 0 < ollama.gate.port < 1 << 16 else gate_port,
        min(ollama.applied.parallel_count or parallel, _MOST_SLOTS),
        _problem(node),
        unheard=node.entry.link is Link.BROKEN and not node.heard_once and node.entry.desired is Desired.ACTIVE,
        ollama=ollama,
        own=own,
    )


def routes(models: Sequence[ClusterModel], peers: Sequence[Peer], settings: RouteSettings, former: Table) -> Table:
    """Return the table without its format and generation.

    `former` is the table that the gateway has. When the daemon was restarted, what it says of nodes that were not heard
    yet stays: a restart of the daemon stops no chat.
    """
    by_id = {peer.node_id: peer for peer in peers}
    apart = _apart([peer for peer in peers if peer.usable], _part(former, "nodes"))
    by_id |= {peer.node_id: peer for peer in apart}
    usable = [peer for peer in apart if peer.usable]
    kept = _Kept(former, {peer.node_id for peer in peers if peer.unheard})
    nodes = kept.nodes() | {peer.node_id: peer.entry() for peer in usable}
    return {
        "settings": {
            "loopback_without_key": settings.loopback_without_key,
            "mirror_bytes_per_second": settings.mirror_bytes_per_second,
        },
        "nodes": dict(sorted(nodes.items())),
        "models": _models(models, by_id, kept),
        "listing": _listing(models, usable, kept),
        "mirror": {"root": settings.mirror_root or (kept.mirror_root if kept.node_ids else "")},
        "revoked_serials": sorted(settings.revoked_serials),
    }


def _apart(peers: Sequence[Peer], known: Table) -> list[Peer]:
    """Let only one of these usable nodes be at each address and port, the one that was known there before: the gateway
    keeps connections by address, so one node would get what was meant for the other.
    """
    taken: dict[tuple[str, int], str] = {}
    for peer in sorted(peers, key=lambda peer: (known.get(peer.node_id) != peer.entry(), peer.node_id)):
        taken.setdefault((peer.host, peer.port), peer.node_id)
    others = [taken[peer.host, peer.port] for peer in peers]
    return [
        peer if other == peer.node_id
        else replace(peer, problem=f"its gate is at the address and port of {other}'s")
        for peer, other in zip(peers, others, strict=True)
    ]


def _problem(node: Node) -> str:
    """Why the node may not be used now; empty: it may."""
    entry, ollama = node.entry, node.status.ollama
    if entry.link is not Link.UP:
        return f"it is {entry.state.value}"
    if entry.desired is not Desired.ACTIVE:
        return f"it is {entry.desired.value}"
    if entry.rest is not Rest.NONE:
        return f"it is resting: {entry.rest_reason}"
    if ollama.state != SERVICE_STATE_READY:
        return "its Ollama is not ready"
    if ollama.gate.state != SERVICE_STATE_READY:
        return "its gate is not ready"
    return "" if _address(node.address) else "its address is not one that the gateway can use"


def _address(text: str) -> str:
    """Return the IP address as the gateway takes one; nothing for what is none, or only means something here."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return ""
        address = address.ipv4_mapped or address
    return str(address)


class _Kept:
    """What stays of the former table: what it says of the nodes that were not heard yet."""

    def __init__(self, former: Table, node_ids: set[str]) -> None:
        self._former, self.node_ids = former, node_ids if former else set()
        self.mirror_root = str(_part(former, "mirror").get("root", ""))
        self.version = str(_part(former, "listing").get("version", ""))

    def nodes(self) -> Table:
        return {name: entry for name, entry in _part(self._former, "nodes").items() if name in self.node_ids}

    def models(self) -> dict[str, Table]:
        """The models that such nodes can serve, with those nodes only."""
        kept = {}
        for name, entry in _part(self._former, "models").items():
            places = {node: place for node, place in _part(entry, "nodes").items() if node in self.node_ids}
            if places:
                kept[name] = entry | {"nodes": places}
        return kept

    def listed(self, kind: str) -> dict[str, Table]:
        """The objects of a listing by name, of those models."""
        names, listed = self.models(), _part(self._former, "listing").get(kind)
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        return {entry["name"]: entry for entry in entries if entry.get("name") in names}


def _part(table: object, name: str) -> Table:
    """Return an object in an object; nothing where a file that somebody edited has something else."""
    found = table.get(name) if isinstance(table, dict) else None
    return found if isinstance(found, dict) else {}


def _models(models: Sequence[ClusterModel], peers: Mapping[str, Peer], kept: _Kept) -> dict[str, Table]:
    entries = kept.models()
    for model in models:
        entry, before = _model(model, peers), entries.get(model.name)
        if before and entry["digest"] in ("", before.get("digest")):  # another one is drift now
            places = before["nodes"] | entry["nodes"]
            entry |= {"digest": before.get("digest"), "nodes": places, "reason": "", "retry_after_seconds": 0}
        entries[model.name] = entry
    return dict(sorted(entries.items()))


def _model(model: ClusterModel, peers: Mapping[str, Peer]) -> Table:
    places = {copy.node_id: _place(copy) for copy in model.copies if _serves(copy, peers)}
    reason, retry = ("", 0) if places else _why_nobody(model, peers)
    return {
        "digest": model.digest.hex(),
        "nodes": dict(sorted(places.items())),
        "reason": reason,
        "retry_after_seconds": retry,
    }


def _serves(copy: Copy, peers: Mapping[str, Peer]) -> bool:
    peer = peers.get(copy.node_id)
    return copy.present and copy.usable and peer is not None and peer.usable


def _place(copy: Copy) -> Table:
    return {"loaded": copy.loaded, "fit": int(copy.fit) if copy.fit in _FITS else int(FIT_TIGHT)}


def _why_nobody(model: ClusterModel, peers: Mapping[str, Peer]) -> tuple[str, int]:
    """Return what the client's sentence ends with, and after how many seconds to ask again."""
    said, retry = [], _LATER_SECONDS
    for copy in sorted(model.copies, key=lambda copy: (not copy.present, copy.node_id)):
        reason, seconds = _why_not(model.name, copy, peers.get(copy.node_id))
        said.append(reason if reason.startswith(copy.node_id) else f"{copy.node_id}: {reason}")
        retry = min(retry, seconds)
    more = f"; and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return "; ".join(said[:_NAMED]) + more if said else "no node has it yet", retry


def _why_not(name: str, copy: Copy, peer: Peer | None) -> tuple[str, int]:
    """Why not there; the sentence stays the same while a pull goes on: each new one makes a new table."""
    reason = (copy.reason or (peer.problem if peer else "it left the cluster"))[:_REASON_LIMIT]
    if peer is None or not copy.present:
        pulls = {pull.model: pull.state for pull in peer.ollama.pulls} if peer else {}
        fetching = pulls.get(name, PULL_STATE_FAILED) != PULL_STATE_FAILED
        return reason or "it does not have it", _FETCHING_SECONDS if fetching else _LATER_SECONDS
    return reason or "it cannot serve it", _SOON_SECONDS if peer.problem else _LATER_SECONDS


def _listing(models: Sequence[ClusterModel], usable: Sequence[Peer], kept: _Kept) -> Table:
    infos = {model.name: model for model in models if model.digest and any(copy.present for copy in model.copies)}
    tags = kept.listed("tags") | {name: _tag(model) for name, model in infos.items()}
    loaded = _longest_loaded(usable, infos)
    return {
        "version": _lowest(peer.ollama.version for peer in usable) or kept.version or _NO_VERSION,
        "tags": [tags[name] for name in sorted(tags)],
        "ps": list((kept.listed("ps") | {name: _ps(infos[name], found) for name, found in loaded.items()}).values()),
    }


def _tag(model: ClusterModel) -> Table:
    """The model as /api/tags of Ollama lists one."""
    info = model.info
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": _rfc3339(info.modified_unix_seconds),
        "size": info.size_bytes,
        "digest": model.digest.hex(),
        "details": _details(info),
        "capabilities": list(info.capabilities),
    }


def _ps(model: ClusterModel, loaded: LoadedModel) -> Table:
    """The model as /api/ps of Ollama lists one."""
    return {
        "name": model.name,
        "model": model.name,
        "size": loaded.size_bytes,
        "digest": model.digest.hex(),
        "details": _details(model.info),
        "expires_at": _expiry(loaded),
        "size_vram": loaded.vram_bytes,
        "context_length": loaded.context_length,
    }


def _details(info: OllamaModel) -> Table:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": info.family,
        "families": [info.family] if info.family else None,
        "parameter_size": info.parameter_size,
        "quantization_level": info.quantization,
    }


def _longest_loaded(peers: Iterable[Peer], models: Mapping[str, ClusterModel]) -> dict[str, LoadedModel]:
    """Each loaded model once, from the node that keeps it longest; the longest first, as Ollama lists them."""
    found: dict[str, LoadedModel] = {}
    for peer in peers:
        for loaded in peer.ollama.loaded[:_MOST_LOADED]:
            model, known = models.get(loaded.model), found.get(loaded.model)
            if model and loaded.digest in (b"", model.digest) and (known is None or _lasts(loaded) > _lasts(known)):
                found[loaded.model] = loaded
    return dict(sorted(found.items(), key=lambda item: (-_lasts(item[1]), item[0])))


def _lasts(loaded: LoadedModel) -> float:
    return loaded.expires_unix_seconds or float("inf")


def _expiry(loaded: LoadedModel) -> str:
    if not loaded.expires_unix_seconds or not math.isfinite(loaded.expires_unix_seconds):
        return _NEVER
    return _rfc3339(-(-loaded.expires_unix_seconds // _EXPIRY_STEP) * _EXPIRY_STEP)


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(max(seconds, 0), _LATEST)))


def _lowest(versions: Iterable[str]) -> str:
    """The oldest of the versions: what every node understands. What is no version counts as none: nodes may lie."""
    return min(filter(_VERSION.fullmatch, versions), key=_version_key, default="")


def _version_key(version: str) -> tuple[list[int], str]:
    return [int(part) for part in re.split("[-+]", version)[0].split(".")], version
