"""WorkerService: Dask workers, and what a Dask client needs."""

import secrets
from collections.abc import Callable
from typing import Any

from clusterai.v1 import worker_pb2 as pb
from clusterai.v1.worker_pb2_grpc import WorkerServiceServicer
from clusteraid.access import CURRENT_CALLER
from clusteraid.authority import Authority
from clusteraid.pools import Pools
from clusteraid.ports import EventLog
from clusteraid.views import Views


class WorkerServicer(WorkerServiceServicer):
    """`reached_at` returns a scheduler's "tls://host:port" as another machine reaches it."""

    def __init__(
        self, views: Views, authority: Authority, pools: Pools, events: EventLog, reached_at: Callable[[str], str]
    ) -> None:
        self._views, self._authority, self._pools, self._events = views, authority, pools, events
        self._reached_at = reached_at

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Any) -> pb.ListWorkersResponse:
        only = self._pools.find(request.pool_name) if request.pool_name else None
        return pb.ListWorkersResponse(workers=self._views.workers(only))

    async def IssueDaskClient(self, request: pb.IssueDaskClientRequest, context: Any) -> pb.IssueDaskClientResponse:
        pool, caller = self._pools.find(request.pool_name), CURRENT_CALLER.get()
        dask = self._authority.dask(pool.plan.name)
        issued = dask.issue(request.csr_der, f"client-{secrets.token_hex(4)}")
        message = f"{caller.name} got a Dask client certificate of pool {pool.plan.name}"
        self._events.note("dask-client-issued", caller.name, message)
        return pb.IssueDaskClientResponse(
            certificate_chain_der=issued.chain_der,
            ca_bundle_pem=dask.ca_pem,
            scheduler_address=self._reached_at(pool.spec().scheduler_address),
            environment=pool.plan.environment,
            lock_text=pool.plan.lock_text,
            expires_unix_seconds=issued.not_after.timestamp(),
        )
