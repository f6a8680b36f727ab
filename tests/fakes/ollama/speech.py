"""What the double says: words that depend only on model and prompt, and vectors that depend only on the text."""

import hashlib
import json
import math
import random
import re
from typing import Any

_TEXT = (
    "the cluster answers in a calm voice and tells what the machine in the corner has read about files numbers light "
    "water paper stone rivers houses doors keys letters songs and long quiet afternoons"
)
_WORDS = _TEXT.split()


def count(text: str) -> int:
    """Return a text's length in tokens: words and marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def tokens(model: str, prompt: str, limit: int) -> list[str]:
    """Return an answer of so many tokens, the same for the same question."""
    rng = random.Random(hashlib.sha256(f"{model}\0{prompt}".encode()).digest())
    words = [rng.choice(_WORDS) for _ in range(max(1, limit - 1))]
    return [words[0].capitalize(), *(f" {word}" for word in words[1:]), *(["."] if limit > 1 else [])]


def pieces(text: str) -> list[str]:
    """Return a given text in tokens."""
    return re.findall(r"\s*\S+\s*$|\s*\S+", text) or [""]


def vector(text: str, dimensions: int) -> list[float]:
    """Return a vector of length 1."""
    rng = random.Random(hashlib.sha256(text.encode()).digest())
    values = [rng.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [round(value / length, 7) for value in values]


def structured(schema: Any, model: str, prompt: str) -> str:
    """Return JSON as `format` asks for: of a schema, or any object."""
    if isinstance(schema, dict):
        return json.dumps(_instance(schema, tokens(model, prompt, 40)), ensure_ascii=False)
    return json.dumps({"answer": "".join(tokens(model, prompt, 8))})


def _instance(schema: dict[str, Any], words: list[str]) -> Any:
    kind = schema.get("type")
    if schema.get("enum"):
        return schema["enum"][0]
    if kind == "object":
        return {name: _instance(part, words) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        length = max(int(schema.get("minItems", 0)), min(3, int(schema.get("maxItems", 3))))
        each = schema.get("items", {"type": "string"})
        return [_instance(each, [words[number % len(words)].strip()]) for number in range(length)]
    if kind in ("integer", "number"):
        return len(words)
    return True if kind == "boolean" else "".join(words).strip()
