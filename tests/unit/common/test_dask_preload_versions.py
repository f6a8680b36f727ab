"""Who is let into a scheduler, by the Python that it tells."""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from clusterai.dask_preload_versions import Gate, dask_setup, minor_of, refusal

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


def versions(python: object) -> dict[str, object]:
    return {"host": {}, "packages": {"python": python, "dask": "2026.8.0"}}


@pytest.mark.parametrize("patch", ["0.final.0", "99.candidate.1"])
def test_the_same_minor_is_let_in(patch: str) -> None:
    assert refusal("mobile", "client", versions(f"{OWN}.{patch}")) == ""


def test_another_minor_is_refused_with_both_and_the_way_out() -> None:
    reason = refusal("mobile", "client", versions("3.99.1.final.0"))
    assert f"the pool mobile runs Python {OWN}, and this client runs Python 3.99" in reason
    assert "clusteractl dask env --pool mobile --create PATH" in reason


@pytest.mark.parametrize(
    "told", [None, {}, "3.11", [], {"packages": None}, {"packages": {}}, versions(None), versions(3.11), versions("")]
)
def test_who_does_not_tell_is_refused(told: object) -> None:
    assert minor_of(told) == ""
    assert "this worker does not tell its Python" in refusal("main", "worker", told)


@pytest.mark.parametrize("told", ["3.\x1b[2J", "x" * 5000, "3." + "9" * 5000])
def test_nonsense_is_neither_let_in_nor_shown_at_length(told: str) -> None:
    reason = refusal("main", "worker", versions(told))
    assert reason
    assert reason.isprintable()
    assert len(reason) < 400


class Comm:
    """A connection that keeps what is written to it."""

    peer_address = "tls://192.0.2.7:4000"

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.closed = False

    async def write(self, message: Any) -> None:
        self.written.append(message)

    async def close(self) -> None:
        self.closed = True


def scheduler() -> Any:
    """A scheduler that notes whom it lets in."""
    admitted: list[tuple[str, dict[str, Any]]] = []

    async def add_worker(comm: Any, **told: Any) -> None:
        admitted.append(("worker", told))

    async def add_client(comm: Any, **told: Any) -> None:
        admitted.append(("client", told))

    return SimpleNamespace(
        handlers={"register-worker": add_worker, "register-client": add_client}, admitted=admitted
    )


async def test_only_who_fits_reaches_the_schedulers_own_handlers() -> None:
    inside, comm = scheduler(), Comm()
    Gate(inside, "main")
    for kind in ("worker", "client"):
        await inside.handlers[f"register-{kind}"](comm, name="a", versions=versions(f"{OWN}.1"))
        await inside.handlers[f"register-{kind}"](comm, name="b", versions=versions("3.99.1"))
    assert [(kind, told["name"]) for kind, told in inside.admitted] == [("worker", "a"), ("client", "a")]
    worker, client = comm.written
    assert worker["status"] == "error"
    assert "this worker runs Python 3.99" in worker["message"]
    assert client[0]["op"] == "stream-start"
    assert "this client runs Python 3.99" in client[0]["error"]
    assert comm.closed


def test_a_scheduler_without_these_handlers_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERAI_POOL", "main")
    with pytest.raises(SystemExit, match="register-worker"):
        dask_setup(SimpleNamespace(handlers={}))


def test_it_is_in_place_before_the_scheduler_can_hear_anything() -> None:
    assert not asyncio.iscoroutinefunction(dask_setup)
