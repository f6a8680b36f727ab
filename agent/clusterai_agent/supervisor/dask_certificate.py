"""The certificate that this node's workers show each other and the scheduler; renewed in place at 2/3 of its life."""

import logging
import random
from datetime import UTC, datetime
from pathlib import Path

from clusterai.credentials import load_credentials, renewal_due, save_credentials
from clusterai.files import BadFile, make_shared, remove, write_atomic
from clusterai.keytool import request_in_helper
from clusterai.v1.node_pb2 import CERTIFICATE_KIND_DASK
from clusterai_agent.renewal import checked
from clusterai_agent.server import Server

log = logging.getLogger(__name__)

_FILE_MODE = 0o640  # the workers' group reads them


class DaskCertificate:
    """`dask.pem` (key and chain) and `dask-ca.pem` in one directory. Running workers notice new files by themselves."""

    def __init__(self, directory: Path, server: Server, jitter: float | None = None) -> None:
        self.file, self.ca = directory / "dask.pem", directory / "dask-ca.pem"
        self._server = server
        self._jitter = random.random() if jitter is None else jitter  # noqa: S311  spreads load

    @classmethod
    def at(cls, compute_directory: Path) -> "DaskCertificate":
        """The one of this compute directory, to look at or to remove: there is no server to renew it."""
        return cls(compute_directory / "tls", Server())

    @property
    def usable(self) -> bool:
        """Whether there is a certificate that is valid now."""
        return self._state()[0]

    async def ensure(self) -> None:
        """Get a certificate where there is none, or the one there is due.

        Raises:
            ClusterAIError: there is none now and none is to be had; one that still works stays in use.
        """
        _, due = self._state()
        if not due:
            return
        make_shared(self.file.parent)
        request = await request_in_helper()
        response = await self._server.renew(request.csr_der, CERTIFICATE_KIND_DASK)
        credentials = checked(request.key_pem, response, datetime.now(UTC))
        write_atomic(self.ca, response.ca_bundle_pem, _FILE_MODE)
        save_credentials(self.file, credentials.key_pem, credentials.chain_pem, _FILE_MODE)
        log.info("new Dask certificate, valid until %s UTC", f"{credentials.not_after:%F %T}")

    def remove(self) -> None:
        """Take it away from the workers."""
        for path in (self.file, self.ca):
            remove(path)

    def _state(self) -> tuple[bool, bool]:
        """Whether it can be used now, and whether to get a new one."""
        try:
            current = load_credentials(self.file)
        except BadFile:
            return False, True
        now = datetime.now(UTC)
        usable = current.not_before <= now < current.not_after and self.ca.exists()
        return usable, not usable or renewal_due(current.not_before, current.not_after, now, self._jitter)
