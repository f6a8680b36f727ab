"""Announcing the server by multicast DNS: a hint for agents, never a matter of trust. The only module with zeroconf."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, IPVersion, ServiceInfo
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from clusteraid.status import Problems

log = logging.getLogger(__name__)
SERVICE_TYPE = "_clusterai._tcp.local."
HTTPS_TYPE = "_https._tcp.local."
_AVAHI = Path("/run/avahi-daemon/socket")
_WIRE_VERSION = "1"
_SECONDS = 5.0
_FIX = "nodes find the server with `clusterai-agent join --server HOST`, and remember it"


@dataclass(frozen=True)
class Announcement:
    """What is announced. Hosts that are names are left out: multicast DNS carries addresses."""

    cluster_id: str
    hosts: Sequence[str]
    port: int
    enrollment_port: int
    https_port: int = 0  # of the gateway's pages; 0: there is no gateway here
    host_name_is_taken: bool = False  # another responder on this machine already answers for HOSTNAME.local

    def services(self) -> tuple[ServiceInfo, ...]:
        """Return what is announced as DNS-SD services, the daemon's own first."""
        addresses = [packed for host in self.hosts if (packed := _packed(host))]
        machine = socket.gethostname().partition(".")[0][:40]
        unique = f"{machine}-{self.cluster_id}.local."
        own = ServiceInfo(
            SERVICE_TYPE, f"{machine}-{self.cluster_id}.{SERVICE_TYPE}", addresses=addresses, port=self.port,
            properties={"cluster": self.cluster_id, "enroll": str(self.enrollment_port), "v": _WIRE_VERSION},
            server=unique,
        )
        if not self.https_port:
            return (own,)
        pages = ServiceInfo(
            HTTPS_TYPE, f"Cluster AI on {machine}.{HTTPS_TYPE}", addresses=addresses, port=self.https_port,
            properties={"path": "/"}, server=unique if self.host_name_is_taken else f"{machine}.local.",
        )
        return own, pages


def avahi_answers() -> bool:
    """Whether Avahi runs here. It answers for HOSTNAME.local with the addresses of each interface apart: a second
    answer would look like a conflict, and Avahi would give itself another name.
    """
    return _AVAHI.exists()


class Announcer:
    """Announces the server. A network without multicast is a problem to show, never a reason not to run."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._service: ServiceInfo | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._begun = asyncio.Event()

    async def keep(self, announcement: Announcement) -> None:
        """Announce, for ever; withdraw when cancelled. It takes a second or two: each name is asked for first."""
        try:
            await self.announce(announcement)
            await asyncio.Event().wait()
        finally:
            await self._withdraw()

    async def announce(self, announcement: Announcement) -> None:
        """Announce this in place of what was."""
        await self._withdraw()
        try:
            async with asyncio.timeout(_SECONDS):
                await self._announce(announcement.services())
            self._problems.set("multicast", "")
        except (OSError, ZeroconfError, TimeoutError) as error:
            self._problems.set("multicast", f"the server is not announced on the network ({error}); {_FIX}")
            log.warning("not announced by multicast DNS: %s", error)
        self._begun.set()

    async def check(self) -> bool:
        """Whether the announcement, once it is made, can be found on the network by this machine itself."""
        await self._begun.wait()
        if self._zeroconf is None or self._service is None:
            return False
        info = AsyncServiceInfo(SERVICE_TYPE, self._service.name)
        return bool(await info.async_request(self._zeroconf.zeroconf, 1500))

    async def _announce(self, services: Sequence[ServiceInfo]) -> None:
        self._zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
        for service in services:
            registered = await self._zeroconf.async_register_service(service, allow_name_change=True)
            await registered
        self._service = services[0]

    async def _withdraw(self) -> None:
        if self._zeroconf is not None:
            with contextlib.suppress(OSError, ZeroconfError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._zeroconf.async_close()
            self._zeroconf = None


def _packed(host: str) -> bytes | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            return socket.inet_pton(family, host)
    return None
