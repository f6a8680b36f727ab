"""A peer that hangs up at any moment: what is on disk and what is in memory stay the same."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.ids import IdentityKind
from clusterai.pki import new_csr, new_key, serial_of
from clusteraid.enrollment import Admission
from clusteraid.join_tokens import TokenRequest
from clusteraid.ports import Role
from clusteraid.uninterrupted import uninterrupted
from support.trust import Trust

MOMENTS = range(0, 40, 2)


@pytest.fixture
async def trust(tmp_path: Path) -> AsyncIterator[Trust]:
    async with Trust.open(tmp_path) as opened:
        yield opened


async def cancelled_after(moment: int, task: "asyncio.Task[object]") -> bool:
    """Cancel the task some turns of the loop later; whether it had time to finish."""
    for _ in range(moment):
        await asyncio.sleep(0.0005)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return not isinstance(outcome, BaseException)


async def test_an_enrolment_is_known_where_it_is_stored(trust: Trust) -> None:
    heard: list[str] = []
    trust.enrollment.on_enrolled(lambda enrolment: heard.append(enrolment.name))
    token = await trust.token(TokenRequest(use_limit=100))
    for moment in MOMENTS:
        admission = Admission(f"n{moment}", new_csr(new_key()), b"", trust.clock(), "10.0.0.7")
        await cancelled_after(
            moment, asyncio.create_task(trust.enrollment.enroll(token.token_id, token.secret, admission))
        )
        assert sorted(heard) == sorted(await trust.nodes())
        assert await trust.uses(token) == len(heard)
    assert heard


async def test_a_revocation_is_in_force_where_it_is_stored(trust: Trust) -> None:
    for moment in MOMENTS:
        name = f"ada{moment}"
        _, chain = await trust.member(name, Role.VIEWER)
        await cancelled_after(moment, asyncio.create_task(trust.operators.revoke(name)))
        stored = serial_of(chain) in await trust.store.revoked_serials(trust.clock())
        gone = name not in [record.name for record in await trust.operators.list()]
        assert (
            stored == gone == trust.revocations.is_revoked(serial_of(chain)) == (trust.operators.role_of(name) is None)
        )


async def test_a_revoked_identity_is_refused_even_if_nobody_waits(trust: Trust) -> None:
    _, chain = await trust.member("pi4")
    await cancelled_after(
        1, asyncio.create_task(trust.revocations.revoke(trust.authority.identity(IdentityKind.NODE, "pi4")))
    )
    assert trust.revocations.is_revoked(serial_of(chain))


async def test_the_work_s_own_error_reaches_who_still_waits() -> None:
    async def fails() -> None:
        await asyncio.sleep(0.02)
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        await uninterrupted(fails())
    assert not await cancelled_after(1, asyncio.create_task(uninterrupted(fails())))
