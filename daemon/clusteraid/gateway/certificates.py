"""The certificates in the gateway's directory: the cluster CA, the gateway's own, the one that programs are shown."""

import asyncio
import contextlib
import ipaddress
import logging
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from clusterai.credentials import Credentials, load_credentials, renewal_time, save_credentials
from clusterai.errors import ClusterAIError
from clusterai.files import BadFile, read_limited, write_atomic
from clusterai.pki import Issued, check_pair, hosts_of, key_pem, new_csr, new_key
from clusterai.units import Units
from clusteraid.config import GatewayConfig
from clusteraid.gateway.data import FILE_MODE
from clusteraid.machine_units import GATEWAY_UNIT
from clusteraid.status import Problems

log = logging.getLogger(__name__)
CA, GATEWAY, WEB = "cluster-ca.pem", "gateway.pem", "web.pem"
_FILE_LIMIT = 1 << 16
_LOOK_SECONDS, _SOON_SECONDS = 10.0, 0.2
_HOST = re.compile(r"[a-z0-9_]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9-]{0,61}[a-z0-9])?)*")
_NAMES_LIMIT = 64


class GatewayAuthority(Protocol):
    """Issues the gateway's certificates."""

    ca_pem: bytes

    def issue_gateway(self, csr_der: bytes) -> Issued:
        """Issue the one that gates let in and that the mirror shows."""

    def issue_web(self, csr_der: bytes, names: Sequence[str]) -> Issued:
        """Issue the one that people's programs see."""


def web_names(reached_at: Iterable[str], hostname: str, configured: Iterable[str]) -> tuple[str, ...]:
    """Return the names and addresses under which people's programs may reach this machine, checked, each once."""
    machine = hostname.lower()
    first = machine.partition(".")[0]
    found = [*configured, *reached_at, machine, first, f"{first}.local", "localhost", "127.0.0.1", "::1"]
    return tuple(dict.fromkeys(name.lower() for name in found if _is_host(name.lower())))[:_NAMES_LIMIT]


@dataclass(frozen=True)
class CertificateParts:
    """Who issues, for which names, and who is told."""

    config: GatewayConfig
    authority: GatewayAuthority
    names: Callable[[], tuple[str, ...]]  # as they are now: a machine may get another address
    units: Units
    problems: Problems


class GatewayCertificates:
    """Keeps the files fresh, and lets the running gateway take new ones: open streams go on."""

    def __init__(self, parts: CertificateParts) -> None:
        self._parts, self._directory = parts, parts.config.directory
        self._jitter = random.random()  # noqa: S311
        self._must_reload: bool | None = None  # None: nobody has looked since the daemon started

    async def keep_fresh(self) -> None:
        """Write what is missing, foreign or due, and reload the gateway then; for ever."""
        while True:
            await self.look()
            await asyncio.sleep(min(_LOOK_SECONDS, self._until_renewal() + _SOON_SECONDS))

    async def look(self) -> None:
        """Look once. Without the gateway's directory there is none on this machine."""
        if not self._directory.is_dir():
            return
        try:
            changed = await asyncio.to_thread(self._write)
            self._note("")
        except ClusterAIError as error:
            changed = False
            self._note(f"the gateway's certificates are not renewed: {error}; {error.advice}")
        if self._must_reload is None:
            self._must_reload = changed or await self._is_older()
        self._must_reload = self._must_reload or changed
        if self._must_reload:
            await self._reload()

    def _write(self) -> bool:
        """Write what differs; return whether anything did."""
        authority, changed = self._parts.authority, False
        if _content(self._directory / CA) != authority.ca_pem:
            write_atomic(self._directory / CA, authority.ca_pem, FILE_MODE)
            changed = True
        if self._is_due(GATEWAY):
            self._issue(GATEWAY, authority.issue_gateway)
            changed = True
        return self._write_web() or changed

    def _write_web(self) -> bool:
        if self._parts.config.certificate is not None:
            try:
                return self._copy_own()
            except BadFile as error:
                self._parts.problems.set("own certificate", f"[gateway] certificate is not used: {error}")
                if self._is_good(WEB):
                    return False
        else:
            self._parts.problems.set("own certificate", "")
        if not self._is_due(WEB) and self._names_are_right():
            return False
        self._issue(WEB, lambda csr: self._parts.authority.issue_web(csr, self._parts.names()))
        return True

    def _copy_own(self) -> bool:
        """Put the administrator's own certificate and key into place; raise BadFile when they cannot be used."""
        certificate, key = self._parts.config.certificate, self._parts.config.key
        assert certificate is not None
        assert key is not None
        chain, secret = read_limited(certificate, _FILE_LIMIT), read_limited(key, _FILE_LIMIT)
        try:
            ends = check_pair(chain, secret)
        except ValueError as error:
            raise BadFile(certificate, str(error), "put the right PEM files there") from error
        if ends <= datetime.now(UTC):
            raise BadFile(certificate, f"it expired on {ends:%F}", "renew it")
        self._parts.problems.set("own certificate", "")
        path = self._directory / WEB
        if _content(path) == secret.rstrip() + b"\n" + chain:
            return False
        save_credentials(path, secret, chain, FILE_MODE)
        log.info("the gateway shows %s, valid until %s UTC", certificate, f"{ends:%F %T}")
        return True

    def _issue(self, name: str, issue: Callable[[bytes], Issued]) -> None:
        key = new_key()
        issued = issue(new_csr(key))
        save_credentials(self._directory / name, key_pem(key), issued.chain_pem, FILE_MODE)
        log.info("new certificate %s for the gateway, valid until %s UTC", name, f"{issued.not_after:%F %T}")

    def _is_due(self, name: str) -> bool:
        """Whether the file is to be made anew: there is none, another CA issued it, or it is old."""
        current = self._current(name)
        ca = self._parts.authority.ca_pem.strip()
        return current is None or ca not in current.chain_pem or datetime.now(UTC) >= self._due(current)

    def _is_good(self, name: str) -> bool:
        """Whether it names a host and has not expired, whoever issued it; the installation's placeholder names none."""
        current = self._current(name)
        return current is not None and bool(hosts_of(current.chain_pem)) and datetime.now(UTC) < current.not_after

    def _names_are_right(self) -> bool:
        current = self._current(WEB)
        return current is not None and hosts_of(current.chain_pem) == set(self._parts.names())

    def _current(self, name: str) -> Credentials | None:
        try:
            return load_credentials(self._directory / name)
        except BadFile:
            return None

    def _due(self, current: Credentials) -> datetime:
        return renewal_time(current.not_before, current.not_after, self._jitter)

    def _until_renewal(self) -> float:
        """Seconds until the first certificate is due; as long as nothing can be read, those until the next look."""
        issued = (GATEWAY,) if self._parts.config.certificate else (GATEWAY, WEB)
        found = [self._due(current) for name in issued if (current := self._current(name))]
        now = datetime.now(UTC)
        return max(min([(due - now).total_seconds() for due in found], default=_LOOK_SECONDS), 0.0)

    async def _is_older(self) -> bool:
        """Whether the gateway may run since before its files were written: an earlier daemon died in between."""
        with contextlib.suppress(ClusterAIError, OSError):
            status = await self._parts.units.status(GATEWAY_UNIT)
            newest = max((self._directory / name).stat().st_mtime for name in (CA, GATEWAY, WEB))
            return status.active_state == "active" and status.since_unix_seconds <= newest
        return False

    async def _reload(self) -> None:
        """Let a gateway that runs take the files; one that does not reads them at its start."""
        try:
            status = await self._parts.units.status(GATEWAY_UNIT)
            if status.installed and status.active_state in ("active", "reloading"):
                await self._parts.units.reload(GATEWAY_UNIT)
        except ClusterAIError as error:
            self._note(f"the gateway does not take its new certificates: {error}; {error.advice}")
            return
        self._must_reload = False

    def _note(self, sentence: str) -> None:
        if sentence and sentence != self._parts.problems.find("gateway certificates"):
            log.warning("%s", sentence)
        self._parts.problems.set("gateway certificates", sentence)


def _is_host(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return len(name) <= 253 and _HOST.fullmatch(name) is not None


def _content(path: Path) -> bytes:
    try:
        return read_limited(path, _FILE_LIMIT)
    except BadFile:
        return b""
