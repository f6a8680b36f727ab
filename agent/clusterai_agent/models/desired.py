"""What the daemon wants of this node's Ollama, as values, and what is to be done for it: pure decisions."""

from collections.abc import Mapping
from dataclasses import dataclass

from clusterai.launch_spec import is_host
from clusterai.models import BadModelName, normalised
from clusterai.ollama_settings import BadSettings, Settings
from clusterai.v1.types_pb2 import ModelSpec, OllamaSpec

_MODEL_LIMIT = 1000
_PORTS = range(1, 1 << 16)
_DIGEST_BYTES = 32
LEAST_FREE_BYTES = 1 << 30
_MARGIN_RATIO = 0.05


@dataclass(frozen=True)
class WantedModel:
    """A model as it shall be here: there with this digest (empty: any), or not there."""

    name: str
    digest: bytes = b""
    absent: bool = False
    from_mirror: bool = False
    waits: bool = False


@dataclass(frozen=True)
class Wanted:
    """All of it. `problems` are parts of the spec that make no sense and are left out."""

    models: tuple[WantedModel, ...] = ()
    settings: Settings | None = None
    gate_port: int = 0
    gateway_name: str = ""
    mirror_address: str = ""  # HOST:PORT; HOST may be empty
    mirror_name: str = ""
    problems: tuple[str, ...] = ()


def wanted_of(spec: OllamaSpec) -> Wanted:
    """Return what the spec says, without what makes no sense."""
    models: dict[str, WantedModel] = {}
    problems = []
    for item in spec.models[:_MODEL_LIMIT]:
        try:
            model = _model(item)
        except ValueError as error:
            problems.append(str(error))
        else:
            models[model.name] = model
    settings = None
    if spec.HasField("settings"):
        given = spec.settings
        try:
            settings = Settings(given.context_length, given.parallel_count, given.keep_alive).checked()
        except BadSettings as error:
            problems.append(str(error))
    gate = spec.gate_port in _PORTS and bool(spec.gateway_name) and is_host(spec.gateway_name)
    if spec.gate_port and not gate:
        problems.append(f"no proper gate: port {spec.gate_port}, for {spec.gateway_name[:80]!r}")
    return Wanted(
        tuple(models.values()), settings, spec.gate_port if gate else 0, spec.gateway_name,
        spec.mirror_address, spec.mirror_name, tuple(problems),
    )  # fmt: skip


def _model(item: ModelSpec) -> WantedModel:
    try:
        name = normalised(item.model)
    except BadModelName as error:
        raise ValueError(str(error)) from error
    if len(item.digest) not in (0, _DIGEST_BYTES):
        raise ValueError(f"{name}: its digest has {len(item.digest)} bytes")
    of_public_registry = name.count("/") < 2  # the mirror serves no others
    return WantedModel(name, item.digest, item.absent, item.from_mirror and of_public_registry, item.waits)


@dataclass(frozen=True)
class Seen:
    """What is there: digests by name, what is under the mirror's name, what is being fetched, and who must wait."""

    digests: Mapping[str, bytes]
    mirrored: Mapping[str, bytes]
    fetching: WantedModel | None
    retry_at: Mapping[WantedModel, float]
    mirror_problem: str  # empty: it can be fetched from
    now: float


@dataclass(frozen=True)
class Fetch:
    """Have Ollama pull it, and see that it is what is wanted."""

    model: WantedModel


@dataclass(frozen=True)
class Remove:
    """Delete it, at once: a stream that runs goes on to its end."""

    name: str


@dataclass(frozen=True)
class StopFetching:
    """What is being fetched is not wanted any more, or no longer so."""


@dataclass(frozen=True)
class Wait:
    """It will be fetched later; the reason is for people."""

    model: WantedModel
    reason: str


Step = Fetch | Remove | StopFetching | Wait


def steps(wanted: tuple[WantedModel, ...], seen: Seen) -> list[Step]:
    """Return what to do now. At most one model is fetched at a time; what nobody named is left alone."""
    found: list[Step] = [Remove(item.name) for item in wanted if item.absent and item.name in seen.digests]
    busy = seen.fetching
    if busy is not None and busy not in wanted:
        return [*found, StopFetching()]
    if busy is None:
        found += [Remove(name) for name in seen.mirrored if _is_settled(name, wanted, seen)]
    for item in wanted:
        if item.absent or item == busy or _is_there(item, seen):
            continue
        if item in seen.retry_at and seen.retry_at[item] > seen.now:
            continue  # shown as failed
        if reason := _why_not_now(item, busy, seen):
            found.append(Wait(item, reason))
        else:
            found.append(Fetch(item))
            busy = item
    return found


def missing(wanted: tuple[WantedModel, ...], seen: Seen) -> list[WantedModel]:
    """Return what shall be here and is not."""
    return [item for item in wanted if not item.absent and not _is_there(item, seen)]


def _is_there(item: WantedModel, seen: Seen) -> bool:
    digest = seen.digests.get(item.name)
    return digest is not None and (not item.digest or digest == item.digest)


def _is_settled(mirrored: str, wanted: tuple[WantedModel, ...], seen: Seen) -> bool:
    """Whether a copy under the mirror's name is of no use any more: no fetch will begin that finds it there."""
    tail = mirrored.partition("/")[2]
    return all(tail != normalised_tail(item.name) for item in missing(wanted, seen) if item.from_mirror)


def normalised_tail(name: str) -> str:
    """Return namespace, model and tag of a name of the public registry: its name at the mirror."""
    return name if "/" in name else f"library/{name}"


def _why_not_now(item: WantedModel, busy: WantedModel | None, seen: Seen) -> str:
    if item.waits:
        return "the server fetches it first"
    if busy is not None:
        return f"after {busy.name}"
    if item.from_mirror and seen.mirror_problem:
        return seen.mirror_problem
    return ""


def needed_bytes(remaining: int, size: int) -> int:
    """Return how much disk must be free to fetch so much of a model of that size: 5 % more, at least 1 GiB more."""
    return remaining + max(int(size * _MARGIN_RATIO), LEAST_FREE_BYTES)
