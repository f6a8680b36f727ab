"""What is to be done for the models that the server wants: one table, and what a spec may say."""

from dataclasses import replace

import pytest

from clusterai.ollama_settings import Settings
from clusterai.units import UnitStatus
from clusterai.v1.types_pb2 import ModelSpec, OllamaSettings, OllamaSpec
from clusterai_agent.models.desired import (
    Fetch,
    Remove,
    Seen,
    Step,
    StopFetching,
    Wait,
    WantedModel,
    needed_bytes,
    steps,
    wanted_of,
)
from clusterai_agent.models.finder import UNIT
from clusterai_agent.models.pulls import retry_seconds
from clusterai_agent.models.settings import Need, need

GIB = 1 << 30
OLD, NEW = b"o" * 32, b"n" * 32
NOTHING = Seen(digests={}, mirrored={}, fetching=None, retry_at={}, mirror_problem="", now=100.0)
A, B = WantedModel("a:latest", NEW), WantedModel("b:latest", NEW)
ANY = WantedModel("a:latest")
MIRRORED = WantedModel("a:latest", NEW, from_mirror=True)
MIRROR_NAME = "127.0.0.1:11445/library/a:latest"


@pytest.mark.parametrize(
    ("wanted", "seen", "expected"),
    [
        pytest.param((), {}, [], id="nobody wants anything"),
        pytest.param((), {"digests": {"mine:latest": OLD}}, [], id="what nobody names is left alone"),
        pytest.param((A,), {}, [Fetch(A)], id="not there"),
        pytest.param((A,), {"digests": {"a:latest": NEW}}, [], id="there"),
        pytest.param((A,), {"digests": {"a:latest": OLD}}, [Fetch(A)], id="there with another digest"),
        pytest.param((ANY,), {"digests": {"a:latest": OLD}}, [], id="any digest will do"),
        pytest.param((A,), {"fetching": A}, [], id="the same model is never fetched twice"),
        pytest.param((A, B), {}, [Fetch(A), Wait(B, "after a:latest")], id="one at a time"),
        pytest.param((A, B), {"fetching": B}, [Wait(A, "after b:latest")], id="one at a time, the other way round"),
        pytest.param((A,), {"fetching": B}, [StopFetching()], id="what is fetched is not wanted any more"),
        pytest.param((A,), {"fetching": ANY}, [StopFetching()], id="what is fetched is wanted otherwise"),
        pytest.param((A,), {"retry_at": {A: 101.0}}, [], id="failed a moment ago"),
        pytest.param((A, B), {"retry_at": {A: 101.0}}, [Fetch(B)], id="a failed one does not hold up the others"),
        pytest.param((A,), {"retry_at": {A: 100.0}}, [Fetch(A)], id="failed long enough ago"),
        pytest.param(
            (replace(A, waits=True),), {}, [Wait(replace(A, waits=True), "the server fetches it first")], id="waits"
        ),
        pytest.param((replace(A, waits=True),), {"digests": {"a:latest": NEW}}, [], id="waits for what is there"),
        pytest.param((MIRRORED,), {}, [Fetch(MIRRORED)], id="from the server"),
        pytest.param(
            (MIRRORED,), {"mirror_problem": "not open"}, [Wait(MIRRORED, "not open")], id="the server cannot be reached"
        ),
        pytest.param((A,), {"mirror_problem": "not open"}, [Fetch(A)], id="the registry needs no mirror"),
        pytest.param((WantedModel("a:latest", absent=True),), {}, [], id="gone"),
        pytest.param(
            (WantedModel("a:latest", absent=True),), {"digests": {"a:latest": OLD}}, [Remove("a:latest")], id="remove"
        ),
        pytest.param(
            (WantedModel("a:latest", absent=True),), {"fetching": ANY, "digests": {}}, [StopFetching()],
            id="removed while it is fetched",
        ),
        pytest.param(
            (MIRRORED,), {"digests": {"a:latest": NEW}, "mirrored": {MIRROR_NAME: NEW}}, [Remove(MIRROR_NAME)],
            id="a second name that is left over",
        ),
        pytest.param((), {"mirrored": {MIRROR_NAME: NEW}}, [Remove(MIRROR_NAME)], id="left over, and not wanted"),
        pytest.param((MIRRORED,), {"mirrored": {MIRROR_NAME: NEW}}, [Fetch(MIRRORED)], id="goes on after a restart"),
        pytest.param((MIRRORED,), {"mirrored": {MIRROR_NAME: OLD}, "fetching": MIRRORED}, [], id="in the middle of it"),
    ],
)  # fmt: skip
def test_what_to_do(wanted: tuple[WantedModel, ...], seen: dict[str, object], expected: list[Step]) -> None:
    assert steps(wanted, replace(NOTHING, **seen)) == expected  # type: ignore[arg-type]


def test_a_spec_is_read_as_it_is_meant() -> None:
    wanted = wanted_of(OllamaSpec(
        settings=OllamaSettings(context_length=8192, parallel_count=2, keep_alive="5m"),
        models=[
            ModelSpec(model="Llama3.2", digest=NEW, from_mirror=True),
            ModelSpec(model="hf.co/user/own:q4", from_mirror=True),
            ModelSpec(model="old:latest", absent=True),
        ],
        gate_port=11443, gateway_name="gateway.clusterai", mirror_address=":11444", mirror_name="mirror.clusterai",
    ))  # fmt: skip
    assert wanted.models == (
        WantedModel("llama3.2:latest", NEW, from_mirror=True),
        WantedModel("hf.co/user/own:q4"),  # the mirror has only what is of the public registry
        WantedModel("old:latest", absent=True),
    )
    assert wanted.settings == Settings(8192, 2, "5m")
    assert (wanted.gate_port, wanted.problems) == (11443, ())


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (OllamaSpec(models=[ModelSpec(model="../../etc/passwd:x")]), "is no name of a model"),
        (OllamaSpec(models=[ModelSpec(model="a", digest=b"short")]), "its digest has 5 bytes"),
        (OllamaSpec(settings=OllamaSettings(context_length=1, parallel_count=1, keep_alive="5m")), "context_length"),
        (OllamaSpec(settings=OllamaSettings(context_length=8192, parallel_count=1, keep_alive="1\nA=B")), "keep_alive"),
        (OllamaSpec(gate_port=70000, gateway_name="g"), "no proper gate"),
        (OllamaSpec(gate_port=11443, gateway_name="*"), "no proper gate"),
    ],
)
def test_what_makes_no_sense_is_left_out_and_named(spec: OllamaSpec, problem: str) -> None:
    wanted = wanted_of(spec)
    assert (wanted.models, wanted.settings, wanted.gate_port) == ((), None, 0)
    assert problem in wanted.problems[0]


def test_the_disk_keeps_a_margin() -> None:
    assert needed_bytes(4 * GIB, 4 * GIB) == 5 * GIB
    assert needed_bytes(100 * GIB, 100 * GIB) == 105 * GIB
    assert needed_bytes(GIB, 100 * GIB) == 6 * GIB, "of what is there already only the margin counts"


def test_retries_come_later_and_later_and_not_in_step() -> None:
    assert [retry_seconds(count, 1.0) for count in (1, 2, 3, 20)] == [5.0, 10.0, 20.0, 600.0]
    assert retry_seconds(3, 0.0) == 10.0


RUNS = UnitStatus(UNIT, active_state="active")


@pytest.mark.parametrize(
    ("unit", "taken", "used", "first", "expected"),
    [
        (None, False, False, False, Need.NOTHING),
        (replace(RUNS, active_state="inactive"), False, False, False, Need.NOTHING),
        (RUNS, True, False, False, Need.NOTHING),
        (RUNS, False, False, False, Need.RESTART),
        (RUNS, False, True, False, Need.WAIT),
        (RUNS, False, True, True, Need.RESTART),
    ],
)
def test_settings_are_taken_over_when_nobody_uses_it(
    unit: UnitStatus | None, taken: bool, used: bool, first: bool, expected: Need
) -> None:
    assert need(unit, lambda: used, taken=taken, first=first) is expected
