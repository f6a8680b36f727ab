"""`clusterai-agent join` and `leave`: what a person types, sees and answers."""

import asyncio
import contextlib
import getpass
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterai.errors import ClusterAIError, Status
from clusterai.files import read_limited
from clusterai.ids import parse_node_id, suggest_node_id
from clusterai.pythons import available_minors
from clusterai.remote import split_address
from clusterai.termux import termux_prefix
from clusterai.tokens import JoinToken
from clusterai.units import UnitsConfig, UnitsUnavailable, open_units
from clusterai_agent.addresses import ENROLLMENT_PORT
from clusterai_agent.certificates import remove_unit_certificates
from clusterai_agent.config import AgentConfig, BackEnd
from clusterai_agent.errors import NotJoined, check_termux
from clusterai_agent.facts import read_facts
from clusterai_agent.home import Home, Membership
from clusterai_agent.joining import join_by_approval, join_with_token, keep, servers_to_try
from clusterai_agent.logstreams import AGENT_UNIT
from clusterai_agent.models.tunnel_units import Tunnels
from clusterai_agent.nvml import Nvml
from clusterai_agent.phone_boot import Boot, try_write
from clusterai_agent.supervisor.workers import Workers
from clusterai_agent.unitsconfig import units_config

_TOKEN_FILE_LIMIT = 4096
STANDARD_INPUT = "-"


class TokenOnCommandLine(ClusterAIError):
    code, status = "token-on-command-line", Status.USAGE
    message = "a token on the command line is shown to every user of this machine and stays in the shell's history"
    hint = (
        "revoke this one (`clusteractl token list`, `clusteractl token revoke ID`), make a new one, and paste it at "
        "the prompt of `clusterai-agent join`, or use --token-file FILE (- for standard input)"
    )


class NoToken(ClusterAIError):
    code, status = "no-token", Status.USAGE
    message = "no token was given"
    hint = "use --token-file FILE (- for standard input), or --approve to be approved on the server without one"


class AlreadyJoined(ClusterAIError):
    code, status = "already-joined", Status.CONFLICT
    message = "this machine is node {node} of cluster {cluster}"
    hint = "to leave that cluster run `clusterai-agent leave`; to replace its identity, join with --force"


class NoWriteAccess(ClusterAIError):
    code, status = "no-write-access", Status.DENIED
    message = "{user} may not write to {directory}"
    hint = "run it as root: `sudo clusterai-agent {command}`"


class StillRuns(ClusterAIError):
    code, status = "still-runs", Status.CONFLICT
    message = "the agent still runs on this phone"
    hint = "stop it with `sv-disable clusterai-agent`, then leave again"


@dataclass(frozen=True)
class JoinOptions:
    """The options of `join`."""

    server: str = ""
    name: str = ""
    token_file: str = ""
    approve: bool = False
    force: bool = False
    start: bool = True


async def join(config: AgentConfig, options: JoinOptions) -> None:
    """Join a cluster and start the agent."""
    check_termux()
    home = Home(config.state.directory)
    _check_writable(home.directory, "join")
    if home.joined and not options.force:
        membership = _membership(home)
        raise AlreadyJoined(node=membership.node_id, cluster=membership.cluster_id)
    name = _node_name(options.name or config.node.name)
    if options.server:
        split_address(options.server, ENROLLMENT_PORT)
    token = None if options.approve else _token(options.token_file)
    membership = await _join(config, options.server, token, name, home)
    print(f"This machine is now node {membership.node_id} of cluster {membership.cluster_id}.")
    await _start(config, options)
    print(f"See it on the server: clusteractl node show {membership.node_id}")


async def _join(config: AgentConfig, server: str, token: JoinToken | None, name: str, home: Home) -> Membership:
    facts = await asyncio.to_thread(read_facts, config, Nvml(), available_minors)
    servers = await servers_to_try(server, config)
    if token is not None:
        place, enrolled = await join_with_token(servers, token, name, facts)
    else:
        place, enrolled = await join_by_approval(servers, name or suggest_node_id(facts.hostname), facts, _confirm)
    with acting_as_owner(home.directory):
        remove_unit_certificates(config.state.compute_directory, config.state.gate)
        return keep(home, place, enrolled)


async def leave(config: AgentConfig, *, confirmed: bool) -> None:
    """Stop the agent and its workers and forget the identity."""
    home = Home(config.state.directory)
    _check_writable(home.directory, "leave")
    if not home.joined:
        raise NotJoined(file=home.certificate)
    membership = _membership(home)
    question = f"Leave cluster {membership.cluster_id} and stop this node's workers? [y/N] "
    if not confirmed and not await _asked(question):
        print("Nothing was changed.")
        return
    await _stop_everything(config)
    with acting_as_owner(home.directory):
        remove_unit_certificates(config.state.compute_directory, config.state.gate)
        home.forget()
    print(f"This machine has left. On the server run: clusteractl node remove {membership.node_id}")


@contextlib.contextmanager
def acting_as_owner(directory: Path) -> Iterator[None]:
    """Write as the user who owns the directory, when root: what the service user must read is then its own."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if os.geteuid() != 0 or status.st_uid == 0:
        yield
        return
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _token(token_file: str) -> JoinToken | None:
    """The token of the file, of standard input, or of the prompt; None when the person wants approval instead."""
    if token_file and token_file != STANDARD_INPUT:
        return JoinToken.parse(read_limited(Path(token_file), _TOKEN_FILE_LIMIT).decode(errors="replace"))
    if token_file == STANDARD_INPUT or not sys.stdin.isatty():
        text = sys.stdin.readline(_TOKEN_FILE_LIMIT).strip()
        if not text:
            raise NoToken
        return JoinToken.parse(text)
    text = getpass.getpass("Join token (it is not shown; empty: ask to be approved on the server): ").strip()
    return JoinToken.parse(text) if text else None


async def _confirm(code: str) -> bool:
    print(f"\n  {code}\n\nOn the server, `clusteractl node list` shows this machine as pending,")
    print("`clusteractl node show NAME` its code. Approve it there, and only when both codes are the same.")
    return await _asked("Does the server show the same code? [y/N] ")


async def _asked(question: str) -> bool:
    """The person's yes or no. Read in a thread that a cancelled join does not wait for: the process is about to end."""
    print(question, end="", flush=True)
    loop, answer = asyncio.get_running_loop(), asyncio.Event()
    heard: list[str] = []

    def readable() -> None:
        heard.append(sys.stdin.readline())
        answer.set()

    try:
        loop.add_reader(sys.stdin.fileno(), readable)
    except PermissionError:  # a plain file cannot be waited for, and need not
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    try:
        await answer.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return heard[0].strip().lower() in ("y", "yes")


def _node_name(text: str) -> str:
    return str(parse_node_id(text)) if text else ""


def _membership(home: Home) -> Membership:
    try:
        return home.membership()
    except ClusterAIError as error:
        raise AlreadyJoined(node="(unknown)", cluster=f"(unknown: {error})") from error


def _check_writable(directory: Path, command: str) -> None:
    """Refuse before anything is asked or sent."""
    place = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise NoWriteAccess(user=getpass.getuser(), directory=directory, command=command)


async def _start(config: AgentConfig, options: JoinOptions) -> None:
    """Start the agent's unit, or say how to."""
    if prefix := termux_prefix():
        print(try_write(Boot(prefix, config.state.directory)))
        print("Start it now, and whenever Termux starts: sv-enable clusterai-agent")
        return
    if config.units.back_end is BackEnd.PROCESS:
        print("Start the agent with: clusterai-agent run")
        return
    if not options.start:
        return
    try:
        async with open_units(_systemd()) as units:
            await units.restart(AGENT_UNIT)
        print("The agent runs (clusterai-agent.service).")
    except ClusterAIError as error:
        print(f"The agent could not be started from here: {error}")
        print("Start it with: sudo systemctl restart clusterai-agent")


async def _stop_everything(config: AgentConfig) -> None:
    """Stop agent, workers and gate; the agent first, or it would bring the others back."""
    prefix = termux_prefix()
    try:
        await _stop_units(config)
    except UnitsUnavailable as error:
        if prefix is None:
            raise
        raise StillRuns from error
    if prefix:
        Boot(prefix, config.state.directory).remove()


async def _stop_units(config: AgentConfig) -> None:
    async with open_units(units_config(config)) as units:
        if config.units.back_end is BackEnd.SYSTEMD:
            await units.stop(AGENT_UNIT)
        await Workers(config.state.compute_directory / "workers", units).stop_all_but(())
        await Tunnels(config.state.gate, units).stop()


def _systemd() -> UnitsConfig:
    return units_config(AgentConfig())
