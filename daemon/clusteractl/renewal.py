"""The login renews itself: at 2/3 of its certificate's life the next command asks for a new one."""

from datetime import UTC, datetime

from clusteractl.connection import Cluster
from clusteractl.errors import LoginExpired
from clusteractl.logins import Login, Logins
from clusteractl.output import Output
from clusteractl.words import ago, moment
from clusterai.credentials import chain_pem, renewal_due
from clusterai.errors import ClusterAIError
from clusterai.v1.operator_pb2 import RenewOperatorRequest, RenewOperatorResponse


def check_login(login: Login, now: datetime) -> None:
    """Raise LoginExpired when its certificate is over: the handshake would fail without saying why."""
    if login.expired(now):
        when = ago(login.credentials.not_after.timestamp(), now.timestamp())
        host = login.addresses[0].rpartition(":")[0]
        raise LoginExpired(operator=login.operator, ago=when, host=host)


async def keep_fresh(cluster: Cluster, login: Login, logins: Logins, out: Output) -> None:
    """Renew the certificate when it is time. A failure is only said: the old one is good for a while."""
    own = login.credentials
    if not renewal_due(own.not_before, own.not_after, datetime.now(UTC), jitter=0.0):
        return
    try:
        await _renew(cluster, logins)
    except ClusterAIError as error:
        out.note(f"clusteractl: your login could not be renewed, it ends {moment(own.not_after.timestamp())}: {error}")


async def _renew(cluster: Cluster, logins: Logins) -> None:
    from clusterai.pki import key_pem, new_csr, new_key

    key = new_key()
    request = RenewOperatorRequest(csr_der=new_csr(key))
    reply = await cluster.call("OperatorService/RenewOperator", request, RenewOperatorResponse)
    logins.save_credentials(key_pem(key), chain_pem(reply.certificate_chain_der))
    if reply.ca_bundle_pem:
        logins.replace_authority(reply.ca_bundle_pem)
