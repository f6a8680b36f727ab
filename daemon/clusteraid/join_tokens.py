"""Join tokens, on the server's side: made, checked, listed, revoked."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from clusterai.errors import BadRequest, ClusterAIError, Status
from clusterai.ids import parse_node_id, parse_operator_name
from clusterai.tokens import JoinToken, secret_hash
from clusteraid.ports import EventLog, Role, TokenRecord, TokenStore

DEFAULT_TTL_SECONDS = 900.0
_LONGEST_TTL_SECONDS = 30 * 86400.0
_MOST_USES = 10_000


class TokenRefused(ClusterAIError):
    code, status = "token-refused", Status.DENIED
    message = "join token {token_id} is unknown here, or its secret is wrong"
    hint = "copy the whole token again, or run `clusteractl token create` on the server"


class TokenExpired(ClusterAIError):
    code, status = "token-expired", Status.DENIED
    message = "join token {token_id} expired {ago} ago"
    hint = "run `clusteractl token create` on the server and join again before it expires"


class TokenUsed(ClusterAIError):
    code, status = "token-used", Status.DENIED
    message = "join token {token_id} was already used {times}"
    hint = "run `clusteractl token create` on the server; with --uses N one token serves N machines"


class TokenRevoked(ClusterAIError):
    code, status = "token-revoked", Status.DENIED
    message = "join token {token_id} was revoked"
    hint = "run `clusteractl token create` on the server"


class NoSuchToken(ClusterAIError):
    code, status = "no-such-token", Status.NOT_FOUND
    message = "there is no join token {token_id}"
    hint = "see `clusteractl token list`"


@dataclass(frozen=True)
class TokenRequest:
    """What a new token shall allow. Zero stands for the default: 15 minutes, one use.

    One that only takes the place of another is no event: the server's own agent is waited for with one after the other.
    """

    role: Role = Role.NODE
    bound_name: str = ""
    ttl_seconds: float = 0
    use_limit: int = 0
    created_by: str = ""
    in_place_of_another: bool = False


class JoinTokens:
    """The cluster's join tokens."""

    def __init__(self, store: TokenStore, events: EventLog, ca_sha256: bytes, clock: Callable[[], float]) -> None:
        self._store, self._events, self._ca_sha256, self._clock = store, events, ca_sha256, clock

    async def create(self, request: TokenRequest) -> tuple[JoinToken, TokenRecord]:
        """Make a token and keep its hash; the token itself exists only in what is returned."""
        ttl, uses = request.ttl_seconds or DEFAULT_TTL_SECONDS, request.use_limit or 1
        _check(request, ttl, uses)
        token, now = JoinToken.new(self._ca_sha256), self._clock()
        record = TokenRecord(
            token.token_id, secret_hash(token.secret), request.role, request.bound_name, now, now + ttl, uses,
            request.created_by,
        )
        await self._store.create_token(record)
        if not request.in_place_of_another:
            message = f"{request.created_by} made a {request.role.value} token"
            self._events.note("token-created", token.token_id, message)
        return token, record

    async def check(self, token_id: str, secret: str) -> TokenRecord:
        """Return the usable token of this id and secret.

        Whether it is used up is decided again, atomically, when the enrolment is written.

        Raises:
            TokenRefused: unknown or wrong; which of them, an unknown caller does not learn.
            TokenRevoked, TokenExpired, TokenUsed: said only to who knows the secret.
        """
        record = await self._store.find_token(token_id[:64])
        known = record.secret_hash if record else b"\0" * 32
        if not hmac.compare_digest(known, secret_hash(secret)) or record is None:
            raise TokenRefused(token_id=repr(token_id[:16]))
        if record.revoked:
            raise TokenRevoked(token_id=token_id)
        if self._clock() >= record.expires_at:
            raise TokenExpired(token_id=token_id, ago=_span(self._clock() - record.expires_at))
        if record.use_count >= record.use_limit:
            raise token_used(record)
        return record

    async def list(self) -> tuple[TokenRecord, ...]:
        """Return all tokens, newest first."""
        return await self._store.list_tokens()

    async def revoke(self, token_id: str) -> None:
        """Make the token useless; raise NoSuchToken when there is none."""
        if not await self._store.revoke_token(token_id):
            raise NoSuchToken(token_id=token_id[:64])
        self._events.note("token-revoked", token_id, f"join token {token_id} was revoked")


def token_used(record: TokenRecord) -> TokenUsed:
    """The error for a token without uses left."""
    times = "once" if record.use_limit == 1 else f"{record.use_limit} times"
    return TokenUsed(token_id=record.token_id, times=times)


def _check(request: TokenRequest, ttl: float, uses: int) -> None:
    if request.role is Role.STRANGER:
        raise BadRequest(what="role", reason="a token is for a node, viewer, operator or admin")
    if not 0 < ttl <= _LONGEST_TTL_SECONDS:
        raise BadRequest(what="lifetime", reason=f"{ttl:g} s is not within 30 days")
    if uses > _MOST_USES or (request.bound_name and uses > 1 and request.role is not Role.NODE):
        raise BadRequest(what="uses", reason=f"{uses} are too many")
    if request.bound_name:
        (parse_node_id if request.role is Role.NODE else parse_operator_name)(request.bound_name)


def _span(seconds: float) -> str:
    """A time span in one unit, as a person says it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 1:.0f} s"
