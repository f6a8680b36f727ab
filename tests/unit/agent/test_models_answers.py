"""Ollama's answers, good, odd and hostile; where it is; who listens; and how much of it the server is told."""

import math
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clusterai.ollama_settings import Settings
from clusterai.units import UnitStatus
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import GateStatus, LoadedModel, ModelShape, OllamaModel
from clusterai_agent.models import answers, finder, listening
from clusterai_agent.models.desired import Wanted
from clusterai_agent.models.finder import Found
from clusterai_agent.models.observer import Observation
from clusterai_agent.models.ollama_errors import OllamaAway, OllamaOdd
from clusterai_agent.models.status import LIMIT_BYTES, findings, status_of

DIGEST = "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72"
ENTRY = {
    "name": "Llama3.2:3b", "model": "llama3.2:3b", "modified_at": "2026-05-04T17:37:44.706015396-07:00",
    "size": 2019393189, "digest": DIGEST,
    "details": {"family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M", "families": ["llama"]},
    "capabilities": ["completion", "tools"],
}  # fmt: skip
ODD: list[Any] = [
    None, 0, "", "x", [], {}, [[]], {"models": None}, {"models": "x"}, {"models": [None, 1, "x", []]}, math.nan,
]  # fmt: skip


def tags(*entries: Any) -> answers.Tags:
    return answers.Tags({"models": list(entries)}, "127.0.0.1:11445")


def test_a_model_is_told_with_all_that_is_known() -> None:
    model = tags(ENTRY).models["llama3.2:3b"]
    assert model.digest.hex() == DIGEST
    assert (model.size_bytes, model.family, model.parameter_size) == (2019393189, "llama", "3.2B")
    assert model.quantization == "Q4_K_M"
    assert list(model.capabilities) == ["completion", "tools"]
    assert datetime.fromtimestamp(model.modified_unix_seconds, UTC).strftime("%F %T") == "2026-05-05 00:37:44"


def test_a_copy_under_the_mirror_s_name_is_no_model() -> None:
    seen = tags(ENTRY | {"name": "127.0.0.1:11445/library/a:1", "model": "127.0.0.1:11445/library/a:1"})
    assert (seen.models, seen.mirrored) == ({}, {"127.0.0.1:11445/library/a:1": bytes.fromhex(DIGEST)})


def test_a_cloud_model_is_never_usable() -> None:
    cloud = ENTRY | {"name": "gpt:cloud", "model": "gpt:cloud", "remote_host": "https://ollama.example"}
    seen = tags(ENTRY, cloud)
    assert (list(seen.models), seen.elsewhere) == (["llama3.2:3b"], ["gpt:cloud"])
    assert answers.loaded_of({"models": [cloud]}) == []


@pytest.mark.parametrize("answer", ODD)
def test_an_answer_of_another_form_is_none(answer: Any) -> None:
    seen = answers.Tags(answer, "127.0.0.1:11445")
    assert (seen.models, seen.mirrored, seen.elsewhere) == ({}, {}, [])
    assert answers.loaded_of(answer) == []
    assert answers.version_of(answer) == ""
    assert answers.capabilities_of(answer) == []
    assert answers.shape_of(answer) == ModelShape()


@pytest.mark.parametrize(
    "change",
    [
        {"model": "../x/../y/z", "name": ""}, {"model": "a" * 5000}, {"digest": "12"}, {"digest": None},
        {"digest": "z" * 64},
    ],
)
def test_an_entry_that_cannot_be_used_is_counted(change: dict[str, Any]) -> None:
    seen = tags(ENTRY | change)
    assert (seen.models, seen.unusable) == ({}, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1}, {"size": "many"}, {"size": 1e300}, {"size": math.nan}, {"size": True}, {"details": []},
        {"details": {"family": 7}}, {"modified_at": "yesterday"}, {"modified_at": 5}, {"capabilities": {"a": 1}},
        {"capabilities": [1, None]}, {"modified_at": "9999-12-31T23:59:59+00:00"},
    ],
)  # fmt: skip
def test_odd_values_cost_only_themselves(change: dict[str, Any]) -> None:
    assert tags(ENTRY | change).models["llama3.2:3b"].SerializeToString()


def test_text_is_bounded_and_printable() -> None:
    details = {"family": "x\n\x1b[31m" + "y" * 10000}
    assert tags(ENTRY | {"details": details}).models["llama3.2:3b"].family == "x[31m" + "y" * 57


def test_what_is_in_memory() -> None:
    entry = ENTRY | {
        "size_vram": 1 << 40, "expires_at": "2318-05-04T17:37:44Z", "context_length": 8192, "size": 1 << 30,
    }  # fmt: skip
    (loaded,) = answers.loaded_of({"models": [entry]})
    assert (loaded.model, loaded.context_length, loaded.size_bytes) == ("llama3.2:3b", 8192, 1 << 30)
    assert loaded.vram_bytes == 1 << 30, "no more of it can be on a GPU than there is"
    assert loaded.expires_unix_seconds == 0, "never"
    (soon,) = answers.loaded_of({"models": [entry | {"expires_at": "2026-11-24T13:00:00.9+00:00"}]})
    assert soon.expires_unix_seconds == datetime(2026, 11, 24, 13, 0, 1, tzinfo=UTC).timestamp()
    (loading,) = answers.loaded_of({"models": [entry | {"expires_at": "0001-01-01T00:00:00Z"}]})
    assert loading.expires_unix_seconds == 0


def shape(**info: Any) -> ModelShape:
    plain = {f"llama.{name.replace('__', '.')}": value for name, value in info.items()}
    return answers.shape_of({"model_info": {"general.architecture": "llama", **plain}})


def test_the_shape_of_a_model() -> None:
    common = {"block_count": 28, "context_length": 131072, "embedding_length": 3072, "attention__head_count": 24}
    assert shape(**common, attention__head_count_kv=8) == ModelShape(
        layer_count=28, kv_head_count=8, key_length=128, value_length=128, context_length=131072
    )
    given = shape(**common, attention__head_count_kv=[8, 4, 0], attention__key_length=64, attention__value_length=32)
    assert (given.kv_head_count, given.key_length, given.value_length) == (1, 64, 32)
    assert shape(block_count=-1, context_length="long", attention__head_count=[None, "x"]) == ModelShape()


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"status": "pulling x", "digest": f"sha256:{DIGEST}", "total": 10, "completed": 4}, (DIGEST, 4, 10)),
        ({"status": "pulling x", "digest": f"sha256:{DIGEST}", "total": 10}, (DIGEST, 0, 10)),
        ({"status": "pulling x", "digest": f"sha256:{DIGEST}", "total": 10, "completed": 99}, (DIGEST, 10, 10)),
        ({"status": "pulling manifest"}, None),
        ({"digest": 5, "total": 10}, None),
        ({"digest": f"sha256:{DIGEST}", "total": -3}, None),
    ],
)
def test_progress(step: dict[str, Any], expected: object) -> None:
    assert answers.progress_of(step) == expected


NOW = 5000.0
UNIT = UnitStatus(finder.UNIT, active_state="active", since_unix_seconds=1000.0)
AWAY = OllamaAway(address="127.0.0.1:11434", reason="Connection refused")
ODD_ONE = OllamaOdd(address="127.0.0.1:11434", reason="not JSON")
BINARY = Path("/usr/local/bin/ollama")


@pytest.mark.parametrize(
    ("unit", "program", "failure", "state", "source"),
    [
        (UNIT, BINARY, None, "READY", "unit"),
        (None, None, None, "READY", "address"),
        (replace(UNIT, active_state="inactive"), BINARY, None, "READY", "address"),
        (None, None, AWAY, "ABSENT", ""),
        (None, BINARY, AWAY, "STOPPED", "binary"),
        (replace(UNIT, active_state="inactive"), BINARY, AWAY, "STOPPED", "unit"),
        (replace(UNIT, active_state="failed", result="exit-code"), BINARY, AWAY, "FAILED", "unit"),
        (replace(UNIT, active_state="activating", restart_count=3), BINARY, AWAY, "FAILED", "unit"),
        (replace(UNIT, active_state="activating"), BINARY, AWAY, "STARTING", "unit"),
        (replace(UNIT, since_unix_seconds=NOW - 3), BINARY, AWAY, "STARTING", "unit"),
        (UNIT, BINARY, AWAY, "FAILED", "unit"),
        (None, None, ODD_ONE, "FAILED", "address"),
    ],
)
def test_how_ollama_is(
    unit: UnitStatus | None, program: Path | None, failure: OllamaAway | OllamaOdd | None, state: str, source: str
) -> None:
    seen = finder.found(unit, program, failure, NOW)
    assert (types.ServiceState.Name(seen.state), seen.source) == (f"SERVICE_STATE_{state}", source)
    assert state in ("READY", "STARTING") or seen.reason
    assert state in ("READY", "STARTING") or seen.hint


def test_on_the_server_it_is_beside_the_gateway(tmp_path: Path) -> None:
    assert finder.default_address(tmp_path / "none") == "127.0.0.1:11434"
    (tmp_path / "drop-in").touch()
    assert finder.default_address(tmp_path / "drop-in") == "127.0.0.1:11435"


def test_the_models_directory_is_the_unit_s(tmp_path: Path) -> None:
    own, vendor = tmp_path / "etc", tmp_path / "lib"
    for number, units in enumerate((own, vendor)):
        (units / "ollama.service.d").mkdir(parents=True)
        (tmp_path / f"models{number}").mkdir()
    (vendor / "ollama.service").write_text(f'Environment="OLLAMA_MODELS={tmp_path}/models1"\n')
    assert finder.models_directory(None, (own, vendor)) == tmp_path / "models1"
    (own / "ollama.service.d/50-mine.conf").write_text(f"[Service]\nEnvironment=OLLAMA_MODELS={tmp_path}/models0\n")
    assert finder.models_directory(None, (own, vendor)) == tmp_path / "models0"
    assert finder.models_directory(tmp_path, (own, vendor)) == tmp_path, "as configured"


def test_models_that_others_may_not_read_cannot_be_served(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("blobs", "manifests"):
        (models / name).mkdir(parents=True)
    for folder in (models, *models.parents):
        if folder.is_relative_to(tmp_path):
            folder.chmod(0o755)
    expected = all(folder.stat().st_mode & 0o001 for folder in tmp_path.parents)
    assert finder.can_be_served(models) == expected
    (models / "blobs").chmod(0o700)
    assert not finder.can_be_served(models)
    assert not finder.can_be_served(tmp_path / "none")


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 1 1 0 100 0 0 10 0
   1: 0100007F:2CAA 0100007F:A1B2 01 00000000:00000000 00:00000000 00000000   998        0 2 1 0 20 4 30 10 -1
   2: 0100007F:A1B2 0100007F:2CAA 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
   3: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4 1 0 100 0 0 10 0
   4: 00000000000000000000000001000000:2CAB 00000000000000000000000000000000:0000 0A 0 0 0 0 0 5
   5: 00000000000000000000000000000000:2CAC 00000000000000000000000000000000:0000 0A 0 0 0 0 0 6
   6: 0000000000000000FFFF00000100007F:2CAD 00000000000000000000000000000000:0000 0A 0 0 0 0 0 7
garbage
"""
ROOT = frozenset({0})


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (11434, listening.Port(True, True, False, frozenset({998}), 1)),
        (8080, listening.Port(True, True, True, ROOT, 0)),
        (11435, listening.Port(True, True, False, ROOT, 0)),
        (11436, listening.Port(True, True, True, ROOT, 0)),
        (11437, listening.Port(True, True, False, ROOT, 0)),
        (22, listening.Port(True, False, False, frozenset(), 0)),
    ],
)
def test_who_listens(port: int, expected: listening.Port) -> None:
    assert listening.port_in(TABLE, port) == expected


def test_whose_socket_listens_is_known_among_many() -> None:
    with ExitStack() as sockets:
        for _ in range(200):  # more than the kernel gives at once
            other = sockets.enter_context(socket.socket())
            other.bind(("127.0.0.1", 0))
            other.listen()
        sought = sockets.enter_context(socket.socket())
        sought.bind(("127.0.0.1", 0))
        port = sought.getsockname()[1]
        assert listening.listeners(port) == frozenset()
        sought.listen()
        client = sockets.enter_context(socket.create_connection(sought.getsockname()))
        assert listening.listeners(port) == frozenset({os.getuid()})
        assert listening.listeners(client.getsockname()[1]) == frozenset()


READY = Observation(found=Found(types.SERVICE_STATE_READY, source="unit"), version="0.31.1", unit=UNIT)
WANTED = Wanted(settings=Settings(8192, 2, "5m"))


def many(count: int) -> dict[str, OllamaModel]:
    return {
        f"m{number:04}:latest": OllamaModel(
            model=f"m{number:04}:latest", digest=bytes(32), modified_unix_seconds=number, family="f" * 64,
            capabilities=["c" * 64] * 8,
        )
        for number in range(count)
    }  # fmt: skip


def test_a_thousand_models_fit_into_a_message_and_what_is_left_out_is_said() -> None:
    status = status_of(replace(READY, models=many(1000)), WANTED, GateStatus(), [], None)
    assert status.ByteSize() < LIMIT_BYTES + 1000
    assert len(status.models) > 100
    assert status.models[-1].model == "m0999:latest", "the newest are told"
    assert f"{1000 - len(status.models)} are left out" in status.findings[-1]


def test_few_models_are_all_told() -> None:
    status = status_of(replace(READY, models=many(3)), WANTED, GateStatus(), [], None)
    assert [model.model for model in status.models] == ["m0000:latest", "m0001:latest", "m0002:latest"]
    assert not status.findings


def test_the_free_disk_is_rounded_so_that_it_is_no_news_every_second() -> None:
    def told(free: int) -> int:
        return status_of(replace(READY, disk_free_bytes=free), WANTED, GateStatus(), [], None).disk_free_bytes

    assert told((100 << 20) + 5) == 96 << 20
    assert told(5) == 1, "full"
    assert told(0) == 0, "not known"


def test_a_disk_that_cannot_be_seen_is_none_that_is_full(tmp_path: Path) -> None:
    assert finder.free_bytes(tmp_path) > 0
    assert finder.free_bytes(Path("/proc")) == 1, "nothing may be written there"
    assert finder.free_bytes(tmp_path / "behind a wall") == 0
    assert finder.free_bytes(None) == 0


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (replace(READY, exposed=True), "listens on all interfaces"),
        (replace(READY, elsewhere=("b:cloud", "a:cloud")), "has cloud models, which are not served: a:cloud, b:cloud"),
        (replace(READY, unusable=2), "has 2 models with a name or digest that cannot be used"),
        (replace(READY, unit=None), "is not run by ollama.service"),
        (
            replace(READY, loaded=(LoadedModel(model="a:1", context_length=4096),)),
            "a:1 is loaded with a context of 4096 tokens in place of 8192",
        ),
    ],
)
def test_what_is_not_as_it_should_be_is_said(seen: Observation, said: str) -> None:
    (finding,) = findings(seen, WANTED)
    assert said in finding


@pytest.mark.parametrize("context", [0, 8192, 16384, 2048])
def test_a_context_as_asked_or_as_long_as_the_model_s_is_fine(context: int) -> None:
    models = {"a:1": OllamaModel(model="a:1", shape=ModelShape(context_length=2048))}
    loaded = (LoadedModel(model="a:1", context_length=context),)
    assert findings(replace(READY, models=models, loaded=loaded), WANTED) == []


def test_times_of_another_form_are_none() -> None:
    assert answers.moment("2026-13-45") == 0
    assert answers.moment(None) == 0
    assert abs(answers.moment(datetime.now(UTC).isoformat()) - time.time()) < 60
