"""The gateway and Ollama read the same model in a body, or one of them refuses it: thousands of bodies."""

import base64
import json
import random
from pathlib import Path
from typing import Any

from support.lua import run_lua

_KEYS = (
    '"model"', '"Model"', '"name"', '"m\\u006fdel"', '"\\u006D\\u006f\\u0064\\u0065\\u006c"', '"messages"', '"a"',
    '"mode\\\\l"', '"model\\u0000"', '"\\u004eame"', '"model "', '"\\/model"', '"x\\"model"', '"input"',
)  # fmt: skip
_VALUES = (
    '"good"', '"secret"', '"g\\u006fod"', "7", "null", "true", "[]", "{}", '[{"role":"user","content":"hi"}]',
    '{"model":"secret"}', '"\\\\"', '"\\""', '"a,\\"model\\":\\"secret\\""', '[1,"]"]', '{"a":"}"}', "-1.5e3",
    '"\\ud800"', '""', '[[],{"x":[]}]', '"\x7f"',
)  # fmt: skip
_SPACES = (" ", "\n", "\t", "\r", "\x0b", "\x00", "\ufeff", ",")
_BEHIND = ("}", "x", "{}", '{"model":"secret"}', "]")
_SCRIPT = """
    local body, read = require "clusterai.body", {}
    for index, text in ipairs(given) do
        local found = body.inspect(ngx.decode_base64(text))
        local model = found and body.model_of(found)
        read[index] = model and ngx.encode_base64(model) or false
    end
    return read"""


def body(chance: random.Random) -> bytes:
    """Return an object in which almost anything may stand, then with some bytes changed."""

    def space() -> str:
        return chance.choice(_SPACES) if chance.random() < 0.04 else ""

    fields = [
        f"{space()}{chance.choice(_KEYS)}{space()}:{space()}{chance.choice(_VALUES)}{space()}"
        for _ in range(chance.randrange(1, 5))
    ]
    behind = chance.choice(_BEHIND) if chance.random() < 0.1 else ""
    text = bytearray(f"{space()}{{{','.join(fields)}}}{space()}{behind}".encode())
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        at = chance.randrange(len(text))
        text[at : at + chance.randrange(2)] = chance.choice(
            (b"", b'"', b"\\", b"}", b",", b":", b"\x00", b"m", b"\xff")
        )
    return bytes(text)


def as_ollama(text: bytes) -> str | None:
    """The model as Go's decoder has it: the first value only, keys in any case, the last one counts; None: refused."""
    start = text.decode(errors="replace").lstrip(" \t\r\n")
    try:
        found, _ = json.JSONDecoder(object_pairs_hook=lambda pairs: ("object", pairs)).raw_decode(start)
    except ValueError:
        return None
    if not isinstance(found, tuple):
        return None
    names: dict[str, Any] = {"model": "", "name": ""}
    for key, value in found[1]:
        if key.lower() in names and value is not None:
            names[key.lower()] = value
    model = names["model"] or names["name"]
    return model if all(isinstance(value, str) for value in names.values()) else None


def test_the_model_that_is_checked_is_the_model_that_ollama_runs(tmp_path: Path) -> None:
    chance = random.Random(7)
    bodies = [body(chance) for _ in range(40_000)]
    read = run_lua(tmp_path, _SCRIPT, [base64.b64encode(text).decode() for text in bodies])
    both = [
        (text, base64.b64decode(model).decode(errors="replace"), other)
        for text, model in zip(bodies, read, strict=True)
        if model and (other := as_ollama(text)) is not None
    ]
    assert len(both) > 1000
    assert [found for found in both if found[1] != found[2]] == []
