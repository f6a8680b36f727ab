"""Real certificates for many simulated nodes: enrolled with a join token, or issued by a CA of the test's own."""

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clusterai.channel import Trust
from clusterai.credentials import chain_pem
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.rpc import secure_channel
from clusterai.tokens import JoinToken
from clusterai.v1.enrollment_pb2 import EnrollRequest
from clusterai.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from load.messages import facts

CLUSTER_ID = "bench"
_AT_ONCE = 16
_CALL_SECONDS = 60


@dataclass(frozen=True)
class NodeIdentity:
    """What one simulated node has on its disk: PEM texts."""

    node_id: str
    key: str
    chain: str
    ca: str

    @property
    def trust(self) -> Trust:
        """It trusts the cluster's CA alone, and shows its own certificate."""
        return Trust(self.ca.encode(), self.chain.encode(), self.key.encode())


def node_name(number: int) -> str:
    """Return the node id of a simulated node."""
    return f"sim-{number:05}"


def issue(authority: CertificateAuthority, count: int) -> list[NodeIdentity]:
    """Issue certificates without a daemon, for the bare server."""
    return [_issued(authority, node_name(number)) for number in range(count)]


def _issued(authority: CertificateAuthority, name: str) -> NodeIdentity:
    key = new_key()
    issued = authority.issue(new_csr(key), f"spiffe://{CLUSTER_ID}/node/{name}")
    return NodeIdentity(name, key_pem(key).decode(), issued.chain_pem.decode(), authority.cert_pem.decode())


async def enroll_all(address: str, ca_pem: bytes, token: JoinToken, count: int) -> list[NodeIdentity]:
    """Enrol nodes with one token that may be used that often; the CA is known, so it is not fetched each time."""
    limit = asyncio.Semaphore(_AT_ONCE)
    async with secure_channel(address, ca_pem=ca_pem) as channel:
        stub: Any = EnrollmentServiceStub(channel)

        async def one(number: int) -> NodeIdentity:
            key, name = new_key(), node_name(number)
            request = EnrollRequest(
                token_id=token.token_id,
                token_secret=token.secret,
                csr_der=new_csr(key),
                node_name=name,
                facts=facts(name),
                clock_unix_seconds=time.time(),
            )
            async with limit:
                response = await stub.Enroll(request, timeout=_CALL_SECONDS)
            chain = chain_pem(response.certificate_chain_der)
            return NodeIdentity(name, key_pem(key).decode(), chain.decode(), response.ca_bundle_pem.decode())

        return await asyncio.gather(*(one(number) for number in range(count)))


def save(path: Path, identities: list[NodeIdentity]) -> None:
    """Write the identities for the agents' processes."""
    path.write_text(json.dumps([asdict(identity) for identity in identities]))
    path.chmod(0o600)


def load(path: Path, first: int, count: int) -> list[NodeIdentity]:
    """Read a part of the saved identities."""
    return [NodeIdentity(**entry) for entry in json.loads(path.read_text())[first : first + count]]
