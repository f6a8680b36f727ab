"""Completion of names that only the daemon knows: asked with a short deadline, silent when there is no answer."""

from dataclasses import replace

import click

from clusteractl.command import Ctl, ctl_of
from clusterai.errors import ClusterAIError

_PATIENCE = 0.5


def node_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the nodes that begin so."""
    ctl = replace(ctl_of(ctx), timeout=_PATIENCE)
    try:
        names = ctl.run(_node_ids(ctl))
    except ClusterAIError:
        return []
    return [name for name in names if name.startswith(incomplete)]


async def _node_ids(ctl: Ctl) -> list[str]:
    from clusterai.v1.node_admin_pb2 import ListNodesRequest, ListNodesResponse

    async with ctl.cluster() as cluster:
        reply = await cluster.call("NodeAdminService/ListNodes", ListNodesRequest(), ListNodesResponse)
    return [node.node_id for node in reply.nodes]
