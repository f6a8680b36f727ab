"""Tables as plain values, and how they become text of a given width."""

from collections.abc import Sequence
from dataclasses import dataclass

from clusteractl.words import printable

_GREEN, _RED, _YELLOW, _CYAN = 32, 31, 33, 36
STATE_COLOURS = {
    **dict.fromkeys(("ready", "registered", "running", "active", "ok", "usable", "loaded"), _GREEN),
    **dict.fromkeys(("pending", "draining", "drained", "held", "starting", "activating"), _CYAN),
    **dict.fromkeys(("waiting", "verifying"), _CYAN),
    **dict.fromkeys(("suspect", "incompatible", "warning", "resting", "not installed"), _YELLOW),
    **dict.fromkeys(("missing", "differs", "unusable"), _YELLOW),
    **dict.fromkeys(("offline", "failed", "revoked", "expired"), _RED),
}
_GAP = 2


@dataclass(frozen=True)
class Column:
    """A column. Numbers stand at the right; one that is kept is never cut, others shrink to their least width."""

    title: str
    right: bool = False
    keep: bool = False
    least: int = 6
    stated: bool = False  # its cells are names of states and get their colour


@dataclass(frozen=True)
class Table:
    """Columns and rows of text."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def render(table: Table, *, width: int, colour: bool) -> str:
    """Return the table as lines no longer than the width; cut cells end in an ellipsis."""
    rows = [tuple(printable(cell) for cell in row) for row in table.rows]
    widths = _widths(table.columns, rows, width)
    head = [_fitted(column.title, column, cells) for column, cells in zip(table.columns, widths, strict=True)]
    lines = [bold("  ".join(head).rstrip()) if colour else "  ".join(head).rstrip()]
    for row in rows:
        cells = [
            _cell(cell, column, room, colour) for cell, column, room in zip(row, table.columns, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def bold(text: str) -> str:
    """Return the text in bold, for a terminal."""
    return f"\x1b[1m{text}\x1b[0m"


def coloured(text: str, state: str) -> str:
    """Return the text in the colour of a state's name, for a terminal; as it is when the state has none."""
    code = STATE_COLOURS.get(state)
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _cell(text: str, column: Column, room: int, colour: bool) -> str:
    fitted = _fitted(text, column, room)
    return coloured(fitted, text) if colour and column.stated else fitted


def _fitted(text: str, column: Column, room: int) -> str:
    """The text in exactly so many columns of the terminal, where some characters take two."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) > room:
        text = set_cell_size(text, room - 1).rstrip() + "…"
    gap = " " * (room - cell_len(text))
    return gap + text if column.right else text + gap


def _widths(columns: Sequence[Column], rows: Sequence[tuple[str, ...]], width: int) -> list[int]:
    """What each column needs; where that is too much, the widest of those that may shrink give first."""
    from rich.cells import cell_len

    needs = [max([len(column.title), *(cell_len(row[index]) for row in rows)]) for index, column in enumerate(columns)]
    least = [need if column.keep else min(need, column.least) for column, need in zip(columns, needs, strict=True)]
    excess = sum(needs) + _GAP * (len(columns) - 1) - width
    while excess > 0 and needs != least:
        _, widest = max((need, index) for index, need in enumerate(needs) if need > least[index])
        needs[widest] -= 1
        excess -= 1
    return needs
