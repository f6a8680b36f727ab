"""`clusteractl ca`: the certificate authority that clients of the gateway trust."""

import click

from clusteractl.command import Ctl, CtlCommand, pass_ctl
from clusteractl.errors import NoAuthority

_EXAMPLES = """
clusteractl ca > cluster-ca.pem
sudo clusteractl ca | sudo tee /usr/local/share/ca-certificates/cluster-ai.crt
"""


@click.command(cls=CtlCommand, examples=_EXAMPLES)
@pass_ctl
def ca(ctl: Ctl) -> None:
    """Print the cluster's certificate authority.

    Programs that talk to the gateway trust it. It is public, and it comes over a connection that is trusted already:
    the server's own socket, or your login.
    """
    from clusterai.v1.cluster_pb2 import GetStatusRequest, GetStatusResponse

    async def fetch() -> GetStatusResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("ClusterService/GetStatus", GetStatusRequest(), GetStatusResponse)

    reply = ctl.run(fetch())
    if not reply.ca_pem:
        raise NoAuthority
    ctl.out.show({"ca_pem": reply.ca_pem, "ca_fingerprint": reply.ca_fingerprint}, [reply.ca_pem.rstrip("\n")])
