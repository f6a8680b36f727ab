"""The gateway's decisions, without a gateway: names, choice, closest names, tokens, tables."""

import bisect
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from clusterai.models import BadModelName, normalised
from support.gateway import routes
from support.lua import run_lua
from support.tree import ROOT

NAMES = json.loads((ROOT / "tests/support/model_names.json").read_text())


def test_python_and_lua_write_a_model_s_name_in_the_same_way(tmp_path: Path) -> None:
    texts = [*NAMES["names"], *NAMES["refused"]]
    script = """
        local names, written = require "clusterai.names", {}
        for index, text in ipairs(given) do written[index] = names.normalised(text) or false end
        return written"""
    expected = [*NAMES["names"].values(), *[False] * len(NAMES["refused"])]
    assert dict(zip(texts, run_lua(tmp_path, script, texts), strict=True)) == dict(zip(texts, expected, strict=True))
    assert {text: normalised(text) for text in NAMES["names"]} == NAMES["names"]
    for text in NAMES["refused"]:
        with pytest.raises(BadModelName):
            normalised(text)


def test_a_written_name_stays_as_it_is() -> None:
    assert {name: normalised(name) for name in NAMES["names"].values()} == {
        name: name for name in NAMES["names"].values()
    }


CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str | None]]] = {
    "loaded first": ({"a": (False, 1, 2), "b": (True, 3, 2)}, {"busy": {"b": 9}}, ["b", "loaded"]),
    "fewest in flight per slot": ({"a": (True, 1, 4), "b": (True, 1, 1)}, {"busy": {"a": 3, "b": 1}}, ["a", "loaded"]),
    "best fit": ({"a": (True, 2, 2), "b": (True, 1, 2)}, {}, ["b", "loaded"]),
    "the name": ({"b": (True, 1, 2), "a": (True, 1, 2)}, {}, ["a", "loaded"]),
    "cold": ({"a": (False, 2, 2), "b": (False, 1, 2)}, {}, ["b", "cold"]),
    "the only one": ({"a": (True, 1, 2)}, {}, ["a", "only"]),
    "not one that fails": ({"a": (True, 1, 2), "b": (False, 3, 2)}, {"down": ["a"]}, ["b", "cold"]),
    "nobody": ({"a": (True, 1, 2)}, {"down": ["a"]}, [None, None]),
    "the conversation's node": (
        {"a": (True, 1, 2), "b": (True, 2, 2)},
        {"previous": "b", "busy": {"b": 1}},
        ["b", "conversation"],
    ),
    "not when it fails": ({"a": (True, 1, 2), "b": (True, 2, 2)}, {"previous": "b", "down": ["b"]}, ["a", "loaded"]),
    "not when it has unloaded the model": ({"a": (True, 1, 2), "b": (False, 1, 2)}, {"previous": "b"}, ["a", "loaded"]),
    "not when it has lost the model": ({"a": (True, 1, 2), "b": (True, 2, 2)}, {"previous": "c"}, ["a", "loaded"]),
    "not when it is full and another is free": (
        {"a": (True, 1, 2), "b": (True, 2, 2)},
        {"previous": "b", "busy": {"b": 2, "a": 1}},
        ["a", "loaded"],
    ),
    "even when it is full, when all are": (
        {"a": (True, 1, 2), "b": (True, 2, 2)},
        {"previous": "b", "busy": {"b": 3, "a": 2}},
        ["b", "conversation"],
    ),
}


@pytest.mark.parametrize("case", CHOICES.values(), ids=list(CHOICES))
def test_the_choice_of_a_node(tmp_path: Path, case: tuple[dict[str, Any], dict[str, Any], list[str | None]]) -> None:
    candidates, known, expected = case
    given = {
        "candidates": [
            {"id": node, "key": node, "loaded": loaded, "fit": fit, "slots": slots}
            for node, (loaded, fit, slots) in candidates.items()
        ],
        "busy": known.get("busy") or {"x": 0},
        "down": dict.fromkeys(known.get("down", ()), True) or {"x": True},
        "previous": known.get("previous", ""),
    }
    script = """
        local choose = require "clusterai.choose"
        local model = {candidates = given.candidates, by_id = {}}
        for _, candidate in ipairs(given.candidates) do model.by_id[candidate.id] = candidate end
        local function busy(node) return given.busy[node] or 0 end
        local node, reason = choose.node(model, busy, given.down, given.previous)
        return {node and node.id or cjson.null, reason or cjson.null}"""
    assert run_lua(tmp_path, script, given) == expected


def test_closest_names(tmp_path: Path) -> None:
    known = ["gemma3:4b", "llama3.1:8b", "llama3.2:1b", "llama3.2:3b", "qwen3:8b", "nomic-embed-text:latest"]
    script = """
        local names, found = require "clusterai.names", {}
        for _, text in ipairs(given.asked) do
            local list = names.closest(text, given.known)
            found[text] = #list > 0 and list or cjson.null
        end
        return found"""
    found = run_lua(
        tmp_path,
        script,
        {"known": known, "asked": ["lama3.2:3b", "llama3.2", "gemma", "zzzzzzzzzzzzzzz", "x" * 100000]},
    )
    assert found["lama3.2:3b"][0] == "llama3.2:3b"
    assert set(found["llama3.2"]) >= {"llama3.2:1b", "llama3.2:3b"}
    assert found["gemma"] == ["gemma3:4b"]
    assert found["zzzzzzzzzzzzzzz"] is None


TAILS = {
    '{"done":true,"prompt_eval_count":26,"prompt_eval_duration":1,"eval_count":298,"eval_duration":5}\n': ["26", "298"],
    'data: {"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}\n\ndata: [DONE]\n\n': ["9", "12"],
    'event: message_delta\ndata: {"usage":{"input_tokens": 5, "output_tokens": 15}}\n\n': ["5", "15"],
    '{"eval_count":298},"x":1,"prompt_eval_count":26}': ["26", "298"],
    '{"prompt_eval_count":2.5,"eval_count":"7"}': ["2", None],
    '{"prompt_eval_count":1e3,"eval_count":-4}': ["1000", None],
    '{"prompt_eval_count":99999999999,"eval_count":7': ["99999999999", "7"],
    '{"prompt_eval_count":1e400,"eval_count":1e300}': [None, None],
    '{"prompt_eval_count":007,"eval_count":1}{"prompt_eval_count":008,"eval_count":09}': ["8", "9"],
    '{"usage":{"prompt_tokens":8,"total_tokens":8}}': ["8", None],
    '{"response":"nothing to tell"}': [None, None],
    '{"content":"\\"eval_count\\":1","eval_count":2}': [None, "2"],
    '{"eval_count":1,"prompt_eval_count":5}\n{"eval_count":7,"prompt_eval_count":6}\n': ["6", "7"],
    'data: {"usage":{"prompt_tokens":9,"completion_tokens":1}}\n\n'
    'data: {"usage":{"prompt_tokens":10,"completion_tokens":12}}\n\ndata: [DONE]\n\n': ["10", "12"],
}


@pytest.mark.parametrize("tail", TAILS)
def test_tokens_are_read_from_the_end_of_an_answer(tmp_path: Path, tail: str) -> None:
    script = """
        local prompt, output = require("clusterai.record").tokens(given.tail)
        return {prompt and tostring(prompt) or cjson.null, output and tostring(output) or cjson.null}"""
    assert run_lua(tmp_path, script, {"tail": tail}) == TAILS[tail]


def test_each_time_falls_into_the_first_bucket_that_holds_it(tmp_path: Path) -> None:
    script = """
        local metrics = require "clusterai.metrics"
        local _, bounds = metrics.all()
        local found = {}
        for index, seconds in ipairs(given) do found[index] = metrics.bucket(seconds) end
        return {bounds, found}"""
    times = [0, 0.005, 0.0051, 0.02, 0.1, 0.2, 0.25, 0.3, 0.5, 1, 1.5, 2.5, 5, 7, 10, 29, 30, 60, 61, 300, 301, 1801]
    bounds, found = run_lua(tmp_path, script, times)
    assert found == [bisect.bisect_left(bounds, seconds) + 1 for seconds in times]
    assert set(found) == set(range(1, len(bounds) + 2))


def test_a_mark_is_of_begin_end_and_length(tmp_path: Path) -> None:
    """Requests of one conversation are told by it; it tells nothing of the text."""
    script = """
        local digest, found = require "clusterai.digest", {}
        for index, text in ipairs(given) do
            found[index] = {digest.mark("[" .. text .. "]", 2, #text + 1):byte(1, -1)}
        end
        return found"""
    long = "x" * 100
    texts = ["a", "b", "tower", long, long + "x", "y" + long[1:], long[1:] + "y", long[:50] + "y" + long[51:]]
    marks = [bytes(mark) for mark in run_lua(tmp_path, script, [*texts, "tower"])]
    assert marks[-1] == marks[2]
    assert {len(mark) for mark in marks} == {12}
    assert len(set(marks)) == len(texts)
    of_tower = 2661092977  # MurmurHash2 of 32 bits with the seed that nginx uses
    assert marks[2] == struct.pack("=III", of_tower, of_tower, 5)


def test_parts_of_a_blob_keep_the_rate_together(tmp_path: Path) -> None:
    script = """
        local share = require("clusterai.mirror").share
        return {share(1600, 1), share(1600, 150e6), share(1600, 4e9), share(1600, 100e9), share(3, 4e9)}"""
    assert run_lua(tmp_path, script) == [1600, 800, 100, 100, 1]


def test_a_table_of_100_nodes_and_50_models_is_taken_whole(tmp_path: Path) -> None:
    nodes = {f"n{number}": 1000 + number for number in range(100)}
    table = routes(
        nodes, {f"m{number}:latest": {node: {"loaded": True, "fit": 1} for node in nodes} for number in range(50)}
    )
    script = """
        local compiled = assert(require("clusterai.tables").routes(given.text))
        return {#compiled.names, #compiled.models["m7:latest"].candidates, #compiled.tags}"""
    assert run_lua(tmp_path, script, {"text": json.dumps(table)}) == [50, 100, 50]


def test_times_of_ollama_become_unix_seconds(tmp_path: Path) -> None:
    times = {
        "2026-01-02T03:04:05.123456789+01:00": 1767319445,
        "1970-01-01T00:00:00Z": 0,
        "2024-02-29T23:59:59Z": 1709251199,
        "2026-03-01T00:00:00-05:30": 1772343000,
        "nonsense": 0,
    }
    script = """
        local unix, found = require("clusterai.tables").unix_seconds, {}
        for index, text in ipairs(given) do found[index] = unix(text) end
        return found"""
    assert run_lua(tmp_path, script, list(times)) == list(times.values())


def test_a_name_of_megabytes_is_compared_like_one_of_characters(tmp_path: Path) -> None:
    script = """
        local names, list, spent = require "clusterai.names", {}, {}
        for number = 1, 200 do list[number] = "model" .. number .. ":latest" end
        for index, size in ipairs(given) do
            local text, before = ("x"):rep(size), os.clock()
            for _ = 1, 5 do names.closest(text, list) end
            spent[index] = os.clock() - before
        end
        return spent"""
    _, of_characters, of_megabytes = run_lua(tmp_path, script, [600, 600, 32 << 20])
    assert of_megabytes < 20 * of_characters + 0.1


@pytest.mark.parametrize("end", ['"prompt_eval_count":8}', '"usage":{"input_tokens":5,"output_tokens":9}}'])
def test_an_answer_that_does_not_tell_all_tokens_costs_one_look_at_its_end(tmp_path: Path, end: str) -> None:
    script = """
        local record = require "clusterai.record"
        local function least(work)
            local best = math.huge
            for _ = 1, 9 do
                local before = os.clock()
                work()
                best = math.min(best, os.clock() - before)
            end
            return best
        end
        local one_look = least(function() return (given.tail:gsub(".", "%0")) end)
        return least(function() return record.tokens(given.tail) end) / one_look"""
    assert run_lua(tmp_path, script, {"tail": "0.123456," * 450 + end}) < 10
