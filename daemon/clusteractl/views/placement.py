"""Which node a model suits: candidates, the catalogue, recommendations, and where a request would go."""

from collections.abc import Sequence

from clusteractl.output import Block, paragraph
from clusteractl.tables import Column, Table
from clusteractl.words import download_size, plural, printable
from clusterai.v1.model_pb2 import (
    FIT_GPU,
    FIT_MAIN_MEMORY,
    FIT_NONE,
    FIT_TIGHT,
    FIT_UNABLE,
    Candidate,
    CatalogEntry,
    ExplainRouteResponse,
    ListCatalogResponse,
    Recommendation,
    RouteStep,
)

_FITS: dict[int, str] = {
    FIT_GPU: "gpu", FIT_MAIN_MEMORY: "memory", FIT_TIGHT: "tight", FIT_NONE: "no", FIT_UNABLE: "unable",
}  # fmt: skip
_CAN = (FIT_GPU, FIT_MAIN_MEMORY, FIT_TIGHT)
_SHOWN = 20  # nodes that were not chosen; the rest is counted
_WIDEST_NODE = 24


def candidate_list(model: str, candidates: Sequence[Candidate], width: int) -> list[Block]:
    """Where the model goes, and why there and not elsewhere."""
    chosen = [one for one in candidates if one.chosen]
    others = [one for one in candidates if not one.chosen]
    room = min(_WIDEST_NODE, max((len(one.node_id) for one in candidates), default=0))
    blocks: list[Block] = [paragraph(f"{model} goes to" if chosen else f"{model} goes nowhere:", width=width)]
    blocks += [_candidate(one, room, width) for one in chosen]
    if chosen and others:
        blocks.append("and not to")
    blocks += [_candidate(one, room, width) for one in others[:_SHOWN]]
    return [*blocks, f"  and {len(others) - _SHOWN} more (--json shows all)"] if len(others) > _SHOWN else blocks


def catalog_list(reply: ListCatalogResponse) -> list[Block]:
    """One row an entry: what it is, and where it fits."""
    if not reply.entries:
        return ["Nothing in the catalogue is so. All of it: clusteractl model catalog"]
    columns = (
        Column("MODEL", least=26), Column("SIZE", right=True, keep=True), Column("TYPE", keep=True),
        Column("CONTEXT", right=True, keep=True), Column("FITS", least=10), Column("LICENCE", least=8),
    )  # fmt: skip
    own = sum(entry.own for entry in reply.entries)
    mine = f", {own} of them your own" if own else ""
    foot = f"Catalogue {reply.catalog_version}: {plural(len(reply.entries), 'model')}{mine}."
    rows = tuple(_entry_row(entry) for entry in reply.entries)
    return [Table(columns, rows), "", foot, "Fetch one with: clusteractl model pull MODEL"]


def recommendation_list(recommendations: Sequence[Recommendation], width: int) -> list[Block]:
    """Each model with the reason and the command."""
    if not recommendations:
        return ["No model suits these machines. The catalogue: clusteractl model catalog"]
    blocks: list[Block] = []
    for one in recommendations:
        entry = one.entry
        facts = ", ".join(part for part in (download_size(entry.size_bytes), entry.type, entry.licence) if part)
        blocks += ["", paragraph(f"{entry.model} ({facts})", indent="  ", first="", width=width)]
        blocks += [paragraph(one.reason, indent="  ", width=width), f"  {printable(one.command)}"]
    return blocks[1:]


def route_page(reply: ExplainRouteResponse, width: int) -> list[Block]:
    """The nodes in the order in which the gateway would try them and why, or what a client is told."""
    blocks: list[Block] = [_verdict(reply, width)]
    if reply.peers:
        blocks += ["", _route_table(reply.peers), "", *_reasons(reply.peers, width)]
    if reply.closest:
        blocks.append(paragraph(f"Close to it: {', '.join(reply.closest)}", indent="  ", first="", width=width))
    elif not reply.peers:
        blocks.append(f"Fetch it with: clusteractl model pull {reply.model}")
    return blocks


def fit_word(fit: int) -> str:
    """Return where a model fits, in a word."""
    return _FITS.get(fit, "-")


def _verdict(reply: ExplainRouteResponse, width: int) -> str:
    first = next((step.node_id for step in reply.peers if step.usable), "")
    told = reply.answer or ("no node can serve it" if reply.peers else "there is no such model")
    outcome = f"goes to {first} now." if first else f"gets no answer now: {told}"
    return paragraph(f"A request for {reply.model} {outcome}", indent="  ", first="", width=width)


def _route_table(peers: Sequence[RouteStep]) -> Table:
    columns = (
        Column("TRY", right=True, keep=True), Column("NODE", least=12), Column("LOADED", keep=True),
        Column("BUSY", right=True, keep=True), Column("FIT", keep=True),
    )  # fmt: skip
    rows, place = [], 0
    for step in peers:
        place += step.usable
        busy = f"{step.in_flight_count}/{step.slot_count}" if step.slot_count else str(step.in_flight_count)
        loaded, order = "yes" if step.loaded else "no", str(place) if step.usable else "-"
        rows.append((order, step.node_id, loaded, busy, fit_word(step.fit)))
    return Table(columns, tuple(rows))


def _reasons(peers: Sequence[RouteStep], width: int) -> list[Block]:
    telling = [step for step in peers if step.reason]
    room = min(_WIDEST_NODE, max((len(step.node_id) for step in telling), default=0))
    lines: list[Block] = [_why(step.node_id, step.reason, room, width) for step in telling[:_SHOWN]]
    return [*lines, f"  and {len(telling) - _SHOWN} more (--json shows all)"] if len(telling) > _SHOWN else lines


def _candidate(one: Candidate, room: int, width: int) -> str:
    """A node and why, with the figures that its reason does not have."""
    needs = f"needs {download_size(one.needed_bytes)}" if one.needed_bytes and "needs" not in one.reason else ""
    free = f"{download_size(one.free_bytes)} free" if one.free_bytes and "free" not in one.reason else ""
    text = ", ".join(part for part in (one.reason, needs, free) if part)
    return _why(one.node_id, text or fit_word(one.fit), room, width)


def _why(node: str, reason: str, room: int, width: int) -> str:
    """A node with its reason beside it."""
    return paragraph(reason, indent=" " * (room + 4), first=f"  {printable(node):<{room}}  ", width=width)


def _entry_row(entry: CatalogEntry) -> tuple[str, ...]:
    context = f"{entry.context_length // 1024}k" if entry.context_length >= 1024 else str(entry.context_length or "-")
    fits = _fits(entry.candidates)
    return entry.model, download_size(entry.size_bytes), entry.type or "-", context, fits, entry.licence or "-"


def _fits(candidates: Sequence[Candidate]) -> str:
    """The best fitting node, and how many others there are."""
    able = sorted((one for one in candidates if one.fit in _CAN), key=lambda one: (_CAN.index(one.fit), one.node_id))
    if not able:
        return "nowhere" if candidates else "-"
    more = f" +{len(able) - 1}" if len(able) > 1 else ""
    return f"{able[0].node_id} {fit_word(able[0].fit)}{more}"
