"""Which node a model suits: candidates, the catalogue, recommendations, and where a request would go."""

from collections.abc import Sequence

from clusteractl.output import Block, paragraph
from clusteractl.tables import Column, Table
from clusteractl.words import plural, printable, size
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
        Column("MODEL", least=16), Column("SIZE", right=True, keep=True), Column("TYPE", keep=True),
        Column("FOR", least=8), Column("CONTEXT", right=True, keep=True), Column("FITS", least=10),
        Column("LICENCE", least=8),
    )  # fmt: skip
    own = sum(entry.own for entry in reply.entries)
    mine = f", {own} of them your own" if own else ""
    foot = f"Catalogue {reply.catalog_version}: {plural(len(reply.entries), 'model')}{mine}."
    rows = tuple(_entry_row(entry) for entry in reply.entries)
    return [Table(columns, rows), "", foot, "Fetch one with: clusteractl model pull MODEL"]


def recommendation_list(recommendations: Sequence[Recommendation], width: int) -> list[Block]:
    """Each model with the reason and the command."""
    if not recommendations:
        return ["No model of the catalogue suits these machines. All of it: clusteractl model catalog"]
    blocks: list[Block] = []
    for one in recommendations:
        entry = one.entry
        facts = ", ".join(part for part in (size(entry.size_bytes), entry.type, entry.licence) if part)
        blocks += ["", paragraph(f"{entry.model} ({facts})", indent="  ", first="", width=width)]
        blocks += [paragraph(one.reason, indent="  ", width=width), f"  {printable(one.command)}"]
    return blocks[1:]


def route_page(reply: ExplainRouteResponse, width: int) -> list[Block]:
    """The nodes in the order in which the gateway would try them, or what a client is told."""
    usable = [step for step in reply.peers if step.usable]
    blocks: list[Block] = [_verdict(reply, usable, width)]
    if reply.peers:
        columns = (
            Column("TRY", right=True, keep=True), Column("NODE", least=12), Column("LOADED", keep=True),
            Column("BUSY", right=True, keep=True), Column("FIT", keep=True), Column("WHY", least=20),
        )  # fmt: skip
        table = Table(columns, _route_rows(reply.peers))
        blocks += ["", table, *_long_reasons(table, width)]
    if reply.closest:
        blocks.append(paragraph(f"Close to it: {', '.join(reply.closest)}", indent="  ", first="", width=width))
    if reply.peers or reply.closest:
        return blocks
    return [*blocks, f"Fetch it with: clusteractl model pull {reply.model}"]


def fit_word(fit: int) -> str:
    """Return where a model fits, in a word."""
    return _FITS.get(fit, "-")


def _verdict(reply: ExplainRouteResponse, usable: Sequence[RouteStep], width: int) -> str:
    if usable:
        text = f"A request for {reply.model} goes to {usable[0].node_id} now"
        return paragraph(f"{text}: {usable[0].reason}" if usable[0].reason else f"{text}.", width=width)
    told = reply.answer or ("no node can serve it" if reply.peers else "there is no such model")
    return paragraph(f"A request for {reply.model} gets no answer now: {told}", indent="  ", first="", width=width)


def _route_rows(peers: Sequence[RouteStep]) -> tuple[tuple[str, ...], ...]:
    rows, place = [], 0
    for step in peers:
        place += step.usable
        busy = f"{step.in_flight_count}/{step.slot_count}" if step.slot_count else str(step.in_flight_count)
        loaded = "yes" if step.loaded else "no"
        order = str(place) if step.usable else "-"
        rows.append((order, step.node_id, loaded, busy, fit_word(step.fit), step.reason))
    return tuple(rows)


def _candidate(one: Candidate, room: int, width: int) -> str:
    """A node and why, with the figures that decided."""
    needs = f"needs {size(one.needed_bytes)}" if one.needed_bytes else ""
    free = f"{size(one.free_bytes)} free" if one.free_bytes else ""
    figures = ", ".join(part for part in (needs, free) if part)
    text = f"{one.reason} ({figures})" if figures else one.reason
    first = f"  {printable(one.node_id):<{room}}  "
    return paragraph(text or fit_word(one.fit), indent=" " * (room + 4), first=first, width=width)


def _long_reasons(table: Table, width: int) -> list[Block]:
    """The reasons that the table has to cut; the first node's stands above it."""
    taken = sum(max(len(column.title), *(len(row[index]) for row in table.rows)) + 2
                for index, column in enumerate(table.columns[:-1]))  # fmt: skip
    cut = [(row[1], row[-1]) for row in table.rows if len(row[-1]) > width - taken and row[0] != "1"]
    notes = [paragraph(f"{node}: {reason}", indent="  ", first="", width=width) for node, reason in cut[:_SHOWN]]
    return ["", *notes] if notes else []


def _entry_row(entry: CatalogEntry) -> tuple[str, ...]:
    purposes = ", ".join(entry.purposes) or "-"
    context = f"{entry.context_length // 1024}k" if entry.context_length >= 1024 else str(entry.context_length or "-")
    return (
        entry.model, size(entry.size_bytes), entry.type or "-", purposes, context, _fits(entry.candidates),
        entry.licence or "-",
    )  # fmt: skip


def _fits(candidates: Sequence[Candidate]) -> str:
    """The best fitting node, and how many others there are."""
    able = sorted((one for one in candidates if one.fit in _CAN), key=lambda one: (_CAN.index(one.fit), one.node_id))
    if not able:
        return "nowhere" if candidates else "-"
    more = f" +{len(able) - 1}" if len(able) > 1 else ""
    return f"{able[0].node_id} {fit_word(able[0].fit)}{more}"
