"""`clusteractl node`: the machines of the cluster."""

import time

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.complete import node_names
from clusteractl.drains import drain_node
from clusteractl.errors import MissingInput
from clusteractl.inputs import SPAN
from clusteractl.shape import shape
from clusteractl.views.nodes import node_list, node_page
from clusterai.ids import parse_node_id
from clusterai.v1 import node_admin_pb2 as pb


@click.group(cls=CtlGroup, examples="clusteractl node list\nclusteractl node show pi4\nclusteractl node drain pi4")
def node() -> None:
    """List, approve, drain and remove nodes."""


@node.command("list", examples="clusteractl node list\nclusteractl node list --json | jq -r '.nodes[].node_id'")
@pass_ctl
def list_nodes(ctl: Ctl) -> None:
    """List all nodes with their state, hardware, workers and load."""

    async def fetch() -> pb.ListNodesResponse:
        async with ctl.cluster() as cluster:
            view = pb.NODE_VIEW_FULL if ctl.out.as_json else pb.NODE_VIEW_BASIC
            request = pb.ListNodesRequest(with_samples=True, view=view)
            return await cluster.call("NodeAdminService/ListNodes", request, pb.ListNodesResponse)

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply), node_list(reply.nodes, time.time(), ctl.out.width))


@node.command(examples="clusteractl node show pi4")
@click.argument("name", shell_complete=node_names)
@pass_ctl
def show(ctl: Ctl, name: str) -> None:
    """Show everything about the node NAME."""
    node_id = parse_node_id(name)

    async def fetch() -> pb.GetNodeResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call(
                "NodeAdminService/GetNode", pb.GetNodeRequest(node_id=node_id), pb.GetNodeResponse
            )

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply.node), node_page(reply.node, time.time(), ctl.out.width))


@node.command(examples="clusteractl node approve pi4\nclusteractl node approve pi4 --code K7M-Q2X")
@click.argument("name", shell_complete=node_names)
@click.option("--code", metavar="CODE", help="The code that the node itself shows; asked for when missing.")
@pass_ctl
def approve(ctl: Ctl, name: str, code: str | None) -> None:
    """Let in the node NAME, which asked to join without a token.

    Read the code at the node, not in this cluster's lists: that both are the same is what proves that nobody stands
    in between.
    """
    node_id = parse_node_id(name)
    request = pb.ApproveNodeRequest(node_id=node_id, approval_code=(code or _asked_code(ctl, node_id)).strip().upper())

    async def send() -> pb.ApproveNodeResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("NodeAdminService/ApproveNode", request, pb.ApproveNodeResponse)

    reply = ctl.run(send())
    ctl.out.show(shape(reply.node), [f"{node_id} is approved. See it come up with: clusteractl node list"])


@node.command(examples="clusteractl node reject pi4")
@click.argument("name", shell_complete=node_names)
@pass_ctl
def reject(ctl: Ctl, name: str) -> None:
    """Turn away the node NAME, which asked to join."""
    node_id = parse_node_id(name)

    async def send() -> None:
        async with ctl.cluster() as cluster:
            request = pb.RejectNodeRequest(node_id=node_id)
            await cluster.call("NodeAdminService/RejectNode", request, pb.RejectNodeResponse)

    ctl.run(send())
    ctl.out.show({"node_id": node_id, "rejected": True}, [f"{node_id} is turned away."])


@node.command(examples="clusteractl node drain pi4\nclusteractl node drain pi4 --deadline 30m")
@click.argument("name", shell_complete=node_names)
@click.option("--deadline", type=SPAN, metavar="TIME", help="Give up after so long, like 30m [the server's own].")
@pass_ctl
def drain(ctl: Ctl, name: str, deadline: float | None) -> None:
    """Take the node NAME out of work.

    It gets no new tasks, those that run end, and its results move to others. Waits and shows progress. Ctrl-C ends
    only the waiting; the drain goes on.
    """
    drain_node(ctl, parse_node_id(name), deadline or 0.0)


@node.command(examples="clusteractl node undrain pi4")
@click.argument("name", shell_complete=node_names)
@pass_ctl
def undrain(ctl: Ctl, name: str) -> None:
    """Give the node NAME work again."""
    node_id = parse_node_id(name)

    async def send() -> pb.UndrainNodeResponse:
        async with ctl.cluster() as cluster:
            request = pb.UndrainNodeRequest(node_id=node_id)
            return await cluster.call("NodeAdminService/UndrainNode", request, pb.UndrainNodeResponse)

    reply = ctl.run(send())
    ctl.out.show(shape(reply.node), [f"{node_id} takes work again. Its workers come up: clusteractl worker list"])


@node.command(examples="clusteractl node remove pi4\nclusteractl node remove pi4 --yes")
@click.argument("name", shell_complete=node_names)
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@pass_ctl
def remove(ctl: Ctl, name: str, yes: bool) -> None:
    """Revoke the node NAME and forget it.

    Its certificates are worth nothing and its session ends at once. Running tasks are lost: drain it first. To come
    back it has to join again.
    """
    node_id = parse_node_id(name)
    if ctl.surroundings.asks and not (yes or ctl.out.as_json):
        click.confirm(f"Remove {node_id}? Its tasks are lost, and it has to join again", abort=True, err=True)

    async def send() -> None:
        async with ctl.cluster() as cluster:
            request = pb.RemoveNodeRequest(node_id=node_id)
            await cluster.call("NodeAdminService/RemoveNode", request, pb.RemoveNodeResponse)

    ctl.run(send())
    done = [f"{node_id} is removed. On the node itself: sudo clusterai-agent leave"]
    ctl.out.show({"node_id": node_id, "removed": True}, done)


def _asked_code(ctl: Ctl, node_id: str) -> str:
    if not ctl.surroundings.asks:
        raise MissingInput(what="the approval code", how="give the code that the node shows: --code ABC-DEF")
    code: str = click.prompt(f"Code that {node_id} shows", err=True)
    return code
