"""Progress of something long: bars on a terminal, one line a step elsewhere, nothing with --json."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from clusteractl.command import Ctl
from clusteractl.words import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_WIDEST_TITLE = 30  # columns of the terminal


@dataclass(frozen=True)
class Progress:
    """`step(ratio, short, line)`: how much is done (0..1), in a few words beside a bar, as a line of its own."""

    step: Callable[[float, str, str], None]


@dataclass(frozen=True)
class ManyProgress:
    """The same for several things at once: the first argument says which.

    `end(title, line)` when one is done, `keep(titles)` when only these are still of interest.
    """

    step: Callable[[str, float, str, str], None]
    end: Callable[[str, str], None]
    keep: Callable[[Sequence[str]], None]


@contextmanager
def progress_on(ctl: Ctl, title: str) -> Iterator[Progress]:
    """Show progress on stderr until the block ends."""
    with many_progress_on(ctl, title) as many:
        yield Progress(partial(many.step, title))


@contextmanager
def many_progress_on(ctl: Ctl, *titles: str) -> Iterator[ManyProgress]:
    """Show the progress of several things on stderr until the block ends; those with these titles from the start."""
    if ctl.out.as_json:
        yield ManyProgress(lambda _title, _ratio, _short, _line: None, lambda _title, _line: None, _ignore)
    elif ctl.surroundings.draws:
        with _bars(titles, colour=ctl.out.colour) as progress:
            yield progress
    else:
        lines = _Lines(ctl.out.note)
        yield ManyProgress(lines.step, lines.end, _ignore)


def _ignore(_titles: Sequence[str]) -> None:
    """Lines that were said stay said."""


class _Lines:
    """Says each new line of a thing once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said = say, dict[str, str]()

    def step(self, title: str, _ratio: float, _short: str, line: str) -> None:
        if self._said.get(title) != line:
            self._said[title] = line
            self._say(line)

    def end(self, title: str, line: str) -> None:
        self.step(title, 1.0, "", line)


class _Bars:
    """One bar a thing; one that is done gives its place to a line above the others."""

    def __init__(self, bar: "Bar") -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}
        self._ended: set[str] = set()

    def add(self, title: str) -> "TaskID":
        if title not in self._tasks:
            self._tasks[title] = self._bar.add_task(printable(title), total=1.0, words="")
        return self._tasks[title]

    def step(self, title: str, ratio: float, short: str, _line: str) -> None:
        self._bar.update(self.add(title), completed=ratio, words=printable(short))

    def keep(self, titles: Sequence[str]) -> None:
        for title in self._tasks.keys() - set(titles):
            self._bar.remove_task(self._tasks.pop(title))

    def end(self, title: str, line: str) -> None:
        if title in self._ended:
            return
        self._ended.add(title)
        if title in self._tasks:
            self._bar.remove_task(self._tasks.pop(title))
        self._bar.console.print(printable(line), markup=False, soft_wrap=True)


@contextmanager
def _bars(titles: tuple[str, ...], *, colour: bool) -> Iterator[ManyProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    narrow = Column(no_wrap=True, max_width=_WIDEST_TITLE)
    console = Console(stderr=True, no_color=not colour, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=narrow), BarColumn(30),
        TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[words]}", markup=False),
    )  # fmt: skip
    with Bar(*columns, console=console, transient=True, expand=False) as bar:
        bars = _Bars(bar)
        for title in titles:
            bars.add(title)
        yield ManyProgress(bars.step, bars.end, bars.keep)
