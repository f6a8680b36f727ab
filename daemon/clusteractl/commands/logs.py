"""`clusteractl logs`: the journal of any unit, from anywhere."""

import click

from clusteractl.command import Ctl, CtlCommand, pass_ctl
from clusteractl.complete import node_names
from clusteractl.inputs import unit_name
from clusteractl.shape import shape
from clusteractl.views.lists import log_line, log_state
from clusterai.ids import parse_node_id
from clusterai.v1.log_pb2 import ReadLogsRequest, ReadLogsResponse

_EXAMPLES = """
clusteractl logs
clusteractl logs -f --node pi4
clusteractl logs -n 20 --unit clusterai-scheduler@main
"""


@click.command(cls=CtlCommand, examples=_EXAMPLES)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--unit", metavar="UNIT", help="The unit [clusteraid on the server, clusterai-agent on a node].")
@click.option("--node", metavar="NODE", shell_complete=node_names, help="The node [the server].")
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="How many lines to begin with.",
)
@pass_ctl
def logs(ctl: Ctl, follow: bool, unit: str | None, node: str | None, count: int) -> None:
    """Show the log of a unit on the server or on a node."""
    request = ReadLogsRequest(
        node_id=parse_node_id(node) if node else "",
        unit=unit_name(unit) if unit else "",
        line_count=count,
        follow=follow,
    )
    ctl.run(_print(ctl, request))


async def _print(ctl: Ctl, request: ReadLogsRequest) -> None:
    limit = None if request.follow else max(ctl.timeout, 60.0)
    async with ctl.cluster() as cluster:
        async for reply in cluster.stream("LogService/ReadLogs", request, ReadLogsResponse, timeout=limit):
            for line in reply.lines:
                ctl.out.record(shape(line), log_line(line), log_state(line))
