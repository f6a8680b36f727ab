"""The agent's composition root: all parts meet here."""

import asyncio
import contextlib
import gc
import logging
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from clusterai.errors import ClusterAIError
from clusterai.files import read_limited
from clusterai.policy_wire import class_to_wire
from clusterai.program import Notifier, feed_watchdog, stop_requested
from clusterai.pythons import available_minors
from clusterai.termux import termux_prefix
from clusterai.tokens import JoinToken
from clusterai.units import Units, open_units
from clusterai.v1.node_pb2 import Hello, NodeSpec, NodeStatus, Welcome
from clusterai.v1.types_pb2 import NodeFacts, Sample
from clusterai_agent.collectors import make_collectors
from clusterai_agent.collectors.termux_api import Phone
from clusterai_agent.config import AgentConfig
from clusterai_agent.connection import Connection, Whereabouts
from clusterai_agent.discovery import browse
from clusterai_agent.errors import NotJoined, check_termux
from clusterai_agent.facts import read_facts, refresh
from clusterai_agent.home import Home, Membership
from clusterai_agent.logstreams import LogStreams
from clusterai_agent.models.switch import open_models
from clusterai_agent.nvml import Nvml
from clusterai_agent.policy.keeper import PolicyKeeper
from clusterai_agent.policy.machine import machine_class
from clusterai_agent.policy.readings import Reader
from clusterai_agent.renewal import Renewer
from clusterai_agent.report import Report
from clusterai_agent.sampling import Sampler
from clusterai_agent.server import Server
from clusterai_agent.session import Ending, EndReason, Reports
from clusterai_agent.supervisor.desired import Limits
from clusterai_agent.supervisor.supervisor import Supervisor
from clusterai_agent.unitsconfig import units_config

log = logging.getLogger(__name__)

_IDENTITY_SECONDS = 3.0  # how often node.pem is looked at: a new join must not need a restart
_LOCAL_JOIN_SECONDS = (1.0, 30.0)
_SKEW_SECONDS = 30.0


async def run(config: AgentConfig) -> None:
    """Be this machine's agent until asked to stop. Workers go on running, but for a phone's.

    Raises:
        WrongTermux: this is Google Play's.
    """
    check_termux()
    stop = stop_requested()
    async with AsyncExitStack() as parts:
        notifier = Notifier()
        parts.callback(notifier.close)
        report = Report(config.state, notifier)
        parts.callback(report.remove)
        nvml = Nvml()
        parts.callback(nvml.close)
        sys.modules.setdefault("gi", None)  # type: ignore[arg-type]  # or dbus-fast loads GLib, 4 MB that nobody uses
        units = await parts.enter_async_context(open_units(units_config(config)))
        facts = await asyncio.to_thread(read_facts, config, nvml, available_minors)
        agent = Agent(config, Machine(units, facts, nvml), report)
        start = await parts.enter_async_context(_background())
        start(feed_watchdog(notifier), "watchdog")
        living = start(agent.run(), "agent")
        stopping = start(stop.wait(), "stop")
        gc.collect()
        gc.freeze()  # what stands now stands until the end: no collection needs to look at it again
        notifier.ready(report.status_line())
        await asyncio.wait((living, stopping), return_when=asyncio.FIRST_COMPLETED)
        notifier.stopping()


@dataclass(frozen=True)
class Machine:
    """What the agent runs on."""

    units: Units
    facts: NodeFacts
    nvml: Nvml


class Agent:
    """One identity after the other: joins if it is the server's own, serves, and waits where it must not come back."""

    def __init__(self, config: AgentConfig, machine: Machine, report: Report) -> None:
        self._config, self._machine, self._report = config, machine, report
        self._home = Home(config.state.directory)
        self._nonce = secrets.token_hex(16)

    async def run(self) -> None:
        """Serve as the node that node.pem names; begin anew whenever it is replaced.

        Raises:
            NotJoined: there is none, and this machine is not the server.
        """
        while True:
            if not self._home.joined:
                await self._join_own_server()
            mark = self._home.identity_mark()
            ending = await self._serve()
            if ending is not None:
                await self._stay_away(ending, mark)

    async def _serve(self) -> Ending | None:
        """Serve one identity; return why it must stay away, or None when another has taken its place."""
        membership = self._home.membership()
        return await Service(self._config, self._machine, self._report, self._home, membership, self._nonce).run()

    async def _stay_away(self, ending: Ending, mark: tuple[int, int]) -> None:
        """Do nothing until a person has given this machine a new identity."""
        self._report.waits(ending.reason.value, ending.detail or ending.reason.value, _ADVICE[ending.reason])
        while self._home.identity_mark() == mark:
            await asyncio.sleep(_IDENTITY_SECONDS)

    async def _join_own_server(self) -> None:
        """Join the server on this machine with the token that it left for this; wait for the server if it must be."""
        token_file = self._config.server.local_token_file
        pause = _LOCAL_JOIN_SECONDS[0]
        while not self._home.joined:
            if not token_file.exists():
                raise NotJoined(file=self._home.certificate)
            try:
                await self._join_with(read_limited(token_file, 4096).decode(errors="replace"))
            except ClusterAIError as error:
                self._report.waits("joining", f"cannot join the server on this machine: {error}", error.advice)
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311  jitter
                pause = min(pause * 2, _LOCAL_JOIN_SECONDS[1])

    async def _join_with(self, text: str) -> None:
        """Join with what the daemon wrote: the token, and on the next line where."""
        from clusterai_agent.joining import join_with_token, keep  # once in a machine's life

        facts = refresh(self._machine.facts)
        token, _, address = text.strip().partition("\n")
        server, enrolled = await join_with_token([address], JoinToken.parse(token), self._config.node.name, facts)
        membership = keep(self._home, server, enrolled)
        log.info("joined the server on this machine as node %s", membership.node_id)


_ADVICE = {
    EndReason.REVOKED: "to bring this machine back, join again: `clusterai-agent join --force` with a new token",
    EndReason.REPLACED: (
        "another machine uses this node's identity, perhaps a copy of this one: on one of them run "
        "`clusterai-agent join --force --name NEW-NAME`, or restart this agent to take the identity back"
    ),
}

_LOSS = {
    EndReason.REVOKED: "this node was removed from the cluster",
    EndReason.REPLACED: "another machine has this node's identity, and its workers' names",
}


class Service:
    """All that one identity needs: its connection, its workers and models, its certificate's renewal."""

    def __init__(
        self, config: AgentConfig, machine: Machine, report: Report, home: Home, membership: Membership, nonce: str
    ) -> None:
        self._machine, self._report, self._home, self._nonce = machine, report, home, nonce
        self._membership = membership
        self._server = Server()
        prefix = termux_prefix()
        phone = Phone(prefix) if prefix else None
        self._sampler = Sampler(make_collectors(config.state.compute_directory, machine.nvml, phone))
        limits = _limits(config, machine.facts)
        self._supervisor = Supervisor(
            config, limits, machine.units, self._server, self._observed, self._rest_is_overdue
        )
        self._models = open_models(config, machine.units, self._server, self._observed)
        machine_kind = machine_class(config, has_battery=machine.facts.has_battery)
        machine.facts.machine_class = class_to_wire(machine_kind)
        self._policy = PolicyKeeper(home, machine_kind, Reader(phone=phone))
        whereabouts = Whereabouts(config.server.addresses, browse if config.server.discover else None)
        reports = Reports(self._hello, self._sample, self._status)
        logs = LogStreams(units_config(config))
        self._connection = Connection(home, membership, whereabouts, self._server, reports, self, logs, report)
        self._renewer = Renewer(home, self._connection, self._server)

    async def run(self) -> Ending | None:
        """Serve until the daemon says to stay away (returned), or node.pem was replaced by a person (None)."""
        expires = self._connection.credentials.not_after.timestamp()
        self._report.identity(self._membership.node_id, self._membership.cluster_id, expires)
        await self._supervisor.reconcile()  # so that the hello tells of workers and models that are here already
        await self._models.look()
        await self._policy.look()
        self._sample()
        self._report.node_status(self._status())
        async with _background() as start:
            connected = start(self._connection.run(), "connection")
            replaced = start(self._identity_replaced(), "identity")
            start(self._supervisor.run(), "supervisor")
            start(self._models.run(), "models")
            start(self._policy.run(self._observed), "policy")
            start(self._renewer.run(), "renewal")
            start(self._sampler.read_slow_ones(), "slow collectors")
            await asyncio.wait((connected, replaced), return_when=asyncio.FIRST_COMPLETED)
        ending = connected.result() if connected.done() and not connected.cancelled() else None
        if ending is not None:
            await self._supervisor.give_up(_LOSS[ending.reason])
            await self._models.give_up()
        return ending

    def welcome_received(self, welcome: Welcome) -> None:
        """Note a clock that differs: certificates and logs depend on it."""
        skew = time.time() - welcome.server_clock_unix_seconds
        if welcome.server_clock_unix_seconds and abs(skew) > _SKEW_SECONDS:
            log.warning("this machine's clock is %+.0f s off the server's", skew)

    def spec_received(self, spec: NodeSpec) -> None:
        """Hand the desired state to those who make it so."""
        self._supervisor.want(spec)
        self._models.want(spec)
        self._policy.want(spec)

    def renewal_asked(self) -> None:
        """Renew now."""
        self._renewer.ask()

    def _hello(self) -> Hello:
        host, _, _ = self._server.address.rpartition(":")
        facts = refresh(self._machine.facts, self._sampler.absent, host.strip("[]"))
        return Hello(facts=facts, status=self._status(), session_nonce=self._nonce)

    def _sample(self) -> Sample:
        sample = self._sampler.sample()
        self._report.absent(self._sampler.absent)
        return sample

    def _status(self) -> NodeStatus:
        """All that was observed: of workers, and of models where they are watched."""
        status = NodeStatus()
        status.CopyFrom(self._supervisor.status)
        if (ollama := self._models.status) is not None:
            status.ollama.CopyFrom(ollama)
        status.policy.CopyFrom(self._policy.status)
        return status

    def _observed(self) -> None:
        self._report.node_status(self._status())
        self._connection.status_changed()

    def _rest_is_overdue(self) -> bool:
        return self._policy.rest_is_overdue(time.time())

    async def _identity_replaced(self) -> None:
        """Return when node.pem holds another key than the session stands on: somebody joined anew, or left."""
        mark = self._home.identity_mark()
        while True:
            await asyncio.sleep(_IDENTITY_SECONDS)
            if self._home.identity_mark() == mark:
                continue
            mark = self._home.identity_mark()
            with contextlib.suppress(ClusterAIError):
                if self._home.credentials().key_pem == self._connection.credentials.key_pem:
                    continue
            log.info("this machine's identity has changed")
            return


def _limits(config: AgentConfig, facts: NodeFacts) -> Limits:
    memory = facts.worker_limits.memory_limit_bytes
    return Limits(config.worker.enabled, config.worker.threads, facts.cpu_count, memory)


@contextlib.asynccontextmanager
async def _background() -> AsyncIterator[Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]]:
    """Starts tasks that end with the block; a crash of one ends the block, and in the end the program."""
    async with asyncio.TaskGroup() as group:
        started: list[asyncio.Task[Any]] = []

        def start(work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
            started.append(group.create_task(work, name=name))
            return started[-1]

        yield start
        for task in started:
            task.cancel()
