"""The catalogue that is shipped, the administrator's entries over it, and what is recommended."""

from pathlib import Path
from typing import Any

import pytest

from clusterai.config import ConfigError
from clusterai.models import normalised
from clusteraid.models.catalogue import (
    CatalogueFile,
    ModelType,
    Purpose,
    SizeClass,
    parse_catalogue,
    selected,
    shipped_catalogue,
)
from clusteraid.models.fit import Memory, memory_needed
from clusteraid.models.placement import Place, Wish, place
from clusteraid.models.recommend import Pick, recommend
from clusteraid.status import Problems
from support.ollama_status import GB, SETTING

FILE = Path("/etc/clusterai/models.toml")
OWN = """
[[model]]
name = "qwen3:8b"
title = "ours"
size_bytes = 1_000
[[model]]
name = "registry.house/team/judge:latest"
type = "specialised"
purposes = ["analysis"]
size_bytes = 3_000_000_000
"""


def test_the_shipped_catalogue_covers_every_class_type_and_purpose() -> None:
    catalogue = shipped_catalogue()
    entries = catalogue.entries.values()
    assert len(entries) >= 45
    assert catalogue.version
    assert {entry.size_class for entry in entries} == set(SizeClass)
    assert {entry.type for entry in entries} == set(ModelType)
    assert {purpose for entry in entries for purpose in entry.purposes} == set(Purpose)
    assert all(entry.title and entry.licence and entry.parameters and entry.context_length for entry in entries)
    assert all(normalised(name) == name for name in catalogue.entries)


def test_the_shipped_shapes_give_sensible_needs() -> None:
    """A slip in a number of layers or heads would show as a KV cache out of all proportion to the weights."""
    for entry in shipped_catalogue().entries.values():
        info = entry.info
        need = memory_needed(info.size_bytes, info.shape, SETTING, family=info.family, capabilities=info.capabilities)
        assert 0 < need.kv_cache < 10 * GB
        if entry.layers and entry.type is not ModelType.EMBEDDING:
            per_token = 2 * entry.layers * entry.kv_heads * entry.head_length * 2
            assert 10_000 < per_token <= 900_000, entry.name


def test_sizes_have_classes_at_2_7_and_15_gigabytes() -> None:
    sizes = {1_999_999_999: "small", 2 * GB: "medium", 7 * GB - 1: "medium", 7 * GB: "large", 15 * GB: "huge"}
    assert {size: SizeClass.of(size).value for size in sizes} == sizes


def test_what_is_asked_for_is_selected_the_smallest_first() -> None:
    entries = shipped_catalogue().entries.values()
    found = selected(entries, "medium", "code", "programming")
    assert [entry.name for entry in found] == ["codellama:7b", "qwen2.5-coder:7b"]
    assert len(selected(entries, "", "", "")) == len(entries)


def test_own_entries_replace_and_add(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(OWN)
    problems = Problems()
    catalogue = CatalogueFile(lambda: file, problems).catalogue
    assert catalogue.entries["qwen3:8b"].title == "ours"
    assert catalogue.own == {"qwen3:8b", "registry.house/team/judge:latest"}
    assert catalogue.entries["gemma3:4b"].title == "Gemma 3"
    assert problems.all() == ()


def test_an_own_file_that_is_wrong_changes_nothing_and_is_a_problem_until_it_is_right(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    problems = Problems()
    made = CatalogueFile(lambda: file, problems)
    assert problems.all() == ()  # need not exist
    file.write_text(OWN)
    made.reload()
    before = made.catalogue
    file.write_text(OWN.replace("3_000_000_000", '"3 GB"'))
    made.reload()
    assert made.catalogue is before
    assert f"{file}: model[registry.house/team/judge:latest].size_bytes = '3 GB'" in problems.find("catalogue")
    file.write_text(OWN)
    made.reload()
    assert problems.all() == ()
    file.unlink()
    file.mkdir()
    made.reload()
    assert str(file) in problems.find("catalogue")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"models": []}, "models = []: unknown key; known are model, version"),
        ({"version": 3}, "version = 3: must be a string"),
        ({"model": {"name": "x"}}, "must be [[model]] tables"),
        ({"model": [{"name": "a:1"}]}, "model[a:1].size_bytes = 0: must be 1 to"),
        ({"model": [{"size_bytes": 1}]}, "model[1].name = '': '' is no name of a model"),
        ({"model": [{"name": "A", "size_bytes": 1}]}, "model[A].name = 'A': is written 'a:latest' here"),
        ({"model": [{"name": "a:1", "size_bytes": 1, "sise": 2}]}, "model[a:1].sise = 2: unknown key"),
        ({"model": [{"name": "a:1", "size_bytes": 1, "type": "poem"}]}, "model[a:1].type = 'poem': must be one of"),
        ({"model": [{"name": "a:1", "size_bytes": 1, "purposes": ["x"]}]}, "model[a:1].purposes = 'x': must be one of"),
        ({"model": [{"name": "a:1", "size_bytes": 1, "purposes": []}]}, "model[a:1].purposes = (): must not be empty"),
        ({"model": [{"name": "a:1", "size_bytes": 1, "title": "\x1b"}]}, "printable characters"),
        ({"model": [{"name": "a:1", "size_bytes": 1, "layers": -1}]}, "model[a:1].layers = -1: must be 0 to"),
        ({"model": [{"name": "a:1", "size_bytes": 1}] * 2}, "model[a:1].name = 'a:1': stands there twice"),
        ({"model": [{}] * 2001}, "model = 2001: must be at most 2000 tables"),
    ],
)
def test_a_wrong_file_is_refused_with_file_entry_key_and_reason(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_catalogue(table, FILE)
    assert str(caught.value).startswith(f"{FILE}: ")
    assert said in str(caught.value)


def picks(*places: Place, purpose: str = "", kind: str = "") -> dict[str, Pick]:
    entries = selected(shipped_catalogue().entries.values(), "", kind, purpose)
    judged = {}
    for entry in entries:
        info = entry.info
        need = memory_needed(info.size_bytes, info.shape, SETTING, family=info.family, capabilities=info.capabilities)
        judged[entry.name] = place(Wish(), need, places)
    return {pick.entry.type.value: pick for pick in recommend(entries, judged)}


TOWER = Place("tower", Memory(24 * GB, 24 * GB, 0, 25 * GB, 0), disk_free=900 * GB)
PI = Place("pi", Memory(0, 0, 0, 6 * GB, 0), disk_free=30 * GB)


def test_for_a_machine_with_a_gpu_the_largest_that_fits_on_it_is_recommended() -> None:
    found = picks(TOWER, PI)
    assert list(found) == ["text", "code", "multimodal", "embedding", "specialised"]
    text = found["text"]
    assert text.reason.startswith("the largest text model of the catalogue that fits on the GPU of tower: needs ")
    assert 14 * GB <= text.entry.size_bytes < 24 * GB
    assert found["embedding"].entry.size_class is SizeClass.SMALL


def test_for_a_small_machine_something_small_is_recommended() -> None:
    found = picks(PI)
    assert found["text"].entry.size_bytes < 6 * GB
    assert "in the main memory of pi and still answers at a bearable speed" in found["text"].reason


def test_without_a_gpu_large_models_are_not_recommended_whatever_the_memory() -> None:
    hall = Place("hall", Memory(0, 0, 0, 500 * GB, 0), disk_free=900 * GB)
    assert all(pick.entry.size_bytes <= 7 * GB for pick in picks(hall).values())


def test_a_purpose_and_a_type_narrow_the_choice_and_nothing_fits_nowhere() -> None:
    assert list(picks(TOWER, purpose="programming", kind="code")) == ["code"]
    assert picks() == {}
    assert picks(Place("off", TOWER.memory, unable="off is offline", disk_free=900 * GB)) == {}
