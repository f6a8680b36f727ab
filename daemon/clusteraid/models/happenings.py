"""What happened to a node's models between two of its reports, for the log of events: pure."""

from collections.abc import Callable, Iterator

from clusteraid.models.inventory import Wanted
from clusteraid.models.observe import Observed
from clusteraid.models.ports import ClusterModel

Happening = tuple[str, str, str]  # kind, subject, message


_MOST_AT_ONCE = 20


def happenings(
    before: Observed | None,
    after: Observed,
    wanted: Callable[[str], Wanted],
    find: Callable[[str], ClusterModel | None],
) -> tuple[Happening, ...]:
    """Return what changed, so much of it as people can read.

    Without an earlier report of a running Ollama nothing is known to have changed.
    """
    found = tuple(_all(before, after, wanted, find))
    if len(found) <= _MOST_AT_ONCE:
        return found
    more = f"{len(found) - _MOST_AT_ONCE} more models changed on {after.node_id}"
    return (*found[:_MOST_AT_ONCE], ("models-changed", after.node_id, more))


def _all(
    before: Observed | None,
    after: Observed,
    wanted: Callable[[str], Wanted],
    find: Callable[[str], ClusterModel | None],
) -> Iterator[Happening]:
    if before is None or not before.tells_models or not after.tells_models:
        return
    node_id = after.node_id
    for name in sorted(before.models.keys() - after.models.keys()):
        yield "model-removed", name, f"{name} is gone from {node_id}"
    for name, held in after.models.items():
        old = before.models.get(name)
        if old is not None and old.digest == held.digest:
            continue
        desire, known = wanted(name), find(name)
        counts = desire.digest or _digest_of_others(known, node_id)
        if counts not in (b"", held.digest):
            other = held.digest.hex()[:12]
            yield "model-drift", name, f"{node_id} has {name} as {other}, the cluster's is {counts.hex()[:12]}"
        elif node_id in desire.present:
            yield "model-present", name, f"{name} is on {node_id}"


def _digest_of_others(known: ClusterModel | None, node_id: str) -> bytes:
    others = known is not None and any(copy.present and copy.node_id != node_id for copy in known.copies)
    return known.digest if known is not None and others else b""
