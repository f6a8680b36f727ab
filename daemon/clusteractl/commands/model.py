"""`clusteractl model`: which models are where, and where they shall be."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from google.protobuf.message import Message

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.complete import catalog_names, model_names, node_names
from clusteractl.errors import FitsNowhere, MissingInput, NoSuchModel, WhichNodes
from clusteractl.inputs import MODEL, NODE, RATE
from clusteractl.shape import shape
from clusteractl.views.models import drift_line, model_list, model_page
from clusteractl.views.placement import candidate_list, catalog_list, recommendation_list
from clusterai.v1 import model_pb2 as pb

Reply = TypeVar("Reply", bound=Message)
_SIZES = ("small", "medium", "large", "huge")
_TYPES = ("text", "code", "multimodal", "embedding", "specialised")
_PURPOSES = ("general", "programming", "creative", "analysis", "education")
_GROUP_EXAMPLES = """
clusteractl model recommend
clusteractl model pull llama3.2:3b
clusteractl model list
"""
_PULL_EXAMPLES = """
clusteractl model pull llama3.2:3b
clusteractl model pull llama3.2:3b --dry-run
clusteractl model pull llama3.2:3b --node tower --node nas --limit 50M
clusteractl model pull qwen2.5-coder:7b --gpu
"""
_PLACE_EXAMPLES = """
clusteractl model place llama3.2:3b --node tower
clusteractl model place llama3.2:3b --replicas 2
"""
_CATALOG_EXAMPLES = """
clusteractl model catalog --size small --fits
clusteractl model catalog --type code --json | jq -r '.entries[].model'
"""


def _nodes_option(help_text: str) -> Callable[[Any], Any]:
    return click.option(
        "--node", "nodes", type=NODE, multiple=True, metavar="NODE", shell_complete=node_names, help=help_text
    )


def _wish_options(function: Any) -> Any:
    """Add the options that say where a model shall be."""
    replicas = click.IntRange(1, 10_000)
    function = click.option("--replicas", type=replicas, metavar="K", help="On the K best nodes.")(function)
    function = click.option("--gpu", is_flag=True, help="On every node on whose GPUs it fits.")(function)
    return _nodes_option("On this node; may be repeated.")(function)


def _kind_options(function: Any) -> Any:
    """Add the options that say what a model is for."""
    function = click.option("--for", "purpose", type=click.Choice(_PURPOSES), help="What it is good for.")(function)
    return click.option("--type", "kind", type=click.Choice(_TYPES), help="What it works on.")(function)


@click.group(cls=CtlGroup, examples=_GROUP_EXAMPLES)
def model() -> None:
    """Fetch, place, list and choose models."""


@model.command("list", examples="clusteractl model list\nclusteractl model list --json | jq -r '.drifts[].fix'")
@click.argument("name", metavar="[MODEL]", type=MODEL, default=None, required=False, shell_complete=model_names)
@pass_ctl
def list_models(ctl: Ctl, name: str | None) -> None:
    """List models and where each is.

    A copy is loaded, ready, on its way or missing. Below stands what differs between nodes, and the command that
    mends it.
    """
    reply = _listed(ctl, name or "")
    ctl.out.show(shape(reply), model_list(reply.models, reply.drifts, ctl.out.width))


@model.command(examples="clusteractl model show llama3.2:3b")
@click.argument("name", metavar="MODEL", type=MODEL, shell_complete=model_names)
@pass_ctl
def show(ctl: Ctl, name: str) -> None:
    """Show everything about MODEL and its copies."""
    reply = _listed(ctl, name)
    data = shape(reply.models[0], drifts=[shape(drift) for drift in reply.drifts], settings=shape(reply.settings))
    ctl.out.show(data, model_page(reply.models[0], reply.drifts, reply.settings, ctl.out.width))


@model.command(examples=_PULL_EXAMPLES)
@click.argument("name", metavar="MODEL", type=MODEL, shell_complete=catalog_names)
@_wish_options
@click.option("--limit", type=RATE, default=0, metavar="RATE",
              help="Bytes per second of each node's copy from the server, like 50M [any].")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say where it would go, and why.")
@pass_ctl
def pull(
    ctl: Ctl, name: str, nodes: tuple[str, ...], gpu: bool, replicas: int | None, limit: int, dry_run: bool
) -> None:
    """Fetch MODEL onto the nodes that suit it.

    Without a wish it goes to the one that suits best. Says where it goes and why, then shows progress. Ctrl-C ends
    only the waiting; the pull goes on.
    """
    from clusteractl.pulls import pull_model

    wish = _wish(nodes, gpu, replicas)
    request = pb.PullModelRequest(model=name, wish=wish, limit_bytes_per_second=limit, dry_run=dry_run)
    pull_model(ctl, request)


@model.command(examples=_PLACE_EXAMPLES)
@click.argument("name", metavar="MODEL", type=MODEL, shell_complete=model_names)
@_wish_options
@pass_ctl
def place(ctl: Ctl, name: str, nodes: tuple[str, ...], gpu: bool, replicas: int | None) -> None:
    """Say where MODEL shall be, without waiting."""
    if not (nodes or gpu or replicas):
        raise MissingInput(what="where the model shall be", how="give --node NODE, --gpu or --replicas K")
    request = pb.PlaceModelRequest(model=name, wish=_wish(nodes, gpu, replicas))
    reply = _called(ctl, "ModelService/PlaceModel", request, pb.PlaceModelResponse)
    placed = any(one.chosen for one in reply.candidates)
    blocks = candidate_list(name, reply.candidates, ctl.out.width)
    done = [f"See it arrive with: clusteractl model list {name}"] if placed else []
    ctl.out.show(shape(reply, model=name), [*blocks, *done])
    if not placed:
        raise FitsNowhere(model=name)


@model.command(examples="clusteractl model rm llama3.2:3b --node pi4\nclusteractl model rm llama3.2:3b --yes")
@click.argument("name", metavar="MODEL", type=MODEL, shell_complete=model_names)
@_nodes_option("Only from this node; may be repeated [all].")
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@pass_ctl
def rm(ctl: Ctl, name: str, nodes: tuple[str, ...], yes: bool) -> None:
    """Remove MODEL from all nodes or some."""
    if ctl.surroundings.asks and not (nodes or yes or ctl.out.as_json):
        click.confirm(f"Remove {name} from every node? It has to be fetched again", abort=True, err=True)
    request = pb.RemoveModelRequest(model=name, node_ids=nodes)
    reply = _called(ctl, "ModelService/RemoveModel", request, pb.RemoveModelResponse)
    where = ", ".join(reply.node_ids) or "no node: none has it"
    ctl.out.show(shape(reply, model=name), [f"{name} is being removed from {where}."])


@model.command(examples="clusteractl model sync\nclusteractl model sync llama3.2:3b")
@click.argument("name", metavar="[MODEL]", type=MODEL, default=None, required=False, shell_complete=model_names)
@pass_ctl
def sync(ctl: Ctl, name: str | None) -> None:
    """Mend copies that differ.

    Nodes with another copy of MODEL, or of any model, fetch the cluster's.
    """
    request = pb.SyncModelsRequest(model=name or "")
    reply = _called(ctl, "ModelService/SyncModels", request, pb.SyncModelsResponse)
    lines = [drift_line(drift, ctl.out.width) for drift in reply.mended]
    mended = "These nodes fetch the cluster's copy now. See it with: clusteractl model list"
    done = [mended] if lines else ["There is nothing to mend."]
    ctl.out.show(shape(reply), [*lines, *done])


@model.command(examples=_CATALOG_EXAMPLES)
@click.option("--size", "size_class", type=click.Choice(_SIZES), help="Under 2 GB, 2 to 7, 7 to 15, more.")
@_kind_options
@click.option("--fits", is_flag=True, help="Only what fits on some node.")
@pass_ctl
def catalog(ctl: Ctl, size_class: str | None, kind: str | None, purpose: str | None, fits: bool) -> None:
    """List models that are worth a look, and where each fits."""
    request = pb.ListCatalogRequest(size_class=size_class or "", type=kind or "", purpose=purpose or "", fits=fits)
    reply = _called(ctl, "ModelService/ListCatalog", request, pb.ListCatalogResponse)
    ctl.out.show(shape(reply), catalog_list(reply))


@model.command(examples="clusteractl model recommend\nclusteractl model recommend --type code --for programming")
@_kind_options
@pass_ctl
def recommend(ctl: Ctl, kind: str | None, purpose: str | None) -> None:
    """Recommend models for the machines of this cluster."""
    request = pb.RecommendModelsRequest(type=kind or "", purpose=purpose or "")
    reply = _called(ctl, "ModelService/RecommendModels", request, pb.RecommendModelsResponse)
    ctl.out.show(shape(reply), recommendation_list(reply.recommendations, ctl.out.width))


def _wish(nodes: tuple[str, ...], gpu: bool, replicas: int | None) -> pb.PlacementWish:
    if (bool(nodes), gpu, bool(replicas)).count(True) > 1:
        raise WhichNodes
    return pb.PlacementWish(node_ids=nodes, gpus=gpu, replica_count=replicas or 0)


def _listed(ctl: Ctl, name: str) -> pb.ListModelsResponse:
    """Return all models, or the one of that name; raise NoSuchModel."""
    request = pb.ListModelsRequest(model=name)
    reply = _called(ctl, "ModelService/ListModels", request, pb.ListModelsResponse)
    if name and not reply.models:
        raise NoSuchModel(model=name)
    return reply


def _called(ctl: Ctl, method: str, request: Message, reply_type: type[Reply]) -> Reply:
    async def call() -> Reply:
        async with ctl.cluster() as cluster:
            return await cluster.call(method, request, reply_type)

    return ctl.run(call())
