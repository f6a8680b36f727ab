"""Models, their copies, and what differs between nodes, as a person sees them."""

from collections import Counter
from collections.abc import Collection, Sequence

from clusteractl.output import Block, paragraph
from clusteractl.tables import Column, Table
from clusteractl.words import download_size, plural
from clusterai.v1.model_pb2 import DRIFT_KIND_DIGEST, DRIFT_KIND_MISSING, Drift, Model, ModelCopy
from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    PULL_STATE_PULLING,
    PULL_STATE_VERIFYING,
    PULL_STATE_WAITING,
    OllamaSettings,
    PullStatus,
)

_PULLS = {
    PULL_STATE_WAITING: "waiting",
    PULL_STATE_PULLING: "pulling",
    PULL_STATE_VERIFYING: "verifying",
    PULL_STATE_FAILED: "failed",
}
_ON_ITS_WAY = (PULL_STATE_WAITING, PULL_STATE_PULLING, PULL_STATE_VERIFYING)
_ORDER = ("loaded", "ready", "pulling", "verifying", "waiting", "unusable", "differs", "failed", "missing")
_NAMED = 3  # more copies than these are counted
_REMARKS = 5  # more of a kind than these are counted
_LABEL = 9


def model_list(models: Sequence[Model], drifts: Sequence[Drift], width: int) -> list[Block]:
    """One row a model; below, what hinders single copies, and drift with its fix."""
    if not models and not drifts:
        return ["There are no models yet. See what suits you: clusteractl model recommend"]
    columns = (
        Column("MODEL", least=26), Column("SIZE", right=True, keep=True), Column("QUANT", least=6),
        Column("WHERE", least=20),
    )  # fmt: skip
    rows = tuple(
        (one.model, download_size(one.size_bytes), one.quantization or "-", where(one.copies, _differing(one, drifts)))
        for one in models
    )
    remarks = [line for one in models for line in _hindrances(one, f"{one.model} on ", drifts, width)]
    return [Table(columns, rows), *_spaced(remarks), *_spaced(drift_lines(_unmended(models, drifts), width))]


def model_page(model: Model, drifts: Sequence[Drift], settings: OllamaSettings, width: int) -> list[Block]:
    """Everything about one model."""
    kind = " ".join(part for part in (model.family, model.parameter_size, model.quantization) if part)
    pairs = [
        ("size", download_size(model.size_bytes) if model.size_bytes else ""),
        ("kind", kind),
        ("can", ", ".join(model.capabilities)),
        ("context", _context(model, settings)),
        ("digest", model.digest.hex()[:12]),
        ("wanted", "by `clusteractl model`" if model.managed else "no: somebody pulled it by hand"),
    ]
    blocks: list[Block] = [paragraph(model.model, width=width)]
    blocks += [_pair(name, value, width) for name, value in pairs if value]
    if model.copies:
        blocks += [
            "",
            copy_table(model.copies, _differing(model, drifts)),
            *_spaced(_hindrances(model, "", drifts, width)),
        ]
    return [*blocks, *_spaced(drift_lines(_unmended([model], drifts), width))]


def copy_table(copies: Sequence[ModelCopy], differing: Collection[str] = ()) -> Table:
    """One row a copy; on the nodes that differ it has another content."""
    columns = (
        Column("NODE", least=12), Column("STATE", keep=True, stated=True), Column("IN VRAM", right=True, keep=True),
        Column("WANTED", keep=True), Column("FROM", least=8),
    )  # fmt: skip
    return Table(columns, tuple(_copy_row(copy, differing) for copy in copies))


def copy_state(copy: ModelCopy, differing: Collection[str] = ()) -> str:
    """Return a copy's state in a word, `loaded`, `ready`, `missing`, or `pulling 43 %`."""
    kind = _kind(copy, differing)
    share = pull_ratio(copy.pull)
    return f"{kind} {share:.0%}".replace("%", " %") if kind == "pulling" and share else kind


def where(copies: Sequence[ModelCopy], differing: Collection[str] = ()) -> str:
    """Return which nodes have it and how; many nodes are counted by state."""
    ordered = sorted(copies, key=lambda copy: (_ORDER.index(_kind(copy, differing)), copy.node_id))
    if len(ordered) <= _NAMED:
        return ", ".join(f"{copy.node_id} {copy_state(copy, differing)}" for copy in ordered) or "nowhere"
    counts = Counter(_kind(copy, differing) for copy in ordered)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def drift_lines(drifts: Sequence[Drift], width: int) -> list[str]:
    """What differs; under those with the same fix, the fix."""
    by_fix: dict[str, list[Drift]] = {}
    for drift in drifts:
        by_fix.setdefault(drift.fix, []).append(drift)
    lines = []
    for fix, alike in by_fix.items():
        lines += [drift_line(drift, width) for drift in alike[:_REMARKS]]
        lines += [f"and {len(alike) - _REMARKS} more like these: clusteractl model list --json"] * (
            len(alike) > _REMARKS
        )
        lines += [paragraph(line, indent="       ", first="  fix: ", width=width) for line in fix.splitlines() if line]
    return lines


def drift_line(drift: Drift, width: int) -> str:
    """One difference: on which node, of which model, and what; only what the sentence does not say itself."""
    subject = ", ".join(part for part in (drift.node_id, drift.model) if part and part not in drift.message)
    return paragraph(f"{subject}: {drift.message}" if subject else drift.message, indent="  ", first="", width=width)


def pull_ratio(pull: PullStatus) -> float:
    """Return how much of a pull is done, 0..1."""
    return min(1.0, pull.completed_bytes / pull.total_bytes) if pull.total_bytes else 0.0


def pull_kind(pull: PullStatus) -> str:
    """Return a pull's state in a word; empty when there is no pull."""
    return _PULLS.get(pull.state, "")


def _kind(copy: ModelCopy, differing: Collection[str]) -> str:
    if copy.present:
        if not copy.usable:
            return "unusable"
        return "loaded" if copy.loaded else "ready"
    other = copy.node_id in differing or not copy.wanted
    return pull_kind(copy.pull) or ("differs" if other else "missing")


def _differing(model: Model, drifts: Sequence[Drift]) -> frozenset[str]:
    """The nodes that have other content under the model's name."""
    return frozenset(
        drift.node_id for drift in drifts if drift.kind == DRIFT_KIND_DIGEST and drift.model == model.model
    )


def _copy_row(copy: ModelCopy, differing: Collection[str]) -> tuple[str, ...]:
    source = str(getattr(copy.pull, "from")) or "-"
    wanted = "yes" if copy.wanted else "no"
    return copy.node_id, copy_state(copy, differing), download_size(copy.vram_bytes), wanted, source


def _unmended(models: Sequence[Model], drifts: Sequence[Drift]) -> list[Drift]:
    """Leave out what is being mended already: a missing copy that is on its way stands in the table."""
    coming = {(one.model, copy.node_id) for one in models for copy in one.copies if copy.pull.state in _ON_ITS_WAY}
    return [one for one in drifts if one.kind != DRIFT_KIND_MISSING or (one.model, one.node_id) not in coming]


def _hindrances(model: Model, subject: str, drifts: Sequence[Drift], width: int) -> list[str]:
    """Why copies cannot be used, nodes with the same reason together; what drift tells is not told twice."""
    told = {drift.node_id for drift in drifts if drift.model == model.model}
    whose: dict[tuple[str, str, str], list[str]] = {}
    for copy in model.copies:
        reason = copy.pull.reason if copy.pull.state else copy.reason
        if reason and not copy.usable and copy.node_id not in told:
            whose.setdefault((_kind(copy, ()), reason, copy.pull.hint), []).append(copy.node_id)
    lines = []
    for (kind, reason, hint), nodes in list(whose.items())[:_REMARKS]:
        lines.append(paragraph(f"{subject}{_several(nodes)} is {kind}: {reason}", indent="  ", first="", width=width))
        lines += [paragraph(hint, indent="  ", width=width)] if hint else []
    return lines + [f"and {plural(len(whose) - _REMARKS, 'more reason')}"] * (len(whose) > _REMARKS)


def _several(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _context(model: Model, settings: OllamaSettings) -> str:
    used = f"{settings.context_length} tokens" if settings.context_length else ""
    trained = f"trained for {model.context_length}" if model.context_length else ""
    return ", ".join(part for part in (used, trained) if part)


def _spaced(lines: Sequence[str]) -> list[Block]:
    return ["", *lines] if lines else []


def _pair(name: str, value: str, width: int) -> str:
    return paragraph(value, indent=" " * (_LABEL + 2), first=f"  {name:<{_LABEL}}", width=width)
