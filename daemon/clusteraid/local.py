"""`clusteraid local`: a whole cluster of one machine in one terminal, without root and without systemd.

The daemon and the agent are the real ones, with mutual TLS, as children of this process; units are run by the process
back-end. The state directory is all that remains.
"""

import argparse
import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from clusterai.pki import key_pem, new_csr, new_key
from clusterai.program import INTERRUPTED, run_program, stop_requested
from clusteraid.local_children import Child, become_subreaper, end_command, end_leftovers, run_command
from clusteraid.local_state import LocalOptions, LocalState, default_state, program
from clusteraid.local_watch import DaemonClient, Show, wait_until_up

PROGRAM = "clusteraid local"
_TOKEN_SECONDS, _TOKEN_POLL_SECONDS = 60.0, 0.05
_CERTIFICATE_SECONDS = 86400.0  # how often the Dask client's certificate is made anew; it lives for days
_EXAMPLES = """\
examples:
  clusteraid local                                   stay in the foreground; Ctrl-C ends all of it
  clusteraid local --workers 4                       four worker processes
  clusteraid local -- python3 examples/census.py     run a program with Dask's Client() connected, then end
"""


def parse(arguments: Sequence[str]) -> LocalOptions:
    """Return the options of the command line; what follows `--` is the command."""
    own, command = list(arguments), []
    if "--" in own:
        cut = own.index("--")
        own, command = own[:cut], own[cut + 1 :]
    parser = argparse.ArgumentParser(
        PROGRAM, usage=f"{PROGRAM} [options] [-- COMMAND ...]", epilog=_EXAMPLES,
        description="A cluster of this one machine: daemon, agent, Dask scheduler and workers, no root, no systemd.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--state", type=Path, default=default_state(), metavar="DIR", help=f"state [{default_state()}]")
    parser.add_argument("--workers", type=_count, default=0, metavar="N", help="worker processes [1, or one per GPU]")
    parser.add_argument("--threads", type=_count, default=0, metavar="N", help="threads of all workers together [CPUs]")
    parser.add_argument("--python", default="", metavar="3.X", help="the workers' Python minor [this program's]")
    parser.add_argument("--index-url", default="", metavar="URL", help="package index [pip's own configuration]")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take packages only from this directory of wheels")
    parser.add_argument("--stay", action="store_true", help="after COMMAND stay in the foreground")
    given = parser.parse_args(own)
    return LocalOptions(
        given.state.expanduser().absolute(), given.workers, given.threads, given.python, given.index_url, given.wheels,
        tuple(command), given.stay,
    )  # fmt: skip


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to 1024")
    return number


def main(arguments: Sequence[str]) -> int:
    """Run the command line after `clusteraid local` and return the exit code; that of COMMAND if there is one."""
    options = parse(arguments)
    return run_program(lambda: run(options), PROGRAM)


async def run(options: LocalOptions) -> int:
    """Bring the cluster up, run the command or wait for Ctrl-C, take everything down."""
    stop = stop_requested()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, stop.set)
    become_subreaper()
    state = LocalState(options.state)
    with state.claimed(), state.configured(options):
        work = asyncio.create_task(_cluster(state, options), name="local cluster")
        asked = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait((work, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            work.cancel()
            await asyncio.wait((work, asked))
            await end_leftovers()
        return INTERRUPTED if work.cancelled() else work.result()


async def _cluster(state: LocalState, options: LocalOptions) -> int:
    started = time.monotonic()
    async with AsyncExitStack() as parts:
        daemon = await parts.enter_async_context(_child("daemon", state, "clusteraid", state.daemon_config))
        await _agent_can_join(daemon, state)
        agent = await parts.enter_async_context(_child("agent", state, "clusterai_agent", state.agent_config, "run"))
        client = DaemonClient(state.socket)
        parts.push_async_callback(client.close)
        work = asyncio.create_task(_use(client, state, options, started), name="use")
        watched = [asyncio.create_task(child.ended(), name=child.name) for child in (daemon, agent)]
        try:
            await asyncio.wait((work, *watched), return_when=asyncio.FIRST_COMPLETED)
            ended = next((task.result() for task in watched if task.done()), None)
            if ended is not None and not work.done():
                raise ended
            return work.result()
        finally:
            await _cancelled(work, *watched)


@contextlib.asynccontextmanager
async def _child(name: str, state: LocalState, module: str, config: Path, *words: str) -> AsyncIterator[Child]:
    command = program(module, "--config", str(config), *words)
    child = await Child.start(name, command, state.logs / f"{name}.log")
    try:
        yield child
    finally:
        await child.stop()


async def _agent_can_join(daemon: Child, state: LocalState) -> None:
    """Wait until the daemon has left a token for the agent, unless it joined long ago: with neither, the agent ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TOKEN_SECONDS):
            while not state.agent_can_join and daemon.process.returncode is None:
                await asyncio.sleep(_TOKEN_POLL_SECONDS)


async def _cancelled(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _use(client: DaemonClient, state: LocalState, options: LocalOptions, started: float) -> int:
    """Wait until it computes, then do what the options say; return the exit code."""
    show = Show()
    try:
        await wait_until_up(client, show, state.logs)
    finally:
        show.done()
    variables = await _admit(client, state)
    await _announce(client, state, time.monotonic() - started, brief=bool(options.command))
    code = 0
    if options.command:
        code = await _command(options.command, variables)
        if not options.stay:
            return code
        await _announce(client, state, 0.0, brief=False)
    while True:
        await asyncio.sleep(_CERTIFICATE_SECONDS)
        await _admit(client, state)


async def _admit(client: DaemonClient, state: LocalState) -> dict[str, str]:
    """Get a certificate for Dask clients and write dask.env."""
    key = new_key()
    return state.write_dask_env(await client.dask_client(new_csr(key)), key_pem(key))


async def _command(command: Sequence[str], variables: dict[str, str]) -> int:
    process = await run_command(command, variables)
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        await end_command(process, asked=os.isatty(0))
        raise
    return 128 - status if status < 0 else status


def _clusteractl() -> str:
    """The command as it can be typed here: it may be installed only beside this Python."""
    beside = Path(sys.executable).with_name("clusteractl")
    return "clusteractl" if shutil.which("clusteractl") or not beside.exists() else shlex.quote(str(beside))


async def _announce(client: DaemonClient, state: LocalState, seconds: float, *, brief: bool) -> None:
    """Say that it is up and how to use it."""
    pool = (await client.status()).pools[0]
    took = f" after {seconds:.1f} s" if seconds else ""
    workers = f"{pool.worker_count} worker{'s' * (pool.worker_count != 1)}, {pool.thread_count} threads"
    print(f"Cluster AI runs{took}: {workers}, state in {state.directory}", file=sys.stderr, flush=True)
    if brief:
        return
    env, socket = shlex.quote(str(state.dask_env)), shlex.quote(str(state.socket))
    lines = (
        ("Python", f". {env}; python -c 'from dask.distributed import Client; print(Client())'"),
        ("Dashboard", pool.dashboard_address),
        ("Control", f"{_clusteractl()} --socket {socket} status"),
        ("Logs", f"{shlex.quote(str(state.logs))}/"),
    )
    for name, text in lines:
        print(f"  {name:<10} {text}", flush=True)
    print("Ctrl-C ends it.", flush=True)
