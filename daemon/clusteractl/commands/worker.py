"""`clusteractl worker`: the Dask workers."""

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.complete import pool_names
from clusteractl.shape import shape
from clusteractl.views.nodes import worker_list
from clusterai.ids import parse_pool_name
from clusterai.v1.worker_pb2 import ListWorkersRequest, ListWorkersResponse


@click.group(cls=CtlGroup, examples="clusteractl worker list")
def worker() -> None:
    """See the Dask workers of all nodes."""


_EXAMPLES = """
clusteractl worker list
clusteractl worker list --pool mobile
clusteractl worker list --json | jq '.workers | length'
"""


@worker.command("list", examples=_EXAMPLES)
@click.option("--pool", default="", metavar="POOL", shell_complete=pool_names, help="Only those of this pool [all].")
@pass_ctl
def list_workers(ctl: Ctl, pool: str) -> None:
    """List workers: registered at their scheduler, starting, failed and why."""
    request = ListWorkersRequest(pool_name=parse_pool_name(pool) if pool else "")

    async def fetch() -> ListWorkersResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("WorkerService/ListWorkers", request, ListWorkersResponse)

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply), worker_list(reply.workers, ctl.out.width))
