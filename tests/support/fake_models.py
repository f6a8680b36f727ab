"""The fake daemon's models and keys: scripted answers over real gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from clusterai.errors import ClusterAIError, Status
from clusterai.rpc import error_metadata, status_of
from clusterai.v1 import key_pb2, key_pb2_grpc, model_pb2, model_pb2_grpc
from support.model_samples import GATEWAY_URL

if TYPE_CHECKING:
    from support.fake_daemon import FakeDaemon


class KeyMissing(ClusterAIError):
    code, status = "no-such-key", Status.NOT_FOUND
    message = "there is no key {key!r}"
    hint = "see `clusteractl key list`"


class _Service:
    def __init__(self, daemon: "FakeDaemon") -> None:
        self._daemon, self._cluster = daemon, daemon.cluster


class FakeModels(_Service, model_pb2_grpc.ModelServiceServicer):
    async def PullModel(self, request: Any, context: Any) -> AsyncIterator[model_pb2.PullModelResponse]:
        await self._daemon.heard("PullModel", request, context)
        steps = self._cluster.pull_steps[:1] if request.dry_run else self._cluster.pull_steps
        for step in steps:
            yield step
            await asyncio.sleep(self._cluster.stream_pause_seconds)

    async def PlaceModel(self, request: Any, context: Any) -> model_pb2.PlaceModelResponse:
        await self._daemon.heard("PlaceModel", request, context)
        return model_pb2.PlaceModelResponse(candidates=self._cluster.candidates)

    async def RemoveModel(self, request: Any, context: Any) -> model_pb2.RemoveModelResponse:
        await self._daemon.heard("RemoveModel", request, context)
        having = [copy.node_id for model in self._cluster.models.models for copy in model.copies
                  if model.model == request.model]  # fmt: skip
        return model_pb2.RemoveModelResponse(node_ids=request.node_ids or having)

    async def SyncModels(self, request: Any, context: Any) -> model_pb2.SyncModelsResponse:
        await self._daemon.heard("SyncModels", request, context)
        digests = [drift for drift in self._cluster.models.drifts if drift.kind == model_pb2.DRIFT_KIND_DIGEST]
        return model_pb2.SyncModelsResponse(mended=digests)

    async def ListModels(self, request: Any, context: Any) -> model_pb2.ListModelsResponse:
        await self._daemon.heard("ListModels", request, context)
        known = self._cluster.models
        return model_pb2.ListModelsResponse(
            models=[model for model in known.models if request.model in ("", model.model)],
            drifts=[drift for drift in known.drifts if request.model in ("", drift.model)],
            settings=known.settings,
        )

    async def ListCatalog(self, request: Any, context: Any) -> model_pb2.ListCatalogResponse:
        await self._daemon.heard("ListCatalog", request, context)
        return self._cluster.catalog

    async def RecommendModels(self, request: Any, context: Any) -> model_pb2.RecommendModelsResponse:
        await self._daemon.heard("RecommendModels", request, context)
        return model_pb2.RecommendModelsResponse(recommendations=self._cluster.recommendations)

    async def ExplainRoute(self, request: Any, context: Any) -> model_pb2.ExplainRouteResponse:
        await self._daemon.heard("ExplainRoute", request, context)
        unknown = model_pb2.ExplainRouteResponse(
            model=request.model, answer=f"there is no model {request.model}", closest=["llama3.2:3b", "qwen3:32b"]
        )
        return self._cluster.routes.get(request.model, unknown)


class FakeKeys(_Service, key_pb2_grpc.KeyServiceServicer):
    async def CreateKey(self, request: Any, context: Any) -> key_pb2.CreateKeyResponse:
        await self._daemon.heard("CreateKey", request, context)
        now = time.time()
        key = key_pb2.Key(
            key_id="k3v7q2xa",
            name=request.name,
            models=request.models,
            created_unix_seconds=now,
            expires_unix_seconds=now + request.ttl_seconds if request.ttl_seconds else 0,
            requests_per_minute=request.requests_per_minute,
            created_by="local",
            dashboard=request.dashboard,
        )
        secret = "cak1.k3v7q2xa.aaaaaaaaaaaaaaaaaaaaaaaaaa"
        return key_pb2.CreateKeyResponse(secret=secret, key=key, gateway_urls=[GATEWAY_URL, "https://192.0.2.10:11434"])

    async def ListKeys(self, request: Any, context: Any) -> key_pb2.ListKeysResponse:
        await self._daemon.heard("ListKeys", request, context)
        return key_pb2.ListKeysResponse(keys=self._cluster.keys)

    async def RevokeKey(self, request: Any, context: Any) -> key_pb2.RevokeKeyResponse:
        await self._daemon.heard("RevokeKey", request, context)
        for key in self._cluster.keys:
            if request.key in (key.key_id, key.name):
                return key_pb2.RevokeKeyResponse(key=key)
        missing = KeyMissing(key=request.key)
        await context.abort(status_of(missing), str(missing), error_metadata(missing))
        raise AssertionError
