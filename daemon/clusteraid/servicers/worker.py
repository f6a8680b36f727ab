"""WorkerService: Dask workers, and what a Dask client needs."""

import secrets
from collections.abc import Callable
from typing import Any

from clusterai.errors import BadRequest
from clusterai.v1 import worker_pb2 as pb
from clusterai.v1.worker_pb2_grpc import WorkerServiceServicer
from clusteraid.access import CURRENT_CALLER
from clusteraid.authority import Authority
from clusteraid.pool_port import PoolPlan
from clusteraid.ports import EventLog
from clusteraid.views import Views


class WorkerServicer(WorkerServiceServicer):
    """`scheduler_address` returns "tls://host:port" as another machine reaches it."""

    def __init__(
        self, views: Views, authority: Authority, plan: PoolPlan, events: EventLog, scheduler_address: Callable[[], str]
    ) -> None:
        self._views, self._authority, self._plan, self._events = views, authority, plan, events
        self._scheduler_address = scheduler_address

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Any) -> pb.ListWorkersResponse:
        return pb.ListWorkersResponse(workers=self._views.workers())

    async def IssueDaskClient(self, request: pb.IssueDaskClientRequest, context: Any) -> pb.IssueDaskClientResponse:
        if request.pool_name not in ("", self._plan.name):
            raise BadRequest(what="pool", reason=f"there is no pool {request.pool_name[:64]!r}")
        dask, caller = self._authority.dask(self._plan.name), CURRENT_CALLER.get()
        issued = dask.issue(request.csr_der, f"client-{secrets.token_hex(4)}")
        message = f"{caller.name} got a Dask client certificate of pool {self._plan.name}"
        self._events.note("dask-client-issued", caller.name, message)
        return pb.IssueDaskClientResponse(
            certificate_chain_der=issued.chain_der,
            ca_bundle_pem=dask.ca_pem,
            scheduler_address=self._scheduler_address(),
            environment=self._plan.environment,
            lock_text=self._plan.lock_text,
            expires_unix_seconds=issued.not_after.timestamp(),
        )
