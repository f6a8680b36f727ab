"""The daemon's composition root: all parts meet here, and are taken down in reverse order."""

import asyncio
import json
import logging
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from clusterai.files import CannotWrite, write_atomic
from clusterai.ids import PoolName
from clusterai.logs import configure_logs
from clusterai.machine import own_machine_id
from clusterai.program import Notifier, feed_watchdog, stop_requested
from clusterai.remote import join_address
from clusterai.units import Units, UnitsConfig, open_units
from clusterai.v1.cluster_pb2_grpc import add_ClusterServiceServicer_to_server
from clusterai.v1.enrollment_pb2_grpc import add_EnrollmentServiceServicer_to_server
from clusterai.v1.event_pb2_grpc import add_EventServiceServicer_to_server
from clusterai.v1.key_pb2_grpc import add_KeyServiceServicer_to_server
from clusterai.v1.log_pb2_grpc import add_LogServiceServicer_to_server
from clusterai.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from clusterai.v1.node_admin_pb2_grpc import add_NodeAdminServiceServicer_to_server
from clusterai.v1.node_pb2_grpc import add_NodeServiceServicer_to_server
from clusterai.v1.operator_pb2_grpc import add_OperatorServiceServicer_to_server
from clusterai.v1.policy_pb2_grpc import add_PolicyServiceServicer_to_server
from clusterai.v1.token_pb2_grpc import add_TokenServiceServicer_to_server
from clusterai.v1.unit_pb2_grpc import add_UnitServiceServicer_to_server
from clusterai.v1.worker_pb2_grpc import add_WorkerServiceServicer_to_server
from clusteraid.addresses import Reach, host_from_here, own_hosts
from clusteraid.announce import Announcement, Announcer, avahi_answers
from clusteraid.authority import Authority
from clusteraid.checks import CheckedParts, Checks
from clusteraid.config import DaemonConfig, load_config
from clusteraid.drain import Drains
from clusteraid.emptying import Emptying
from clusteraid.entrance import build_entrance
from clusteraid.events import Events
from clusteraid.former_schedulers import FormerSchedulers
from clusteraid.gateway.gateway import Gateway, GatewayParts
from clusteraid.gateway.served import Served
from clusteraid.gateway.status import GatewayStatus
from clusteraid.holds import Holds
from clusteraid.local_node import LocalNode, is_own
from clusteraid.machine_units import MachineUnits
from clusteraid.models.catalogue import CatalogueFile
from clusteraid.models.desires import DesiredModels
from clusteraid.models.live import LiveModels
from clusteraid.models.models import Models
from clusteraid.models.specs import SpecMaker
from clusteraid.nodes import Counter, Nodes
from clusteraid.plan import pool_plan
from clusteraid.policies import Policies
from clusteraid.pool import Pool
from clusteraid.pools import Pools
from clusteraid.reload import Reloader
from clusteraid.removal import Removal
from clusteraid.repository.published import Published
from clusteraid.resting import Rests
from clusteraid.servicers.cluster import ClusterServicer
from clusteraid.servicers.enrollment import EnrollmentServicer
from clusteraid.servicers.event import EventServicer
from clusteraid.servicers.key import KeyServicer
from clusteraid.servicers.log import LogServicer
from clusteraid.servicers.model import ModelServicer
from clusteraid.servicers.node import NodeServicer
from clusteraid.servicers.node_admin import NodeAdminServicer
from clusteraid.servicers.operator import OperatorServicer
from clusteraid.servicers.policy import PolicyServicer
from clusteraid.servicers.token import TokenServicer
from clusteraid.servicers.unit import UnitServicer
from clusteraid.servicers.worker import WorkerServicer
from clusteraid.serving import AddServicer, Doors, Ports, serving
from clusteraid.sessions import Sessions
from clusteraid.status import AboutServer, Problems, StatusReport
from clusteraid.store import Store
from clusteraid.store_access import AccessStore
from clusteraid.store_models import ModelStore
from clusteraid.store_nodes import NodeStore
from clusteraid.store_policies import PolicyStore
from clusteraid.views import Views

log = logging.getLogger(__name__)
_ADDRESSES_SECONDS = 10.0


class _Stopped(Exception):
    """Ends the task group when the daemon was asked to stop."""


async def run(file: Path | None) -> None:
    """Build the daemon, run until asked to stop, take it down in reverse order."""
    config = load_config(file)
    configure_logs(config.log.level.value)
    stop, notifier = stop_requested(), Notifier()
    async with AsyncExitStack() as parts:
        parts.callback(notifier.close)
        store = await parts.enter_async_context(Store.open(config.server.database))
        units = await parts.enter_async_context(open_units(units_config(config)))
        daemon = Daemon(file, config, store, units, notifier)
        await daemon.load()
        parts.push_async_callback(daemon.close)
        try:
            async with asyncio.TaskGroup() as tasks:
                await daemon.serve(tasks, stop)
                raise _Stopped
        except* _Stopped:
            log.info("stopped")


def units_config(config: DaemonConfig) -> UnitsConfig:
    """Return how this machine's units are controlled."""
    return UnitsConfig(
        back_end=config.units.back_end.value,
        state_directory=config.units.state_directory or config.server.state_directory / "units",
        launch_directories={"clusterai-scheduler": config.pool.scheduler_directory},
        stop_on_exit=config.units.stop_on_exit,
    )


class Daemon:
    """All parts of the daemon."""

    def __init__(
        self, file: Path | None, config: DaemonConfig, store: Store, units: Units, notifier: Notifier
    ) -> None:
        self.config, self.store, self.control, self.notifier = config, store, units, notifier
        self.problems = Problems()
        self.reloader = Reloader(file, config, self.problems, notifier)
        self.authority = Authority.open(
            config.server.state_directory / "pki", lifetime=config.certificates.lifetime
        )
        self.access_store = AccessStore(store, self.authority.cluster_id)
        self.node_store = NodeStore(store, self.authority.cluster_id)
        self.events = Events(self.node_store)
        self.schedulers = [Pool(pool_plan(one), one, units, self.authority.dask(one.name)) for one in config.pools]
        self.pools = Pools(*self.schedulers)
        self.units = MachineUnits(units, [PoolName(one.name) for one in config.pools])
        self.reach = Reach(partial(own_hosts, config.server.listen, config.server.advertise))
        self.file = file
        self.is_own = partial(is_own, machine_id=own_machine_id())

    async def load(self) -> None:
        """Read what the store knows, and build what depends on it."""
        numbers = Counter(await self.node_store.begin_era())
        await self.events.load()
        self.entrance = await build_entrance(self.access_store, self.authority, self.events)
        self.nodes = Nodes(self.node_store, self.events, self.pools, numbers)
        self.sessions = Sessions(self.nodes, self.events, self.config.session, self.reach.cluster, numbers)
        self.local_node = LocalNode(
            self.config.local_node, self.entrance.tokens, self.nodes, self.problems, self._enrollment_from_here
        )
        self.nodes.plan_environments(lambda node: self.pools.further_environments() if self.is_own(node) else ())
        self.nodes.on_reported(lambda node: self.pools.built_here(node.status) if self.is_own(node) else None)
        self.holds = Holds(self.nodes, self.pools)
        self.views = Views(self.nodes, self.pools)
        self.policies = Policies(PolicyStore(self.store), self.nodes, self.events)
        await self.policies.load()
        await self.nodes.load()
        await self._load_models()
        self.gateway = Gateway(
            GatewayParts(
                self.config, self.store, self.events, self.authority, self.control, self.nodes, self.inventory,
                self.entrance.revocations, self.reach, self.problems, self.is_own, self.inventory.copy_limit,
            )
        )
        await self.gateway.load()
        self.repository = Published(self.config, lambda: self.reach.hosts, lambda: self.gateway.installed)
        self.entrance.enrollment.on_enrolled(self.nodes.node_enrolled)
        self.entrance.enrollment.on_enrolled(self.local_node.node_enrolled)
        self.entrance.revocations.on_revoked(self.sessions.identity_revoked)
        self.reloader.on_reloaded(lambda config: self.sessions.reconfigure(config.session))

    async def _load_models(self) -> None:
        config, desired = self.config, DesiredModels(ModelStore(self.store))
        await desired.load()
        catalogue = CatalogueFile(lambda: self.reloader.config.models.catalog_file, self.problems)
        self.reloader.on_reloaded(lambda _: catalogue.reload())
        specs = SpecMaker(config.models, config.gateway)
        has_mirror = self.config.gateway.directory.is_dir
        self.inventory = LiveModels(self.nodes, desired, specs, self.is_own, has_mirror, catalogue.size_of)
        status = GatewayStatus(config.gateway.status_port)
        self.models = Models(self.nodes, self.inventory, desired, catalogue, self.events, status)
        self.inventory.begin()

    async def serve(self, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Start the background work, open the doors, and run until asked to stop."""
        self.drains = Drains(self.nodes, self.node_store, self.pools, self.events, tasks)
        Rests(self.nodes, Emptying(self.nodes, self.pools), self.events, tasks, self.policies.drain_seconds)
        self.announcer = Announcer(self.problems)
        self._start_background(tasks)
        server = self.config.server
        async with AsyncExitStack() as open_parts:
            ports = Ports(server.port, server.enrollment_port)
            ports = await open_parts.enter_async_context(serving(self._doors(), server.listen, ports, server.socket))
            self.reach.opened(ports.cluster, ports.enrollment)
            self._write_ports(ports)
            tasks.create_task(self.local_node.keep_token(), name="local node")
            if self.config.discovery.announce:
                tasks.create_task(self.announcer.keep(self._announcement()), name="announcement")
            tasks.create_task(self._follow_addresses(), name="addresses")
            self.drains.resume()
            await self.local_node.offered()
            self.notifier.ready(self.report.line())
            await stop.wait()
            self.notifier.stopping()
            self.gateway.freeze()
            await self.sessions.shut_down()

    async def close(self) -> None:
        """Write what waits to be written."""
        self.holds.close()
        await self.nodes.save_facts()
        await self.events.close()

    def _start_background(self, tasks: asyncio.TaskGroup) -> None:
        hangup = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
        about = AboutServer(
            self.authority.cluster_id, self.authority.ca_sha256, self.authority.ca_pem, str(self.file or ""), self.reach
        )
        served = Served(self.gateway.urls, self.control, self.inventory)
        self.report = StatusReport(about, self.nodes, self.pools, self.store, self.problems, served.status)
        work = {
            **{f"pool {pool.plan.name}": pool.run() for pool in self.schedulers},
            "former schedulers": self._former_schedulers().end(),
            "silence": self.sessions.watch(),
            "models": self.inventory.keep_current(),
            "events": self.events.keep_saving(),
            "facts": self.nodes.keep_saving_facts(),
            "certificate": self.entrance.certificate.keep_fresh(),
            "status": self.report.keep_telling(self.notifier),
            "reload": self.reloader.keep_reloading(hangup),
            "watchdog": feed_watchdog(self.notifier),
            **self.gateway.work(),
        }
        for name, coroutine in work.items():
            tasks.create_task(coroutine, name=name)

    def _doors(self) -> Doors:
        """Return what is served where."""
        entrance = self.entrance
        enrollment = EnrollmentServicer(
            entrance.enrollment, entrance.approvals, self.authority.ca_pem, self.reach.cluster
        )
        return Doors(
            entrance.access,
            self._services(),
            (partial(add_EnrollmentServiceServicer_to_server, enrollment),),
            entrance.certificate.server_credentials(require_client=True),
            entrance.certificate.server_credentials(require_client=False),
        )

    def _services(self) -> tuple[AddServicer, ...]:
        """Return the services of the mTLS port and the local socket."""
        entrance, authority, nodes = self.entrance, self.authority, self.nodes
        removal = Removal(nodes, self.node_store, self.drains, self.pools, authority, entrance.revocations)
        node = NodeServicer(self.sessions, nodes, authority, entrance.renewals, self.pools)
        admin = NodeAdminServicer(
            nodes, self.views, entrance.approvals, self.drains, removal,
            lambda: self.reloader.config.drain.deadline_seconds,
        )
        worker = WorkerServicer(self.views, authority, self.pools, self.events, self.reach.at_first_host)
        logs = LogServicer(self.units, units_config(self.config), nodes, self.sessions)
        servicers: tuple[tuple[Any, Any], ...] = (
            (add_LogServiceServicer_to_server, logs),
            (add_NodeServiceServicer_to_server, node),
            (add_NodeAdminServiceServicer_to_server, admin),
            (add_ClusterServiceServicer_to_server, ClusterServicer(self.report, self._checks(), entrance.approvals)),
            (add_EventServiceServicer_to_server, EventServicer(self.events)),
            (add_WorkerServiceServicer_to_server, worker),
            (add_KeyServiceServicer_to_server, KeyServicer(self.gateway.keys, self.gateway.urls)),
            (add_PolicyServiceServicer_to_server, PolicyServicer(self.policies)),
            (add_UnitServiceServicer_to_server, UnitServicer(self.units)),
            (add_ModelServiceServicer_to_server, ModelServicer(self.models)),
            (
                add_TokenServiceServicer_to_server,
                TokenServicer(entrance.tokens, self.reach.enrollment, self.repository.setup),
            ),
            (
                add_OperatorServiceServicer_to_server,
                OperatorServicer(entrance.operators, entrance.renewals, authority.ca_pem),
            ),
        )
        return tuple(partial(add, servicer) for add, servicer in servicers)

    def _checks(self) -> Checks:
        return Checks(
            CheckedParts(
                self.config, self.reach, self.nodes, self.store, self.entrance.certificate, self.units, self.control,
                self.pools, self.problems, self.announcer.check,
            ),
            self.gateway.checks() | self.repository.checks(),
        )

    def _former_schedulers(self) -> FormerSchedulers:
        names = {pool.plan.name for pool in self.schedulers}
        return FormerSchedulers(self.config.pool.scheduler_directory, names, self.control)

    def _enrollment_from_here(self) -> str:
        return join_address(host_from_here(self.config.server.listen), self.reach.enrollment_port)

    async def _follow_addresses(self) -> None:
        """Tell nodes and the network of addresses that this machine gets while the daemon runs."""
        while True:
            await asyncio.sleep(_ADDRESSES_SECONDS)
            if self.reach.look():
                log.warning("this machine's addresses are now %s", ", ".join(self.reach.hosts))
                if self.config.discovery.announce:
                    await self.announcer.announce(self._announcement())

    def _announcement(self) -> Announcement:
        reach, pages = self.reach, self.config.gateway.https_port if self.gateway.installed else 0
        return Announcement(
            self.authority.cluster_id, reach.hosts, reach.cluster_port, reach.enrollment_port, pages, avahi_answers()
        )

    def _write_ports(self, ports: Ports) -> None:
        """Write the real ports where others on this machine can find them; a full disk is no reason not to run."""
        values = {"port": ports.cluster, "enrollment_port": ports.enrollment}
        try:
            write_atomic(self.config.server.state_directory / "ports.json", json.dumps(values).encode())
        except CannotWrite as error:
            log.warning("%s", error)
