"""Completion of names that only the daemon knows: asked with a short deadline, silent when there is no answer."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import click

from clusteractl.command import Ctl, ctl_of
from clusterai.errors import ClusterAIError

_PATIENCE = 0.5


Names = Callable[[Ctl], Awaitable[list[str]]]


def node_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the nodes that begin so."""
    return _asked(ctx, incomplete, _node_ids)


def model_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the cluster's models that begin so."""
    return _asked(ctx, incomplete, _models)


def catalog_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the catalogue's models that begin so."""
    return _asked(ctx, incomplete, _catalog)


def pool_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the pools that begin so."""
    return _asked(ctx, incomplete, _pools)


def key_ids(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of keys that begin so and are not revoked."""
    return _asked(ctx, incomplete, _keys)


def _asked(ctx: click.Context, incomplete: str, names: Names) -> list[str]:
    ctl = replace(ctl_of(ctx), timeout=_PATIENCE)

    async def ask() -> list[str]:
        return await names(ctl)

    try:
        return [name for name in ctl.run(ask()) if name.startswith(incomplete)]
    except ClusterAIError:
        return []


async def _node_ids(ctl: Ctl) -> list[str]:
    from clusterai.v1.node_admin_pb2 import NODE_VIEW_BASIC, ListNodesRequest, ListNodesResponse

    async with ctl.cluster() as cluster:
        request = ListNodesRequest(view=NODE_VIEW_BASIC)
        reply = await cluster.call("NodeAdminService/ListNodes", request, ListNodesResponse)
    return [node.node_id for node in reply.nodes]


async def _pools(ctl: Ctl) -> list[str]:
    from clusterai.v1.cluster_pb2 import GetStatusRequest, GetStatusResponse

    async with ctl.cluster() as cluster:
        reply = await cluster.call("ClusterService/GetStatus", GetStatusRequest(), GetStatusResponse)
    return [pool.pool_name for pool in reply.pools]


async def _models(ctl: Ctl) -> list[str]:
    from clusterai.v1.model_pb2 import ListModelsRequest, ListModelsResponse

    async with ctl.cluster() as cluster:
        reply = await cluster.call("ModelService/ListModels", ListModelsRequest(), ListModelsResponse)
    return [model.model for model in reply.models]


async def _catalog(ctl: Ctl) -> list[str]:
    from clusterai.v1.model_pb2 import ListCatalogRequest, ListCatalogResponse

    async with ctl.cluster() as cluster:
        reply = await cluster.call("ModelService/ListCatalog", ListCatalogRequest(), ListCatalogResponse)
    return [entry.model for entry in reply.entries]


async def _keys(ctl: Ctl) -> list[str]:
    from clusterai.v1.key_pb2 import ListKeysRequest, ListKeysResponse

    async with ctl.cluster() as cluster:
        reply = await cluster.call("KeyService/ListKeys", ListKeysRequest(), ListKeysResponse)
    return [key.key_id for key in reply.keys if not key.revoked]
