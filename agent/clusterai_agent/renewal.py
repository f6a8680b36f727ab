"""Keeps the node's certificate fresh: renewed at 2/3 of its life, under a running session."""

import asyncio
import logging
import random
from datetime import UTC, datetime

from clusterai.credentials import Credentials, chain_pem, renewal_due, save_credentials, validity
from clusterai.errors import ClusterAIError, Status
from clusterai.files import write_atomic
from clusterai.keytool import request_in_helper
from clusterai.v1.node_pb2 import CERTIFICATE_KIND_NODE, RenewResponse
from clusterai_agent.connection import Connection
from clusterai_agent.home import Home
from clusterai_agent.server import Server

log = logging.getLogger(__name__)

_LOOK_SECONDS = 60.0  # by the wall clock, which may jump: so look often rather than sleep for days
_RETRY_SECONDS = (5.0, 600.0)


class UselessCertificate(ClusterAIError):
    code, status = "useless-certificate", Status.FAILED
    message = "the server issued a certificate that cannot be used: {reason}"
    hint = "the old one stays in use and it is tried again; look at clusteraid's journal and clock"


def checked(key_pem: bytes, response: RenewResponse, now: datetime) -> Credentials:
    """Return the issued certificate with its key; raise UselessCertificate for one that is not valid now."""
    if not response.certificate_chain_der or not response.ca_bundle_pem:
        raise UselessCertificate(reason="the answer is empty")
    try:
        not_before, not_after = validity(response.certificate_chain_der[0])
    except (ValueError, IndexError) as error:
        raise UselessCertificate(reason=f"not a certificate ({error})") from error
    if not not_before <= now < not_after:
        raise UselessCertificate(reason=f"valid from {not_before:%F %T} to {not_after:%F %T} UTC, which is not now")
    return Credentials(key_pem, chain_pem(response.certificate_chain_der), not_before, not_after)


class Renewer:
    """Renews the node's certificate in time, and at once when asked."""

    def __init__(self, home: Home, connection: Connection, server: Server, jitter: float | None = None) -> None:
        self._home, self._connection, self._server = home, connection, server
        self._jitter = random.random() if jitter is None else jitter  # noqa: S311  spreads load
        self._asked = asyncio.Event()
        self._unkept: tuple[Credentials, bytes] | None = None  # in use, but not on disk yet

    def ask(self) -> None:
        """Renew now."""
        self._asked.set()

    async def run(self) -> None:
        """Renew whenever due, until cancelled. A failure is logged and tried again; the old certificate stays."""
        pause = _RETRY_SECONDS[0]
        while True:
            await self._wait_until_due()
            await self._server.wait_connected()
            try:
                await self.renew()
            except ClusterAIError as error:
                log.warning("renewal failed and is tried again: %s; %s", str(error), error.advice)
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311  jitter
                pause = min(pause * 2, _RETRY_SECONDS[1])
            else:
                pause = _RETRY_SECONDS[0]
                self._asked.clear()

    async def renew(self) -> None:
        """Get a new certificate, move the session to it, and only then keep it.

        Raises:
            CannotWrite: the new one is in use and not kept yet; the next call tries only that again.
            ClusterAIError: the old certificate and its session go on.
        """
        if self._unkept is None:
            self._unkept = await self._renewed()
        credentials, ca_pem = self._unkept
        write_atomic(self._home.ca, ca_pem, 0o644)
        save_credentials(self._home.certificate, credentials.key_pem, credentials.chain_pem)
        self._unkept = None
        log.info("renewed this node's certificate; it is valid until %s UTC", f"{credentials.not_after:%F %T}")

    async def _renewed(self) -> tuple[Credentials, bytes]:
        request = await request_in_helper()
        response = await self._server.renew(request.csr_der, CERTIFICATE_KIND_NODE)
        credentials = checked(request.key_pem, response, datetime.now(UTC))
        await self._connection.hand_over(credentials, response.ca_bundle_pem)
        return credentials, response.ca_bundle_pem

    async def _wait_until_due(self) -> None:
        while not self._asked.is_set() and self._unkept is None:
            current = self._connection.credentials
            if renewal_due(current.not_before, current.not_after, datetime.now(UTC), self._jitter):
                return
            try:
                async with asyncio.timeout(min(_LOOK_SECONDS, _share(current))):
                    await self._asked.wait()
            except TimeoutError:
                continue


def _share(credentials: Credentials) -> float:
    """A hundredth of the certificate's life, in seconds: short-lived ones are looked at more often."""
    return max(0.1, (credentials.not_after - credentials.not_before).total_seconds() / 100)
