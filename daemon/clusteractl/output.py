"""Where results and errors go: text for people, JSON for scripts, never both on one stream."""

import json
import shutil
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from clusteractl.tables import Table, coloured, render
from clusteractl.words import printable

Block = str | Table
_PLAIN_WIDTH = 80
_SECOND = "\0"  # stands for the second column of a wide character


class ReaderLeft(Exception):
    """Whoever read the output has enough (`| head`). No OSError: click would take that for a failure."""


@dataclass(frozen=True)
class Output:
    """The two streams of a command and how to write on them. `width` in columns of the terminal."""

    stdout: TextIO
    stderr: TextIO
    as_json: bool = False
    colour: bool = False
    width: int = _PLAIN_WIDTH

    def show(self, data: Mapping[str, Any], blocks: Sequence[Block]) -> None:
        """Print a result: as one JSON object, or as lines and tables."""
        if self.as_json:
            self._write(self.stdout, json.dumps(data, indent=2))
            return
        for block in blocks:
            self._write(self.stdout, self._text(block))

    def record(self, data: Mapping[str, Any], text: str, state: str = "") -> None:
        """Print one of a stream of results: a JSON object or a line, coloured by a state's name, at once."""
        line = json.dumps(data) if self.as_json else printable(text)
        self._write(self.stdout, coloured(line, state) if self.colour and not self.as_json else line)

    def raw(self, text: str) -> None:
        """Print text for another program: a token, a script, settings."""
        self._write(self.stdout, text)

    def note(self, text: str) -> None:
        """Say something beside the result, to people only."""
        if not self.as_json:
            self._write(self.stderr, "\n".join(printable_lines(text)))

    def error(self, code: str, message: str, hint: str, exit_code: int) -> None:
        """Say why the command failed: a sentence and a hint, or the same as JSON."""
        if self.as_json:
            parts = {"code": code, "message": message, "hint": hint, "exit_code": exit_code}
            self._write(self.stderr, json.dumps({"error": parts}))
            return
        lines = [f"clusteractl: {printable(message)}", *(f"  {line}" for line in printable_lines(hint) if line)]
        self._write(self.stderr, "\n".join(lines))

    def _text(self, block: Block) -> str:
        if isinstance(block, Table):
            return render(block, width=self.width, colour=self.colour)
        return "\n".join(printable_lines(block))

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text + "\n")
            stream.flush()
        except BrokenPipeError as error:
            raise ReaderLeft from error


def printable_lines(text: str) -> list[str]:
    """Return the lines without control characters, their indent kept."""
    return [line[: len(line) - len(line.lstrip(" "))] + printable(line) for line in text.split("\n")]


def paragraph(text: str, *, indent: str = "", first: str | None = None, width: int = _PLAIN_WIDTH) -> str:
    """Return the text as lines that fit, each with the indent, the first with its own."""
    start = indent if first is None else first
    shown = _doubled(printable(text))
    wrapped = textwrap.fill(
        shown, width - (_SECOND in shown), initial_indent=start, subsequent_indent=indent, break_on_hyphens=False
    )
    return wrapped.replace(_SECOND, "") or start.rstrip()


def _doubled(text: str) -> str:
    """Mark the second column of wide characters: textwrap counts characters, a terminal columns."""
    if text.isascii():
        return text
    return "".join(one + _SECOND if unicodedata.east_asian_width(one) in "WF" else one for one in text)


def terminal_width() -> int:
    """Return the terminal's width in columns; 80 where there is none; COLUMNS decides when it is set."""
    return max(40, shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns)
