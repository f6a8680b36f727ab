"""Join tokens on the server's side, and how often one may try."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.errors import BadRequest, ClusterAIError, InvalidName
from clusteraid.attempts import Attempts, TooManyAttempts
from clusteraid.join_tokens import NoSuchToken, TokenExpired, TokenRequest
from clusteraid.ports import Role
from support.trust import Trust


@pytest.fixture
async def trust(tmp_path: Path) -> AsyncIterator[Trust]:
    async with Trust.open(tmp_path) as opened:
        yield opened


async def test_a_token_is_short_lived_and_single_use_unless_asked_otherwise(trust: Trust) -> None:
    _, record = await trust.tokens.create(TokenRequest())
    assert record.expires_at - record.created_at == 900
    assert (record.use_limit, record.role) == (1, Role.NODE)


async def test_the_secret_is_not_on_disk(trust: Trust, tmp_path: Path) -> None:
    token = await trust.token()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert token.token_id.encode() in stored
    assert token.secret.encode() not in stored


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (TokenRequest(ttl_seconds=-1), BadRequest),
        (TokenRequest(ttl_seconds=float("nan")), BadRequest),
        (TokenRequest(ttl_seconds=float("inf")), BadRequest),
        (TokenRequest(ttl_seconds=31 * 86400), BadRequest),
        (TokenRequest(use_limit=10_001), BadRequest),
        (TokenRequest(role=Role.STRANGER), BadRequest),
        (TokenRequest(role=Role.ADMIN, bound_name="ada", use_limit=2), BadRequest),
        (TokenRequest(bound_name="../etc"), InvalidName),
        (TokenRequest(role=Role.VIEWER, bound_name="a\0"), InvalidName),
    ],
)
async def test_a_token_without_sense_is_not_made(
    trust: Trust, request_: TokenRequest, error: type[ClusterAIError]
) -> None:
    with pytest.raises(error) as refused:
        await trust.tokens.create(request_)
    assert refused.value.advice
    assert await trust.tokens.list() == ()


async def test_tokens_are_listed_newest_first(trust: Trust) -> None:
    first = await trust.token()
    trust.clock.ahead = 5
    second = await trust.token()
    assert [record.token_id for record in await trust.tokens.list()] == [second.token_id, first.token_id]


async def test_an_unknown_token_cannot_be_revoked(trust: Trust) -> None:
    with pytest.raises(NoSuchToken) as refused:
        await trust.tokens.revoke("x" * 10_000)
    assert len(str(refused.value)) < 200
    assert refused.value.status.exit_code == 3


@pytest.mark.parametrize(
    ("late", "said"), [(1, r"[1-9] s ago"), (150, "2 min ago"), (7200, "2 h ago"), (3 * 86400, "3 d ago")]
)
async def test_how_long_ago_is_said_in_one_unit(trust: Trust, late: float, said: str) -> None:
    token = await trust.token()
    trust.clock.ahead = 900 + late
    with pytest.raises(TokenExpired, match=said):
        await trust.tokens.check(token.token_id, token.secret)


class Ticks:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_attempts_come_back_as_time_passes() -> None:
    clock = Ticks()
    attempts = Attempts(clock, limit=2, window_seconds=60)
    for clock.now in (0, 30):
        attempts.check("10.0.0.1")
        attempts.count("10.0.0.1")
    with pytest.raises(TooManyAttempts, match=r"10\.0\.0\.1") as refused:
        attempts.check("10.0.0.1")
    assert "31 s" in refused.value.advice
    attempts.check("10.0.0.2")
    clock.now = 60
    attempts.check("10.0.0.1")


def test_an_ipv6_network_counts_as_one() -> None:
    attempts = Attempts(Ticks(), limit=2)
    attempts.count("2001:db8::1")
    attempts.count("2001:db8::2")
    with pytest.raises(TooManyAttempts):
        attempts.check("2001:db8::3")
    attempts.check("2001:db8:0:1::1")


def test_many_addresses_do_not_fill_the_memory() -> None:
    attempts = Attempts(Ticks(), limit=1)
    for number in range(5000):
        attempts.count(f"10.0.{number // 256}.{number % 256}")
    assert len(attempts._times) <= 1024
    with pytest.raises(TooManyAttempts):
        attempts.check("10.0.19.135")


async def test_a_token_in_place_of_another_is_no_event(trust: Trust) -> None:
    await trust.tokens.create(TokenRequest(created_by="local node"))
    await trust.tokens.create(TokenRequest(created_by="local node", in_place_of_another=True))
    assert trust.events.kinds() == ["token-created"]
    assert len(await trust.tokens.list()) == 2
