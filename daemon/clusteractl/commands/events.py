"""`clusteractl events`: what happened in the cluster."""

import click

from clusteractl.command import Ctl, CtlCommand, pass_ctl
from clusteractl.shape import shape
from clusteractl.views.lists import event_line
from clusterai.v1.event_pb2 import WatchEventsRequest, WatchEventsResponse

_EXAMPLES = """
clusteractl events
clusteractl events -f
clusteractl events -f --json | jq -r 'select(.kind == "node-offline").subject'
"""


@click.command(cls=CtlCommand, examples=_EXAMPLES)
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    metavar="N",
    help="How many to begin with.",
)
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="SEQUENCE", help="Only those after this sequence number."
)
@pass_ctl
def events(ctl: Ctl, follow: bool, count: int, after: int) -> None:
    """Show what happened: nodes that came and went, tokens used."""
    ctl.run(_print(ctl, WatchEventsRequest(after_sequence=after, limit=count, follow=follow)))


async def _print(ctl: Ctl, request: WatchEventsRequest) -> None:
    limit = None if request.follow else max(ctl.timeout, 60.0)
    async with ctl.cluster() as cluster:
        async for reply in cluster.stream("EventService/WatchEvents", request, WatchEventsResponse, timeout=limit):
            ctl.out.record(shape(reply.event), event_line(reply.event))
