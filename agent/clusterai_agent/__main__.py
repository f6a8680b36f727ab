"""`clusterai-agent`: the node's own command. Imports what a command needs only when it runs: `run` stays small."""

import argparse
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from clusterai import __version__
from clusterai.program import run_program
from clusterai_agent.places import places

PROGRAM = "clusterai-agent"

_EXAMPLES = """\
examples:
  sudo clusterai-agent join                        paste a token at the prompt; the server is found by itself
  sudo clusterai-agent join --server tower.lan --token-file token.txt
  ssh tower sudo clusteractl token create | sudo clusterai-agent join --token-file -
  clusterai-agent status                           how this node is
  sudo clusterai-agent pause 2h                    rest for two hours; `resume` ends that
  sudo clusterai-agent setup ollama --from ollama-linux-amd64.tgz --sha256 HASH
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    form = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(PROGRAM, description="Cluster AI's agent.", epilog=_EXAMPLES, formatter_class=form)
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    top.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default {places().config})")
    top.add_argument("--check-config", action="store_true", help="check the configuration and end")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="be this machine's agent (systemd starts this)")
    _add_join(commands)
    leave = commands.add_parser("leave", help="leave the cluster: stop the workers and forget the identity")
    leave.add_argument("--yes", action="store_true", help="do not ask")
    status = commands.add_parser("status", help="how the running agent is; works without the server")
    facts = commands.add_parser("facts", help="what this machine is, and what its collectors read now")
    for command in (status, facts):
        command.add_argument("--json", action="store_true", help="print JSON")
    pause = commands.add_parser("pause", help="let this machine rest: its work leaves first (as root)")
    pause.add_argument("how_long", metavar="TIME|until-charged", help="90m, 2h, 3d, or until-charged")
    commands.add_parser("resume", help="end the pause (as root)")
    _add_setup(commands)
    return top


def _add_setup(commands: Any) -> None:
    setup = commands.add_parser("setup", help="install what this machine needs to serve models (as root)")
    what = setup.add_subparsers(dest="what", metavar="WHAT", required=True)
    ollama = what.add_parser("ollama", help="a release of Ollama, its user, models directory and unit, where missing")
    ollama.add_argument("--from", dest="source", default="", metavar="FILE|URL", help="the release's archive")
    ollama.add_argument("--sha256", default="", metavar="HASH", help="what the archive's SHA-256 must be")


def _add_join(commands: Any) -> None:
    join = commands.add_parser("join", help="join a cluster, with a token or by approval")
    join.add_argument("--server", default="", metavar="HOST[:PORT]", help="the server's enrolment address (port 7444)")
    join.add_argument("--token-file", default="", metavar="FILE", help="read the token from FILE; - for standard input")
    join.add_argument("--name", default="", help="this node's name (default: the token's, else the host name)")
    join.add_argument("--approve", action="store_true", help="join without a token: someone approves it on the server")
    join.add_argument("--force", action="store_true", help="replace the identity that this machine has")
    join.add_argument("--no-start", action="store_true", help="do not start the agent's unit")
    join.add_argument("--token", default=None, help=argparse.SUPPRESS)
    join.add_argument("token_argument", nargs="?", default=None, help=argparse.SUPPRESS)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = parser().parse_args(arguments)
    if not given.command and not given.check_config:
        parser().print_help()
        return 2
    return run_program(lambda: _command(given), PROGRAM)


def _command(given: argparse.Namespace) -> "Coroutine[Any, Any, int | None]":
    """Return the command's work. Called inside the exit boundary, so a bad configuration ends as a sentence too."""
    from clusterai.logs import configure_logs
    from clusterai_agent.config import load_config

    config = load_config(given.config)
    if given.check_config:
        return _checked(given.config)
    configure_logs(config.log.level if given.command == "run" else "warning")
    match given.command:
        case "run":
            from clusterai_agent.run import run

            return run(config)
        case "join":
            return _join(config, given)
        case "leave":
            from clusterai_agent.joincommand import leave

            return leave(config, confirmed=given.yes)
        case "setup":
            from clusterai_agent.setup_ollama import setup_ollama

            return setup_ollama(given.source, given.sha256)
        case "pause":
            from clusterai_agent.policy.pause import pause

            return pause(config, given.how_long)
        case "resume":
            from clusterai_agent.policy.pause import resume

            return resume(config)
        case "status":
            from clusterai_agent.show import show_status

            return show_status(config, as_json=given.json)
        case _:
            from clusterai_agent.show import show_facts

            return show_facts(config, as_json=given.json)


async def _checked(file: Path | None) -> None:
    print(f"{file or places().config}: ok")


def _join(config: Any, given: argparse.Namespace) -> "Coroutine[Any, Any, None]":
    from clusterai_agent.joincommand import JoinOptions, TokenOnCommandLine, join

    if given.token is not None or given.token_argument is not None:
        raise TokenOnCommandLine
    options = JoinOptions(given.server, given.name, given.token_file, given.approve, given.force, not given.no_start)
    return join(config, options)


if __name__ == "__main__":
    sys.exit(main())
