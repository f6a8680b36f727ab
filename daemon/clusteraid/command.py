"""`clusteraid`: the command line."""

import argparse
import contextlib
import gc
import resource
import sys
from pathlib import Path

from clusterai import __version__
from clusterai.program import run_program
from clusteraid.config import DEFAULT_FILE, load_config

PROGRAM = "clusteraid"
# Each call leaves 5 objects that only Python's collector frees. With 2,000 nodes its run takes 35 ms, since it looks at
# all that heartbeats replaced since the last one: by default once in 134 calls, so once in 10,000, with 7 MB to free.
_COLLECT_AFTER_OBJECTS = 50_000


def main() -> int:
    """Run the command line and return the exit code."""
    if sys.argv[1:2] == ["local"]:
        from clusteraid import local  # a program of its own, with parts that the daemon has no use for

        return local.main(sys.argv[2:])
    if sys.argv[1:2] == ["setup"]:
        from clusteraid import setup

        return setup.main(sys.argv[2:])
    if sys.argv[1:2] == ["repo"]:
        from clusteraid.repository import command

        return command.main(sys.argv[2:])
    arguments = _parse()
    if arguments.check_config:
        return run_program(lambda: _check(arguments.config), PROGRAM)
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)  # before the imports, of which the collector takes a sixth
    from clusteraid.daemon import run

    _raise_file_limit()
    return run_program(lambda: run(arguments.config), PROGRAM)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        PROGRAM, description="The daemon of a Cluster AI server.",
        epilog="`clusteraid local` starts a whole cluster of this one machine, `clusteraid setup open-webui` adds chat "
        "in the browser to a server, `clusteraid repo` publishes packages for the nodes; see their --help.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration [{DEFAULT_FILE}, if it exists]")
    parser.add_argument("--check-config", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser.parse_args()


async def _check(file: Path | None) -> int:
    load_config(file)
    print(f"{file or DEFAULT_FILE}: ok")
    return 0


def _raise_file_limit() -> None:
    """Use as many file descriptors as this process may have: each agent takes one."""
    with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; systemd's LimitNOFILE= sets both
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
