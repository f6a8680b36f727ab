"""What the daemon tells of the repository: where new machines begin, and whether it is well. It only reads."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from clusterai import __version__
from clusterai.files import BadFile, read_limited
from clusterai.remote import join_address
from clusterai.v1.cluster_pb2 import CheckResult
from clusteraid.config import DaemonConfig
from clusteraid.findings import Check, failed, not_applicable, ok, warning
from clusteraid.repository.contents import Older, in_order
from clusteraid.repository.key import FILE, content_if_signed
from clusteraid.repository.package import Distribution, Package
from clusteraid.repository.release import KEY_BINARY, SETUP, SUITE, load_release
from clusteraid.repository.repository import CURRENT
from clusteraid.repository.tools import ToolFailed, is_older

_LIMIT = 1 << 16
_HTTPS_PORT = 443
_SOON_SECONDS = 7 * 86400.0
_AGENT = "clusterai-agent"
_RENEW = "`sudo clusteraid repo renew`; see `systemctl status clusterai-repository.timer`"
_ADD = "`sudo clusteraid repo add` with the .debs of clusterai-agent, clusteractl and python3-clusterai"


@dataclass(frozen=True)
class SetupScript:
    """Where a new machine gets the script, and the SHA-256 that it has to have."""

    url: str
    sha256: str


class Published:
    """`installed` tells whether this machine has a gateway, which serves the repository; `hosts` reach it."""

    def __init__(self, config: DaemonConfig, hosts: Callable[[], Sequence[str]], installed: Callable[[], bool]) -> None:
        self._config, self._hosts, self._installed = config, hosts, installed
        self._current = config.repository.directory / CURRENT

    def setup(self) -> SetupScript | None:
        """Return what to tell a new machine; None while nothing is published, or no name of the server suits apt."""
        host, port = setup_host(self._config, self._hosts()), self._config.gateway.https_port
        if not self._installed() or not host:
            return None
        try:
            script = read_limited(self._current / SETUP, _LIMIT)
        except BadFile:
            return None
        place = host if port == _HTTPS_PORT else join_address(host, port)
        return SetupScript(f"https://{place}/repo/{SETUP}", hashlib.sha256(script).hexdigest())

    def checks(self) -> dict[str, Check]:
        """Return what `clusteractl doctor` asks of it."""
        return {"repository": self._check}

    async def _check(self) -> CheckResult:
        if not self._installed() or not self._current.is_symlink():
            return not_applicable(f"no package is published: {_ADD}")
        return await asyncio.to_thread(self._look)

    def _look(self) -> CheckResult:
        key = self._config.server.state_directory / FILE
        if not key.exists():
            return failed(f"the key of the repository, {key}, is missing", "restore it from a backup")
        try:
            until = min(_valid_until(self._current, distribution) for distribution in Distribution)
        except (ToolFailed, ValueError) as error:
            return failed(f"the signature of the repository is not good: {error}", _RENEW)
        if until < (now := time.time()):
            return failed("the repository has expired: apt refuses it", _RENEW)
        if until < now + _SOON_SECONDS:
            return warning("the repository expires within a week and is not renewed", _RENEW)
        return about_agents(load_release(self._current.resolve()).packages, __version__, is_older)


def setup_host(config: DaemonConfig, hosts: Sequence[str]) -> str:
    """Return the name under which new machines shall reach the gateway; empty when there is none that apt can take.

    An own certificate has its own names. apt's settings for a host cannot hold the colons of IPv6.
    """
    gateway = config.gateway
    ordered = (*gateway.names, *hosts) if gateway.certificate else (*hosts, *gateway.names)
    return next((host for host in ordered if ":" not in host), "")


def about_agents(packages: Sequence[Package], own_version: str, older: Older) -> CheckResult:
    """Tell whether nodes can get an agent from here that is as new as the daemon."""
    ours = [one for one in packages if one.name == _AGENT and one.distribution is Distribution.DEBIAN]
    if not ours:
        return warning(f"{_AGENT} is not published: new machines cannot install it from here", _ADD)
    newest = in_order(ours, older)[0].version
    if older(newest, own_version):
        return warning(f"the newest {_AGENT} here is {newest}, the daemon is {own_version}", _ADD)
    return ok(f"{len(packages)} packages, {_AGENT} {newest}, well signed")


def _valid_until(release: Path, distribution: Distribution) -> float:
    """Return until when apt takes the repository; raise ToolFailed, ValueError when its signature is not good."""
    signed = release / distribution.value / "dists" / SUITE / "InRelease"
    told = content_if_signed(signed, release / KEY_BINARY)
    until = next((line for line in told.splitlines() if line.startswith("Valid-Until:")), "")
    return parsedate_to_datetime(until.partition(":")[2]).timestamp()
