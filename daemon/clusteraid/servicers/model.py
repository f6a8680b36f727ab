"""ModelService: models on the cluster's nodes."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from enum import Enum
from typing import Any

from clusterai.errors import BadRequest
from clusterai.models import normalised
from clusterai.v1 import model_pb2 as pb
from clusterai.v1.model_pb2_grpc import ModelServiceServicer
from clusteraid.access import CURRENT_CALLER
from clusteraid.models.catalogue import ModelType, Purpose, SizeClass
from clusteraid.models.models import Models
from clusteraid.models.placement import Where, Wish
from clusteraid.servicers import model_messages as wire

_MOST_REPLICAS, _MOST_NODES = 10_000, 10_000


class ModelServicer(ModelServiceServicer):
    def __init__(self, models: Models) -> None:
        self._models = models

    async def PullModel(self, request: pb.PullModelRequest, context: Any) -> AsyncIterator[pb.PullModelResponse]:
        wish, limit = _wish(request.wish), request.limit_bytes_per_second
        if request.dry_run:
            name = normalised(request.model)
            judged = self._models.candidates(name, wish)
            yield pb.PullModelResponse(model=name, candidates=wire.candidates(judged), done=True)
            return
        name, judged = await self._models.want(request.model, wish, CURRENT_CALLER.get().name, min(limit, 1 << 62))
        yield pb.PullModelResponse(model=name, candidates=wire.candidates(judged))
        chosen = [one.node_id for one in judged if one.chosen]
        async with aclosing(self._models.follow(name, chosen)) as steps:
            async for progress in steps:
                yield wire.pull_step(name, progress)

    async def PlaceModel(self, request: pb.PlaceModelRequest, context: Any) -> pb.PlaceModelResponse:
        _, judged = await self._models.want(request.model, _wish(request.wish), CURRENT_CALLER.get().name)
        return pb.PlaceModelResponse(candidates=wire.candidates(judged))

    async def RemoveModel(self, request: pb.RemoveModelRequest, context: Any) -> pb.RemoveModelResponse:
        nodes = await self._models.remove(request.model, request.node_ids, CURRENT_CALLER.get().name)
        return pb.RemoveModelResponse(node_ids=nodes)

    async def SyncModels(self, request: pb.SyncModelsRequest, context: Any) -> pb.SyncModelsResponse:
        mended = await self._models.sync(request.model, CURRENT_CALLER.get().name)
        return pb.SyncModelsResponse(mended=wire.drifts(mended))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        models = self._models.models(request.model)
        names = {model.name for model in models}
        drifts = [drift for drift in self._models.drift() if not request.model or drift.model in names]
        return pb.ListModelsResponse(
            models=[wire.model(model, self._models.wanted(model.name), self._models.observed) for model in models],
            drifts=wire.drifts(drifts), settings=self._models.settings,
        )

    async def ListCatalog(self, request: pb.ListCatalogRequest, context: Any) -> pb.ListCatalogResponse:
        _check("size class", SizeClass, request.size_class)
        _check("type", ModelType, request.type)
        _check("purpose", Purpose, request.purpose)
        rated = self._models.catalogue(request.size_class, request.type, request.purpose)
        entries = [wire.catalog_entry(one) for one in rated if one.fits or not request.fits]
        return pb.ListCatalogResponse(entries=entries, catalog_version=self._models.catalogue_version)

    async def RecommendModels(
        self, request: pb.RecommendModelsRequest, context: Any
    ) -> pb.RecommendModelsResponse:
        _check("type", ModelType, request.type)
        _check("purpose", Purpose, request.purpose)
        return pb.RecommendModelsResponse(
            recommendations=[
                pb.Recommendation(
                    entry=wire.catalog_entry(rated), reason=pick.reason,
                    command=f"clusteractl model pull {pick.entry.name}",
                )
                for pick, rated in self._models.recommend(request.type, request.purpose)
            ]
        )

    async def ExplainRoute(self, request: pb.ExplainRouteRequest, context: Any) -> pb.ExplainRouteResponse:
        return wire.explanation(await self._models.why(request.model))


def _wish(wish: pb.PlacementWish) -> Wish:
    """Return what the message asks for; it may ask in one way only."""
    if bool(wish.node_ids) + wish.gpus + bool(wish.replica_count) > 1:
        raise BadRequest(what="wish", reason="nodes, GPUs and a number of replicas exclude each other")
    if wish.replica_count > _MOST_REPLICAS or len(wish.node_ids) > _MOST_NODES:
        raise BadRequest(what="wish", reason=f"more than {_MOST_NODES} nodes")
    if wish.node_ids:
        return Wish(Where.NAMED, frozenset(wish.node_ids))
    return Wish(Where.GPUS) if wish.gpus else Wish(count=wish.replica_count or 1)


def _check(what: str, known: type[Enum], word: str) -> None:
    words = [str(member.value) for member in known]
    if word and word not in words:
        raise BadRequest(what=what, reason=f"{word[:64]!r} is none of {', '.join(words)}")
