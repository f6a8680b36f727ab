"""`clusteractl worker`: the Dask workers."""

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.shape import shape
from clusteractl.views.nodes import worker_list
from clusterai.v1.worker_pb2 import ListWorkersRequest, ListWorkersResponse


@click.group(cls=CtlGroup, examples="clusteractl worker list")
def worker() -> None:
    """See the Dask workers of all nodes."""


@worker.command("list", examples="clusteractl worker list\nclusteractl worker list --json | jq '.workers | length'")
@pass_ctl
def list_workers(ctl: Ctl) -> None:
    """List workers: registered at the scheduler, starting, failed and why."""

    async def fetch() -> ListWorkersResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("WorkerService/ListWorkers", ListWorkersRequest(), ListWorkersResponse)

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply), worker_list(reply.workers, ctl.out.width))
