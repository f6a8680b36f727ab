"""`clusteractl`: runs the command and turns what went wrong into a sentence, a hint and an exit code."""

import os
import sys
from collections.abc import Sequence

import click

from clusteractl.cli import cli
from clusteractl.errors import UsageFault
from clusteractl.output import ReaderLeft
from clusteractl.surroundings import Surroundings
from clusterai.errors import ClusterAIError

PROGRAM = "clusteractl"
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 done, 1 failed, 2 usage, 3 not found, 4 denied or 5 unreachable."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    surroundings = Surroundings.real()
    try:
        code = cli.main(words, prog_name=PROGRAM, standalone_mode=False, obj=surroundings)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ReaderLeft:
        return _reader_left()
    except click.ClickException as error:
        return _report(_usage_fault(error), words, surroundings)
    except ClusterAIError as error:
        return _report(error, words, surroundings)
    return code if isinstance(code, int) else 0


def _report(error: ClusterAIError, words: Sequence[str], surroundings: Surroundings) -> int:
    """Show the error where it belongs; `--json` counts even when the rest did not parse."""
    out = surroundings.output(as_json="--json" in words)
    out.error(error.code, str(error), error.advice, error.status.exit_code)
    return error.status.exit_code


def _usage_fault(error: click.ClickException) -> UsageFault:
    context = getattr(error, "ctx", None)
    sentence = error.format_message().strip().rstrip(".")
    command = context.command_path if context else PROGRAM
    return UsageFault(sentence=sentence[:1].lower() + sentence[1:], command=command)


def _reader_left() -> int:
    """The other end of the pipe is closed (`| head`): say nothing, not even when Python flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
