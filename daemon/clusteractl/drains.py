"""Waiting for a drain: progress as a bar on a terminal, as lines elsewhere."""

from clusteractl.command import Ctl
from clusteractl.errors import DrainFailed
from clusteractl.progress import Progress, progress_on
from clusteractl.shape import shape
from clusteractl.views.nodes import drain_line
from clusteractl.words import plural, word
from clusterai.v1.node_admin_pb2 import NODE_STATE_DRAINED, DrainNodeRequest, DrainNodeResponse, NodeState

LONGEST_DRAIN = 7 * 86400.0


def drain_node(ctl: Ctl, node_id: str, deadline: float) -> None:
    """Drain a node, show how it goes, and end with what is next; raise DrainFailed when it ends otherwise."""
    try:
        last = ctl.run(_drained(ctl, node_id, deadline))
    except KeyboardInterrupt:
        ctl.out.note(f"The drain of {node_id} goes on. See it with: clusteractl node show {node_id}")
        raise
    if last is None or last.state != NODE_STATE_DRAINED:
        state = word(NodeState, last.state if last else 0)
        raise DrainFailed(node=node_id, state=state, reason=(last and last.message) or "the server ended the drain")
    if not ctl.out.as_json:
        ctl.out.raw(f"{node_id} is drained. Bring it back with: clusteractl node undrain {node_id}")


async def _drained(ctl: Ctl, node_id: str, deadline: float) -> DrainNodeResponse | None:
    """Follow the drain to its end and return its last step."""
    request = DrainNodeRequest(node_id=node_id, deadline_seconds=deadline)
    limit = deadline + ctl.timeout if deadline else LONGEST_DRAIN
    last = None
    async with ctl.cluster() as cluster:
        steps = cluster.stream("NodeAdminService/DrainNode", request, DrainNodeResponse, timeout=limit)
        with progress_on(ctl, f"Draining {node_id}") as progress:
            async for step in steps:
                last = step
                _shown(ctl, node_id, step, progress)
    return last


def _shown(ctl: Ctl, node_id: str, step: DrainNodeResponse, progress: Progress) -> None:
    if ctl.out.as_json:
        ctl.out.record(shape(step, node_id=node_id), "")
        return
    if step.state == NODE_STATE_DRAINED:
        return
    done = step.moved_result_count / step.total_result_count if step.total_result_count else 0.0
    results = f"{step.moved_result_count}/{step.total_result_count} results"
    counts = f"{results}, {plural(step.running_task_count, 'task')} running"
    progress.step(done, f"{counts} {step.message}".strip(), drain_line(node_id, step))
