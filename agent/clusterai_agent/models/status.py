"""What the server is told of this node's Ollama; bounded, whatever Ollama itself says."""

from collections.abc import Iterable

from clusterai.v1.types_pb2 import GateStatus, LoadedModel, OllamaModel, OllamaSettings, OllamaStatus, PullStatus
from clusterai_agent.models.desired import Wanted
from clusterai_agent.models.observer import Observation

LIMIT_BYTES = 200_000  # the daemon takes statuses up to 256 KiB
_DISK_STEP = 16 << 20
_NAMED = 5
_FINDING_LIMIT, _FINDINGS = 300, 32


def status_of(
    seen: Observation, wanted: Wanted, gate: GateStatus, pulls: Iterable[PullStatus],
    applied: OllamaSettings | None, problem: str = "",
) -> OllamaStatus:  # fmt: skip
    """Return the status. The models changed last go first where there are too many; a finding says so."""
    status = OllamaStatus(
        state=seen.found.state, reason=seen.found.reason[:500], hint=seen.found.hint[:500], version=seen.version,
        source=seen.found.source, models_directory=str(seen.models_directory or "")[:500], loaded=seen.loaded,
        pulls=pulls, gate=gate, applied=applied,
        disk_free_bytes=_in_steps(seen.disk_free_bytes),
        mirror=seen.ready and seen.can_mirror,
    )  # fmt: skip
    notes = [text[:_FINDING_LIMIT] for text in (*findings(seen, wanted), *([problem] if problem else []))]
    status.findings.extend(notes[:_FINDINGS])
    _add_models(status, seen.models.values())
    return status


def _in_steps(free: int) -> int:
    """Rounded, so that it is no news every second; a disk that is full is none that is not known."""
    return max(free // _DISK_STEP * _DISK_STEP, 1) if free else 0


def _add_models(status: OllamaStatus, models: Iterable[OllamaModel]) -> None:
    newest = sorted(models, key=lambda model: (-model.modified_unix_seconds, model.model))
    room = LIMIT_BYTES - status.ByteSize()
    fitting = 0
    for model in newest:
        room -= model.ByteSize() + 4  # tag and length
        if room < 0:
            break
        fitting += 1
    status.models.extend(sorted(newest[:fitting], key=lambda model: model.model))
    if left_out := len(newest) - fitting:
        status.findings.append(f"has more models than can be told: {left_out} are left out, the oldest ones")


def findings(seen: Observation, wanted: Wanted) -> list[str]:
    """Return what is not as it should be, each in a sentence for people."""
    found = []
    if seen.exposed:
        found.append(
            "listens on all interfaces: everybody in the network can use it without a key; "
            "our drop-in sets OLLAMA_HOST=127.0.0.1, so restart it and look who else sets it"
        )
    if seen.elsewhere:
        found.append(f"has cloud models, which are not served: {_named(seen.elsewhere)}")
    if seen.unusable:
        found.append(f"has {seen.unusable} models with a name or digest that cannot be used")
    if wanted.settings is not None:
        if seen.ready and seen.unit is None:
            found.append("is not run by ollama.service, so its settings are not ours to make")
        found += [text for loaded in seen.loaded if (text := _context(loaded, seen, wanted))]
    return [*found, *(f"the server asks for what makes no sense: {problem}" for problem in wanted.problems)]


def _context(loaded: LoadedModel, seen: Observation, wanted: Wanted) -> str:
    """Why a chat may be cut here: loaded with another context than asked, and than the model has at most."""
    assert wanted.settings is not None
    asked, slots = wanted.settings.context_length, wanted.settings.parallel_count
    trained = seen.models[loaded.model].shape.context_length if loaded.model in seen.models else 0
    fine = {0, asked, asked * slots, trained, trained * slots}
    if loaded.context_length in fine:
        return ""
    return f"{loaded.model} is loaded with a context of {loaded.context_length} tokens in place of {asked}"


def _named(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
