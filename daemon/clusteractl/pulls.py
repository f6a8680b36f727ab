"""Waiting for a pull: where it goes, then a bar a node on a terminal, lines elsewhere."""

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack

from clusteractl.command import Ctl
from clusteractl.connection import Cluster
from clusteractl.errors import FitsNowhere, PullFailed
from clusteractl.progress import ManyProgress, many_progress_on
from clusteractl.shape import shape
from clusteractl.views.keys import UNKNOWN_URL, curl_line
from clusteractl.views.models import pull_kind, pull_ratio
from clusteractl.views.placement import candidate_list
from clusteractl.words import download_size, listed, plural
from clusterai.errors import ClusterAIError
from clusterai.v1.cluster_pb2 import GetStatusRequest, GetStatusResponse
from clusterai.v1.model_pb2 import NodePull, PullModelRequest, PullModelResponse
from clusterai.v1.types_pb2 import PullStatus

LONGEST_PULL = 7 * 86400.0
_NAMED = 5


def pull_model(ctl: Ctl, request: PullModelRequest) -> None:
    """Pull a model, show how it goes, and end with what is next; raise PullFailed when a node has not got it.

    Raises:
        FitsNowhere: no node can take it.
        PullFailed: a node failed, or the server ended the pull before its end.
    """
    try:
        ctl.run(_pulled(ctl, request))
    except KeyboardInterrupt:
        if not request.dry_run:
            ctl.out.note(f"The pull of {request.model} goes on. See it with: clusteractl model list {request.model}")
        raise


async def _pulled(ctl: Ctl, request: PullModelRequest) -> None:
    async with ctl.cluster() as cluster:
        steps = cluster.stream("ModelService/PullModel", request, PullModelResponse, timeout=LONGEST_PULL)
        last = await _followed(ctl, request, steps)
        if request.dry_run:
            _say(ctl, f"Nothing was changed. To fetch it: clusteractl model pull {request.model}")
            return
        _check(request.model, last)
        if not ctl.out.as_json:
            nodes = [one.node_id for one in last.nodes if one.present]
            where = listed(nodes) if len(nodes) <= _NAMED else plural(len(nodes), "node")
            _say(ctl, f"{request.model} is ready on {where}. Use it:")
            for line in await _next(cluster, request.model):
                _say(ctl, f"  {line}")


async def _followed(ctl: Ctl, request: PullModelRequest, steps: AsyncIterator[PullModelResponse]) -> PullModelResponse:
    """Show all steps and return the last; raise FitsNowhere when none of the candidates was chosen."""
    last = PullModelResponse()
    nowhere = request.dry_run
    with ExitStack() as shown:
        progress: ManyProgress | None = None
        async for step in steps:
            last = step
            _announced(ctl, request.model, step)
            if step.candidates:
                nowhere = not any(one.chosen for one in step.candidates)
            if step.nodes:  # the bars come after the candidates
                progress = progress or shown.enter_context(many_progress_on(ctl))
                _shown(step.nodes, progress)
    if nowhere:
        raise FitsNowhere(model=request.model)
    return last


def _announced(ctl: Ctl, model: str, step: PullModelResponse) -> None:
    """Show a step's candidates, or with --json all of it."""
    if ctl.out.as_json:
        ctl.out.record(shape(step), "")
    elif step.candidates:
        ctl.out.show({}, candidate_list(model, step.candidates, ctl.out.width))


def _shown(nodes: Sequence[NodePull], progress: ManyProgress) -> None:
    """Show the nodes of a step; one that is no longer among them (the server fetched first) leaves its place."""
    progress.keep([node.node_id for node in nodes])
    for node in nodes:
        if node.present:
            progress.end(node.node_id, f"{node.node_id}: ready")
        else:
            _step(node.node_id, node.pull, progress)


def _step(name: str, pull: PullStatus, progress: ManyProgress) -> None:
    """One node's progress; a line changes with each tenth only: it may go to a log."""
    ratio, kind, source = pull_ratio(pull), pull_kind(pull) or "waiting", str(getattr(pull, "from"))
    words = f"{kind} from the {source}" if source and kind == "pulling" else kind
    moves = bool(pull.total_bytes) and kind != "waiting"
    amount = f", {int(ratio * 10) * 10} % of {download_size(pull.total_bytes)}" if moves else ""
    short = f"of {download_size(pull.total_bytes)}, {words}" if moves else words
    why = f": {pull.reason}" if pull.reason else ""
    progress.step(name, ratio, short + why, f"{name}: {words}{amount}{why}")


def _check(model: str, last: PullModelResponse) -> None:
    """Raise PullFailed unless every node has it."""
    wanting = [one for one in last.nodes if not one.present]
    if last.done and last.nodes and not wanting:
        return
    reasons = [f"{one.node_id}: {one.pull.reason or pull_kind(one.pull) or 'not there'}" for one in wanting]
    more = f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    told = last.message if last.done else "; ".join(reasons[:_NAMED]) + more
    raise PullFailed(model=model, reason=told or "the server ended the pull")


async def _next(cluster: Cluster, model: str) -> list[str]:
    """What to type to use the model, with the gateway's address where the server tells it."""
    try:
        status = await cluster.call("ClusterService/GetStatus", GetStatusRequest(), GetStatusResponse)
    except ClusterAIError:
        status = GetStatusResponse()
    url = status.models.gateway_urls[0] if status.models.gateway_urls else UNKNOWN_URL
    return ["clusteractl key create > key", "clusteractl ca > cluster-ca.pem", curl_line(url, model)]


def _say(ctl: Ctl, text: str) -> None:
    if not ctl.out.as_json:
        ctl.out.raw(text)
