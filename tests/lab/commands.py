"""Runs programs of this machine for the lab."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandFailed(AssertionError):
    """A command ended otherwise than it should have; the message has all that it said."""


def run(command: Sequence[str | Path], *, seconds: float = 60, stdin: str | bytes = b"", check: bool = True) -> str:
    """Return what the command wrote to standard output.

    Raises:
        CommandFailed: it ended with another status than 0 (with `check`) or took longer.
    """
    return finished(command, seconds=seconds, stdin=stdin, check=check).stdout


def finished(
    command: Sequence[str | Path], *, seconds: float = 60, stdin: str | bytes = b"", check: bool = True
) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end; raise CommandFailed as `run` does."""
    words = [str(word) for word in command]
    data = stdin.decode() if isinstance(stdin, bytes) else stdin
    try:
        done = subprocess.run(
            words,
            input=data,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "COLUMNS": "80"},
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise CommandFailed(f"{' '.join(words)}: still running after {seconds} s\n{text[-4000:]}") from error
    if check and done.returncode:
        raise CommandFailed(f"{' '.join(words)}: status {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-6000:]}")
    return done
