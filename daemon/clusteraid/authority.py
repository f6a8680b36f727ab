"""The cluster CA and the Dask CA, what they issue, and the daemon's own certificate."""

import asyncio
import logging
import random
import secrets
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from clusterai.credentials import renewal_time
from clusterai.errors import ClusterAIError, Status
from clusterai.files import BadFile, CannotWrite, read_limited, sync_directory, write_atomic
from clusterai.ids import ClusterId, Identity, IdentityKind
from clusterai.models import GATEWAY_NAME, MIRROR_NAME, gate_name
from clusterai.pki import LEAF_LIFETIME, CertificateAuthority, Issued, key_pem, new_csr, new_key
from clusterai.remote import SERVER_NAME
from clusteraid.access import Caller, Revoked
from clusteraid.ports import CertificateRecord, CertificateStore
from clusteraid.revocation import Revocations

log = logging.getLogger(__name__)
_FILE_LIMIT = 1 << 16
_LONGEST_NAP = 3600.0  # a suspended machine's timers stand still: look again at least every hour


class NoIdentity(ClusterAIError):
    code, status = "no-identity", Status.FAILED
    message = "the local socket has no certificate to renew"
    hint = "it needs none; from another machine use `clusteractl login`"


class DaskIssuer:
    """Issues certificates of one pool."""

    def __init__(self, authority: CertificateAuthority, cluster_id: ClusterId, pool: str, lifetime: timedelta) -> None:
        self._authority, self._prefix, self._lifetime = authority, f"spiffe://{cluster_id}/dask/{pool}", lifetime

    @property
    def ca_pem(self) -> bytes:
        """The Dask CA."""
        return self._authority.cert_pem

    def issue(self, csr_der: bytes, name: str) -> Issued:
        """Issue a certificate for the scheduler, a node's workers or a client; the name is a checked label."""
        return self._authority.issue(csr_der, f"{self._prefix}/{name}", lifetime=self._lifetime, server=True)


class Authority:
    """Both CAs of this cluster. A Dask certificate is as good as a shell, so its CA never opens the control plane."""

    def __init__(
        self, cluster: CertificateAuthority, dask: CertificateAuthority, *, lifetime: timedelta = LEAF_LIFETIME
    ) -> None:
        self._cluster, self._dask, self._lifetime = cluster, dask, lifetime
        self.cluster_id = ClusterId(cluster.uri.removeprefix("spiffe://"))
        self.ca_pem, self.ca_sha256 = cluster.cert_pem, cluster.spki_sha256

    @classmethod
    def open(cls, directory: Path, *, lifetime: timedelta = LEAF_LIFETIME) -> "Authority":
        """Load both CAs, or make them when the directory does not exist.

        Raises:
            BadFile: a file of an existing directory is missing or damaged; it is never replaced silently.
            CannotWrite: the new directory cannot be written.
        """
        if not directory.exists():
            try:
                _create(directory)
            except OSError as error:
                raise CannotWrite(directory, error) from error
        return cls(_load(directory, "cluster-ca"), _load(directory, "dask-ca"), lifetime=lifetime)

    def identity(self, kind: IdentityKind, name: str = "") -> Identity:
        """Return an identity of this cluster."""
        return Identity(self.cluster_id, kind, name)

    def issue(self, csr_der: bytes, identity: Identity) -> Issued:
        """Issue a client certificate for a node or an operator; the caller records it."""
        return self._cluster.issue(csr_der, str(identity), lifetime=self._lifetime)

    def issue_daemon(self, csr_der: bytes) -> Issued:
        """Issue the server certificate of the daemon."""
        uri = str(self.identity(IdentityKind.DAEMON))
        return self._cluster.issue(
            csr_der, uri, lifetime=self._lifetime, dns=(SERVER_NAME,), server=True, client=False
        )

    def issue_gate(self, csr_der: bytes, node_id: str) -> Issued:
        """Issue the certificate of a node's gate. Its name is no identity: it opens no control plane."""
        dns = (gate_name(node_id),)
        return self._cluster.issue(csr_der, self._uri(f"gate/{node_id}"), lifetime=self._lifetime, dns=dns, server=True)

    def issue_gateway(self, csr_der: bytes) -> Issued:
        """Issue the certificate with which the gateway is let in by the gates and serves the mirror."""
        dns = (GATEWAY_NAME, MIRROR_NAME)
        return self._cluster.issue(csr_der, self._uri("gateway"), lifetime=self._lifetime, dns=dns, server=True)

    def issue_web(self, csr_der: bytes, names: Sequence[str]) -> Issued:
        """Issue the certificate that people's programs see, for these DNS names and addresses."""
        uri = self._uri("web")
        return self._cluster.issue(csr_der, uri, lifetime=self._lifetime, dns=names, server=True, client=False)

    def _uri(self, tail: str) -> str:
        return f"spiffe://{self.cluster_id}/{tail}"

    def dask(self, pool: str) -> DaskIssuer:
        """Return the issuer of a pool's Dask certificates."""
        return DaskIssuer(self._dask, self.cluster_id, pool, self._lifetime)


class Renewals:
    """Gives callers new certificates for the identity that they already have."""

    def __init__(self, authority: Authority, store: CertificateStore, revocations: Revocations) -> None:
        self._authority, self._store, self._revocations = authority, store, revocations

    async def renew(self, caller: Caller, csr_der: bytes) -> Issued:
        """Issue and record a certificate for the caller's own identity.

        Raises:
            Revoked: revoked between the start of the call and now.
            BadRequest: the certificate request is not usable.
        """
        return await self._recorded(caller, lambda identity: self._authority.issue(csr_der, identity))

    async def renew_gate(self, caller: Caller, csr_der: bytes) -> Issued:
        """Issue the certificate of the calling node's gate; recorded as the node's, so it is revoked with it.

        Raises as `renew`.
        """
        return await self._recorded(caller, lambda identity: self._authority.issue_gate(csr_der, identity.name))

    async def _recorded(self, caller: Caller, issue: Callable[[Identity], Issued]) -> Issued:
        if caller.identity is None:
            raise NoIdentity
        async with self._revocations.changing:
            if self._revocations.is_revoked(caller.serial):
                raise Revoked(caller=caller.name)
            issued = issue(caller.identity)
            await self._store.record_certificate(certificate_record(issued, caller.identity))
        return issued


class DaemonCertificate:
    """The daemon's own certificate, in memory only: a new one at every start and at 2/3 of each one's life."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self.renew()

    @property
    def not_after(self) -> datetime:
        """When the present certificate ends."""
        return self._issued.not_after

    def renew(self) -> None:
        """Make a new key and certificate; connections opened from now on see it."""
        key = new_key()
        self._key = key_pem(key)
        self._issued = issued = self._authority.issue_daemon(new_csr(key))
        self._renew_at = renewal_time(issued.not_before, issued.not_after, random.random())  # noqa: S311

    async def keep_fresh(self) -> None:
        """Renew at 2/3 of life, for ever."""
        while True:
            wait = (self._renew_at - datetime.now(UTC)).total_seconds()
            await asyncio.sleep(min(max(wait, 0), _LONGEST_NAP))
            if datetime.now(UTC) >= self._renew_at:
                self.renew()
                log.info("renewed the daemon's certificate; it ends %s", self.not_after)

    def server_credentials(self, *, require_client: bool) -> grpc.ServerCredentials:
        """Return credentials that follow renewals without a restart; gRPC asks once for each new connection."""
        initial = self._configuration()
        served = self._issued

        def newest() -> Any:  # None: nothing new
            nonlocal served
            if served is self._issued:
                return None
            served = self._issued
            return self._configuration()

        return grpc.dynamic_ssl_server_credentials(initial, newest, require_client)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        # The CA also where no client certificate is asked for: without it Debian 13's gRPC (1.51.1-6) aborts.
        return grpc.ssl_server_certificate_configuration([(self._key, self._issued.chain_pem)], self._authority.ca_pem)


def certificate_record(issued: Issued, identity: Identity) -> CertificateRecord:
    """Return what the store keeps of a certificate."""
    return CertificateRecord(issued.serial, str(identity), issued.not_after.timestamp())


def _create(directory: Path) -> None:
    """Make both CAs beside their place, then move them there: a crash leaves all of them or none."""
    cluster_id = secrets.token_hex(8)
    unfinished = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    for name, uri in (("cluster-ca", f"spiffe://{cluster_id}"), ("dask-ca", f"spiffe://{cluster_id}/dask")):
        authority = CertificateAuthority.create(f"Cluster AI {name} {cluster_id}", uri)
        write_atomic(unfinished / f"{name}.key", authority.key_pem)
        write_atomic(unfinished / f"{name}.pem", authority.cert_pem)
    unfinished.rename(directory)
    sync_directory(directory.parent)
    log.info("made the authorities of the new cluster %s in %s", cluster_id, directory)


def _load(directory: Path, name: str) -> CertificateAuthority:
    files = (directory / f"{name}.key", directory / f"{name}.pem")
    fix = f"restore {directory} from a backup; a new CA means that every node joins again (remove the directory then)"
    try:
        return CertificateAuthority.load(*(read_limited(file, _FILE_LIMIT) for file in files))
    except BadFile as error:
        raise BadFile(files[0].parent / str(error.details["path"]), str(error.details["reason"]), fix) from error
    except ValueError as error:
        raise BadFile(files[0], f"it is not the key of {files[1].name} ({error})", fix) from error
