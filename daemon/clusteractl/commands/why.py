"""`clusteractl why`: where a request for a model would go now, and why."""

import click

from clusteractl.command import Ctl, CtlCommand, pass_ctl
from clusteractl.complete import model_names
from clusteractl.inputs import MODEL
from clusteractl.shape import shape
from clusteractl.views.placement import route_page
from clusterai.v1.model_pb2 import ExplainRouteRequest, ExplainRouteResponse

NOBODY, UNKNOWN = 1, 3
_EXAMPLES = """
clusteractl why llama3.2:3b
clusteractl why llama3.2:3b --json | jq -r '.peers[0].node_id'
"""


@click.command(cls=CtlCommand, examples=_EXAMPLES)
@click.argument("model", type=MODEL, shell_complete=model_names)
@pass_ctl
def why(ctl: Ctl, model: str) -> int:
    """Explain which node would answer for MODEL now, and why.

    Nodes stand in the order in which the gateway would try them. Exits with 1 when none can answer, with 3 when the
    cluster has no such model.
    """

    async def fetch() -> ExplainRouteResponse:
        async with ctl.cluster() as cluster:
            request = ExplainRouteRequest(model=model)
            return await cluster.call("ModelService/ExplainRoute", request, ExplainRouteResponse)

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply), route_page(reply, ctl.out.width))
    if any(step.usable for step in reply.peers):
        return 0
    return NOBODY if reply.peers else UNKNOWN
