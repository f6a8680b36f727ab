"""`clusteractl status`: the cluster in a few lines."""

import time

import click

from clusteractl.command import Ctl, CtlCommand, pass_ctl
from clusteractl.shape import shape
from clusteractl.views.cluster import status_page
from clusterai.v1.cluster_pb2 import GetStatusRequest, GetStatusResponse

_EXAMPLES = """
clusteractl status
clusteractl status --json | jq .node_counts
"""


@click.command(cls=CtlCommand, examples=_EXAMPLES)
@pass_ctl
def status(ctl: Ctl) -> None:
    """Show the cluster: nodes by state, pools, addresses, problems."""
    reply = ctl.run(_fetch(ctl))
    ctl.out.show(shape(reply), status_page(reply, time.time(), ctl.out.width))


async def _fetch(ctl: Ctl) -> GetStatusResponse:
    async with ctl.cluster() as cluster:
        return await cluster.call("ClusterService/GetStatus", GetStatusRequest(), GetStatusResponse)
