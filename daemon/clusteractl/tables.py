"""Tables as plain values, and how they become text of a given width."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from clusteractl.words import printable

STYLES = {
    "ready": "green", "registered": "green", "running": "green", "active": "green", "ok": "green", "usable": "green",
    "pending": "cyan", "draining": "cyan", "drained": "cyan", "held": "cyan", "starting": "cyan", "activating": "cyan",
    "suspect": "yellow", "incompatible": "yellow", "warning": "yellow", "resting": "yellow",
    "offline": "red", "failed": "red", "revoked": "red", "expired": "red",
}  # fmt: skip
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
    from rich.console import Console
    from rich.table import Table as Drawing
    from rich.text import Text

    rows = [tuple(printable(cell) for cell in row) for row in table.rows]
    drawing = Drawing(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column, cells in zip(table.columns, _widths(table.columns, rows, width), strict=True):
        justify = "right" if column.right else "left"
        drawing.add_column(column.title, justify=justify, no_wrap=True, overflow="ellipsis", width=cells)  # type: ignore[arg-type]
    for row in rows:
        drawing.add_row(*(Text(cell, _style(column, cell)) for column, cell in zip(table.columns, row, strict=True)))
    target = StringIO()
    console = Console(
        file=target,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
    )
    console.print(drawing)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines())


def _style(column: Column, cell: str) -> str:
    return STYLES.get(cell, "") if column.stated else ""


def _widths(columns: Sequence[Column], rows: Sequence[tuple[str, ...]], width: int) -> list[int]:
    """Return each column's width: what it needs, and where that is too much the widest ones give first."""
    from rich.cells import cell_len

    needs = [max([len(column.title), *(cell_len(row[index]) for row in rows)]) for index, column in enumerate(columns)]
    least = [need if column.keep else min(need, column.least) for column, need in zip(columns, needs, strict=True)]
    excess = sum(needs) + _GAP * (len(columns) - 1) - width
    while excess > 0:
        widest = max(range(len(needs)), key=lambda index: needs[index] if needs[index] > least[index] else -1)
        if needs[widest] <= least[widest]:
            break
        needs[widest] -= 1
        excess -= 1
    return needs
