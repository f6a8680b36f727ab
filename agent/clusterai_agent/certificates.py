"""Certificates that units of this node show: the workers' and the gate's; renewed in place at 2/3 of their life."""

import logging
import random
from datetime import UTC, datetime
from pathlib import Path

from clusterai.credentials import Credentials, load_credentials, renewal_due, save_credentials
from clusterai.files import BadFile, make_shared, remove, write_atomic
from clusterai.keytool import request_in_helper
from clusterai.v1.node_pb2 import CERTIFICATE_KIND_DASK, CERTIFICATE_KIND_GATE, CertificateKind
from clusterai_agent.renewal import checked
from clusterai_agent.server import Server

log = logging.getLogger(__name__)

_FILE_MODE = 0o640  # the group of the unit's user reads them


class UnitCertificate:
    """Key and chain in one file, and the CA in another."""

    def __init__(
        self, file: Path, ca: Path, kind: CertificateKind, server: Server, jitter: float | None = None
    ) -> None:
        self.file, self.ca, self._kind, self._server = file, ca, kind, server
        self._jitter = random.random() if jitter is None else jitter  # noqa: S311  spreads load

    @property
    def usable(self) -> bool:
        """Whether there is a certificate that is valid now."""
        return self._state()[0]

    @property
    def not_after(self) -> float:
        """When it ends, in Unix seconds; 0 where there is none."""
        current = self._current()
        return current.not_after.timestamp() if current else 0.0

    async def ensure(self) -> bool:
        """Get a certificate where there is none, or the one there is due; return whether there is a new one.

        Raises:
            ClusterAIError: there is none now and none is to be had; one that still works stays in use.
        """
        _, due = self._state()
        if not due:
            return False
        make_shared(self.file.parent)
        request = await request_in_helper()
        response = await self._server.renew(request.csr_der, self._kind)
        credentials = checked(request.key_pem, response, datetime.now(UTC))
        write_atomic(self.ca, response.ca_bundle_pem, _FILE_MODE)
        save_credentials(self.file, credentials.key_pem, credentials.chain_pem, _FILE_MODE)
        log.info("new certificate in %s, valid until %s UTC", self.file, f"{credentials.not_after:%F %T}")
        return True

    def remove(self) -> None:
        """Take it away from the units."""
        for path in (self.file, self.ca):
            remove(path)

    def _current(self) -> Credentials | None:
        try:
            return load_credentials(self.file)
        except BadFile:
            return None

    def _state(self) -> tuple[bool, bool]:
        """Whether it can be used now, and whether to get a new one."""
        current = self._current()
        if current is None:
            return False, True
        now = datetime.now(UTC)
        usable = current.not_before <= now < current.not_after and self.ca.exists()
        return usable, not usable or renewal_due(current.not_before, current.not_after, now, self._jitter)


def dask_certificate(compute_directory: Path, server: Server) -> UnitCertificate:
    """Return the one that workers show each other and the scheduler. Running ones notice new files by themselves."""
    directory = compute_directory / "tls"
    return UnitCertificate(directory / "dask.pem", directory / "dask-ca.pem", CERTIFICATE_KIND_DASK, server)


def gate_certificate(gate_directory: Path, server: Server) -> UnitCertificate:
    """Return the one that the gate shows the gateway, and this node the mirror."""
    return UnitCertificate(
        gate_directory / "gate.pem", gate_directory / "cluster-ca.pem", CERTIFICATE_KIND_GATE, server
    )


def remove_unit_certificates(compute_directory: Path, gate_directory: Path) -> None:
    """Remove both: those of another cluster are of no use."""
    nobody = Server()
    dask_certificate(compute_directory, nobody).remove()
    gate_certificate(gate_directory, nobody).remove()
