"""Progress of something long: a bar on a terminal, one line a step elsewhere, nothing with --json."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clusteractl.command import Ctl
from clusteractl.words import printable


@dataclass(frozen=True)
class Progress:
    """`step(ratio, short, line)`: how much is done (0..1), in a few words beside a bar, as a line of its own."""

    step: Callable[[float, str, str], None]


@contextmanager
def progress_on(ctl: Ctl, title: str) -> Iterator[Progress]:
    """Show progress on stderr until the block ends."""
    if ctl.out.as_json:
        yield Progress(lambda _ratio, _short, _line: None)
    elif ctl.surroundings.draws:
        with _bar(title, colour=ctl.out.colour) as progress:
            yield progress
    else:
        yield Progress(_lines(ctl.out.note))


def _lines(say: Callable[[str], None]) -> Callable[[float, str, str], None]:
    """Return a step that says each new line once."""
    said: list[str] = []

    def step(_ratio: float, _short: str, line: str) -> None:
        if said[-1:] != [line]:
            said[:] = [line]
            say(line)

    return step


@contextmanager
def _bar(title: str, *, colour: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, no_color=not colour, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"),
               TextColumn("{task.fields[words]}", markup=False))  # fmt: skip
    with Bar(*columns, console=console, transient=True, expand=False) as bar:
        task = bar.add_task(title, total=1.0, words="")

        def step(ratio: float, short: str, _line: str) -> None:
            bar.update(task, completed=ratio, words=printable(short))

        yield Progress(step)
