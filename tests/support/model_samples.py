"""Models and keys as a real cluster would tell of them, and ones with the longest and worst text."""

from typing import Any

from clusterai.v1.cluster_pb2 import ModelsStatus
from clusterai.v1.key_pb2 import Key
from clusterai.v1.model_pb2 import (
    DRIFT_KIND_DIGEST,
    DRIFT_KIND_VERSION,
    FIT_GPU,
    FIT_MAIN_MEMORY,
    FIT_NONE,
    FIT_UNABLE,
    Candidate,
    CatalogEntry,
    Drift,
    ExplainRouteResponse,
    ListCatalogResponse,
    ListModelsResponse,
    Model,
    ModelCopy,
    NodePull,
    PullModelResponse,
    Recommendation,
    RouteStep,
)
from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    PULL_STATE_PULLING,
    PULL_STATE_WAITING,
    OllamaSettings,
    PullStatus,
)
from support.samples import LONG, NOW

GB = 10**9  # as Ollama counts
GATEWAY_URL = "https://tower.local:11434"
LLAMA, QWEN = "llama3.2:3b", "qwen3:32b"
_BAD = "\x1b[2J\x07" + "long reason with a colour \x1b[31m and a line\nbreak 日本語 " * 6


def pull(state: Any, done: float = 0.0, source: str = "server", reason: str = "") -> PullStatus:
    """A pull of a model of 2 GB."""
    told = {"from": source}
    return PullStatus(
        model=LLAMA, state=state, completed_bytes=int(done * 2 * GB), total_bytes=2 * GB, reason=reason, **told
    )


def llama() -> Model:
    """A model that is loaded, ready, on its way and missing."""
    return Model(
        model=LLAMA,
        digest=bytes(range(32)),
        size_bytes=2 * GB,
        family="llama",
        parameter_size="3.2B",
        quantization="Q4_K_M",
        capabilities=["completion", "tools"],
        context_length=131072,
        copies=[
            ModelCopy(node_id="nas", pull=pull(PULL_STATE_PULLING, 0.43), wanted=True),
            ModelCopy(node_id="pi4", wanted=True, reason="its disk is full: 1.1 GB free, 2 GB needed"),
            ModelCopy(node_id="tower", present=True, loaded=True, usable=True, wanted=True, vram_bytes=3 * GB),
        ],
        managed=True,
    )


def qwen() -> Model:
    """A model that somebody pulled by hand on a node that is gone."""
    copies = [ModelCopy(node_id="desk", present=True, reason="desk is offline for 5 min")]
    return Model(model=QWEN, digest=bytes(32), size_bytes=19 * GB, quantization="Q4_K_M", copies=copies)


def models() -> ListModelsResponse:
    """Two models, a drift that can be mended and one of a whole node."""
    drifts = [
        Drift(kind=DRIFT_KIND_DIGEST, model=LLAMA, node_id="phone",
              message=f"phone has {LLAMA} as 4c27e0f5b5ad, the cluster's is 000102030405",
              fix=f"`clusteractl model sync {LLAMA}`"),
        Drift(kind=DRIFT_KIND_VERSION, node_id="nas",
              message="nas runs Ollama 0.30.0, the newest in the cluster is 0.31.1",
              fix="`sudo clusterai-agent setup ollama` on nas"),
    ]  # fmt: skip
    settings = OllamaSettings(context_length=8192, parallel_count=2, keep_alive="5m")
    return ListModelsResponse(models=[llama(), qwen()], drifts=drifts, settings=settings)


def worst_models() -> ListModelsResponse:
    """A hundred nodes, the longest names, and text that would drive a terminal."""
    copies = [
        ModelCopy(node_id=f"{number:03}{LONG[3:]}", present=True, usable=bool(number % 2), reason=_BAD, wanted=True)
        for number in range(100)
    ]
    name = f"{'h' * 80}/{'n' * 80}/{'m' * 80}:{'t' * 80}"
    drifts = [Drift(kind=DRIFT_KIND_DIGEST, model=name, node_id=LONG, message=_BAD, fix="x\ny") for _ in range(100)]
    model = Model(
        model=name, size_bytes=1 << 62, quantization="Q" * 80, family=_BAD, capabilities=[_BAD], copies=copies
    )
    return ListModelsResponse(models=[model], drifts=drifts)


def candidates() -> list[Candidate]:
    """One node of each kind."""
    return [
        Candidate(node_id="tower", chosen=True, fit=FIT_GPU, reason="fits in the 24 GB of its GPU",
                  needed_bytes=3 * GB, free_bytes=22 * GB, memory="gpu"),
        Candidate(node_id="nas", fit=FIT_MAIN_MEMORY, reason="fits in main memory (10 GB free)",
                  needed_bytes=3 * GB, free_bytes=10 * GB, memory="main"),
        Candidate(node_id="pi4", fit=FIT_NONE, reason="needs 3 GB, has 1.1 GB free",
                  needed_bytes=3 * GB, free_bytes=1_100_000_000, memory="main"),
        Candidate(node_id="phone", fit=FIT_UNABLE, reason="it has no Ollama: sudo clusterai-agent setup ollama"),
    ]  # fmt: skip


def worst_candidates() -> list[Candidate]:
    """A hundred nodes with the longest names and reasons, all chosen but some."""
    return [
        Candidate(node_id=f"{number:03}{LONG[3:]}", chosen=bool(number % 3), reason=_BAD, needed_bytes=1 << 62)
        for number in range(100)
    ]


def worst_route() -> ExplainRouteResponse:
    """A hundred nodes with the longest names and reasons, and close names as long."""
    peers = [
        RouteStep(node_id=f"{number:03}{LONG[3:]}", usable=bool(number % 2), in_flight_count=4294967295,
                  slot_count=64, fit=FIT_MAIN_MEMORY, reason=_BAD)
        for number in range(100)
    ]  # fmt: skip
    return ExplainRouteResponse(model="m" * 80 + ":latest", peers=peers, answer=_BAD, closest=[LONG * 4] * 5)


def worst_recommendations() -> list[Recommendation]:
    """A model with the longest text."""
    entry = CatalogEntry(model=f"{LONG}/{LONG}:{LONG}", type=_BAD, licence=_BAD, size_bytes=1 << 62)
    return [Recommendation(entry=entry, reason=_BAD, command="clusteractl model pull x\x1b[2J")]


def pull_steps() -> list[PullModelResponse]:
    """A pull on two nodes: the first from the registry, the second from the server."""
    first = candidates()
    first[1].chosen = True
    waits = NodePull(node_id="nas", pull=pull(PULL_STATE_WAITING, reason="tower fetches it first"))
    ready = NodePull(node_id="tower", present=True)
    return [
        PullModelResponse(model=LLAMA, candidates=first),
        _step(NodePull(node_id="tower", pull=pull(PULL_STATE_PULLING, 0.41, "registry")), waits),
        _step(NodePull(node_id="tower", pull=pull(PULL_STATE_PULLING, 0.43, "registry")), waits),
        _step(ready, NodePull(node_id="nas", pull=pull(PULL_STATE_PULLING, 0.78))),
        _step(ready, NodePull(node_id="nas", present=True), done=True),
    ]


def large_pull() -> list[PullModelResponse]:
    """A pull on a hundred nodes with long names."""
    names = [f"{number:03}{LONG[3:]}" for number in range(100)]
    busy = [NodePull(node_id=name, pull=pull(PULL_STATE_PULLING, 0.5)) for name in names]
    ready = [NodePull(node_id=name, present=True) for name in names]
    first = [Candidate(node_id=name, chosen=True, fit=FIT_GPU, reason="fits") for name in names]
    steps = [_step(*busy), _step(*ready[:50], *busy[50:]), _step(*ready, done=True)]
    return [PullModelResponse(model=LLAMA, candidates=first), *steps]


def server_first() -> list[PullModelResponse]:
    """A pull on one node for which another one, the server, fetches first."""
    waits = NodePull(node_id="nas", pull=pull(PULL_STATE_WAITING, reason="the server fetches it first"))
    nas = [pull(PULL_STATE_PULLING, done) for done in (0.6, 0.9)]
    return [
        PullModelResponse(model=LLAMA, candidates=candidates()[:1]),
        _step(NodePull(node_id="server", pull=pull(PULL_STATE_PULLING, 0.5, "registry")), waits),
        *(_step(NodePull(node_id="nas", pull=one)) for one in nas),
        _step(NodePull(node_id="nas", present=True), done=True),
    ]


def failed_pull() -> list[PullModelResponse]:
    """A pull that one node cannot do."""
    reason = "sha256 of a blob differs; tried again in 60 s"
    failed = NodePull(node_id="nas", pull=pull(PULL_STATE_FAILED, 0.78, reason=reason))
    message = f"1 of 2 nodes have {LLAMA}; nas: {reason}"
    return [*pull_steps()[:3], _step(NodePull(node_id="tower", present=True), failed, done=True, message=message)]


def _step(*nodes: NodePull, done: bool = False, message: str = "") -> PullModelResponse:
    return PullModelResponse(model=LLAMA, nodes=nodes, done=done, message=message)


def catalog() -> ListCatalogResponse:
    """A shipped entry, an own one with long text, one that fits nowhere."""
    return ListCatalogResponse(
        entries=[
            CatalogEntry(model=LLAMA, title="Llama 3.2", size_class="medium", type="text", purposes=["general"],
                         size_bytes=2 * GB, licence="Llama 3.2 Community", context_length=131072,
                         parameter_size="3.2B", candidates=candidates()),
            CatalogEntry(model=f"own/{LONG}:latest", type="specialised", purposes=["education", "creative"],
                         licence=_BAD, size_bytes=1 << 30, context_length=512, own=True),
            CatalogEntry(model="huge:400b", type="text", size_bytes=240 * GB, candidates=candidates()[2:]),
        ],
        catalog_version="2026-11-20",
    )  # fmt: skip


def recommendations() -> list[Recommendation]:
    """One model with its reason."""
    entry = CatalogEntry(model=LLAMA, type="text", size_bytes=2 * GB, licence="Llama 3.2 Community")
    reason = "the largest general one that fits in the GPU of tower beside what is loaded there"
    return [Recommendation(entry=entry, reason=reason, command=f"clusteractl model pull {LLAMA}")]


def route() -> ExplainRouteResponse:
    """Two nodes that can, one that cannot."""
    return ExplainRouteResponse(
        model=LLAMA,
        peers=[
            RouteStep(node_id="tower", usable=True, loaded=True, in_flight_count=1, slot_count=2, fit=FIT_GPU,
                      reason="would get the request: has it loaded, 1 of 2 slots in use, fits on its GPU"),
            RouteStep(node_id="nas", usable=True, slot_count=2, fit=FIT_MAIN_MEMORY,
                      reason="would have to load it first, 0 of 2 slots in use, runs in main memory"),
            RouteStep(node_id="pi4", fit=FIT_NONE, slot_count=2, reason="it is draining since 2 min, on ann's request"),
        ],
    )  # fmt: skip


def no_route() -> ExplainRouteResponse:
    """A model that nobody can serve now."""
    peers = [RouteStep(node_id="desk", fit=FIT_GPU, reason="desk is offline for 5 min")]
    return ExplainRouteResponse(model=QWEN, peers=peers, answer="desk, which has it, is offline; try again in 60 s")


def served() -> ModelsStatus:
    """What the status says of models."""
    return ModelsStatus(model_count=2, node_count=3, gateway_state="running", gateway_urls=[GATEWAY_URL])


def keys() -> list[Key]:
    """A key for everything, one for models, an expired, a revoked one and one of the dashboard."""
    return [
        Key(key_id="k3v7q2xa", name="ann", created_unix_seconds=NOW - 3600, created_by="local"),
        Key(key_id="aaaaaaaa", name=LONG, models=[LLAMA, QWEN], created_unix_seconds=NOW - 9e6, created_by=LONG,
            expires_unix_seconds=NOW + 30 * 86400, requests_per_minute=1_000_000),
        Key(key_id="bbbbbbbb", name="old", created_unix_seconds=NOW - 9e6, expires_unix_seconds=NOW - 60),
        Key(key_id="cccccccc", name="gone", created_unix_seconds=NOW - 9e6, revoked=True),
        Key(key_id="dddddddd", name="browser", created_unix_seconds=NOW - 60, dashboard=True),
    ]  # fmt: skip
