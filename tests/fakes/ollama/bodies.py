"""Bodies of requests, read as Ollama's decoder reads them, and times as Go writes them."""

import json
from datetime import UTC, datetime
from typing import Any

from fakes.http import HttpFault, Request
from fakes.ollama.names import Name
from fakes.ollama.settings import seconds


def now() -> str:
    """Return the time of an answer."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """Return a time as RFC 3339, with nine decimals as Go has."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def decoded(request: Request) -> dict[str, Any]:
    """Return the body. Names are matched whatever their case, and of two the last counts: Go's decoder does that."""
    if not request.body:
        raise HttpFault(400, {"error": "missing request body"})
    try:
        pairs = json.loads(request.body, object_pairs_hook=_last_of_each)
    except (ValueError, RecursionError) as error:
        raise HttpFault(400, {"error": str(error)}) from None
    if not isinstance(pairs, dict):
        raise HttpFault(400, {"error": "json: cannot unmarshal into Go value of type api.Request"})
    return {name.lower(): value for name, value in pairs.items()}


def _last_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.pop(name, None)  # so that the order is that of the last
        found[name] = value
    return found


def model_name(body: dict[str, Any], *names: str) -> str:
    """Return the model that a body names; `model`, or one of the older names."""
    for name in ("model", *names):
        if body.get(name):
            if not isinstance(body[name], str):
                raise HttpFault(400, {"error": f"json: cannot unmarshal into Go struct field {name} of type string"})
            return str(body[name])
    raise HttpFault(400, {"error": "model is required"})


def checked_name(text: str) -> Name:
    """Return a valid name."""
    name = Name.parse(text)
    if not name.valid:
        raise HttpFault(400, {"error": "invalid model name"})
    return name


def options(body: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were set."""
    found = body.get("options") or {}
    if not isinstance(found, dict):
        raise HttpFault(400, {"error": "json: cannot unmarshal into Go struct field options of type map"})
    return {name: value for name, value in found.items() if value is not None}


def keep_alive(body: dict[str, Any]) -> float | None:
    """Return how long to keep the model, in seconds; None: as configured."""
    said = body.get("keep_alive")
    if said is None:
        return None
    try:
        return seconds(said)
    except ValueError as error:
        raise HttpFault(400, {"error": str(error)}) from None


def text_of(content: Any) -> str:
    """Return the text of a message: a string, or parts as OpenAI's and Anthropic's clients send them."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def prompt_of(messages: Any) -> str:
    """Return a chat as one prompt."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise HttpFault(400, {"error": "json: cannot unmarshal into Go struct field messages of type []api.Message"})
    return "\n".join(f"{message.get('role')}: {text_of(message.get('content'))}" for message in messages)
