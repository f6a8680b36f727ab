"""`clusteractl version`: both sides' versions."""

import platform

import click

import clusterai
from clusteractl.command import Ctl, CtlCommand, pass_ctl
from clusterai.errors import ClusterAIError


@click.command(cls=CtlCommand, examples="clusteractl version\nclusteractl version --json")
@pass_ctl
def version(ctl: Ctl) -> None:
    """Show the versions of this command and of the server."""
    server, reason = _server_version(ctl)
    data = {
        "client_version": clusterai.__version__,
        "client_python": platform.python_version(),
        "server_version": server,
        "server_reason": reason,
    }
    client = f"clusteractl {clusterai.__version__} (Python {platform.python_version()})"
    ctl.out.show(data, [client, f"clusteraid  {server}" if server else f"clusteraid  unknown: {reason}"])


def _server_version(ctl: Ctl) -> tuple[str | None, str | None]:
    try:
        return ctl.run(_fetch(ctl)), None
    except ClusterAIError as error:
        return None, str(error)


async def _fetch(ctl: Ctl) -> str:
    from clusterai.v1.cluster_pb2 import GetStatusRequest, GetStatusResponse

    async with ctl.cluster() as cluster:
        reply = await cluster.call("ClusterService/GetStatus", GetStatusRequest(), GetStatusResponse)
    return reply.server_version
