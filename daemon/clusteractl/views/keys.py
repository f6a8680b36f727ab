"""Keys of the gateway as a person sees them, and how to use one."""

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from clusteractl.output import Block, paragraph
from clusteractl.tables import Column, Table
from clusteractl.words import ago, plural, span, until
from clusterai.v1.key_pb2 import CreateKeyResponse, Key

UNKNOWN_URL = "https://server:11434"


def key_list(keys: Sequence[Key], now: float) -> list[Block]:
    """One row a key; its secret is known to nobody."""
    if not keys:
        return ["There are no keys: no program can chat. Make one with: clusteractl key create"]
    columns = (
        Column("KEY", keep=True), Column("NAME", least=8), Column("FOR", least=8),
        Column("STATE", keep=True, stated=True), Column("RATE", right=True, keep=True), Column("EXPIRES", keep=True),
        Column("CREATED", keep=True),
    )  # fmt: skip
    return [Table(columns, tuple(_key_row(key, now) for key in keys))]


def key_guide(reply: CreateKeyResponse, now: float, width: int) -> list[str]:
    """How to use a new key, as lines. The key itself is not in them: it stands on standard output alone."""
    head = paragraph(f"This key {_grant(reply.key, now)}. It is shown only now.", width=width)
    url = reply.gateway_urls[0] if reply.gateway_urls else UNKNOWN_URL
    if reply.key.dashboard:
        return [
            head,
            f"Open {_site(url)}/dask/status in a browser.",
            "It asks for a name, any, and a password: the key.",
        ]
    model = reply.key.models[0] if reply.key.models else ""
    return [
        head,
        "Put it into a file named key, and the cluster's authority beside it:",
        "  clusteractl ca > cluster-ca.pem",
        "curl:",
        f"  {curl_line(url, model)}",
        "Python's openai and ollama:",
        "  export SSL_CERT_FILE=$PWD/cluster-ca.pem",
        f'  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY="$(cat key)"',
        f'  export OLLAMA_HOST={url} OLLAMA_API_KEY="$(cat key)"',
    ]


def curl_line(url: str, model: str = "") -> str:
    """The command that sends the model a first request; without a model, that asks which there are."""
    head = 'curl --cacert cluster-ca.pem -H "Authorization: Bearer $(cat key)"'
    if not model:
        return f"{head} {url}/api/tags"
    path, body = "chat", {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    if "embed" in model:
        path, body = "embed", {"model": model, "input": "Hello"}
    return f"{head} {url}/api/{path} -d '{json.dumps(body)}'"


def key_state(key: Key, now: float) -> str:
    """Whether the key can be used: `usable`, `expired`, `revoked`."""
    if key.revoked:
        return "revoked"
    return "expired" if 0 < key.expires_unix_seconds <= now else "usable"


def _site(url: str) -> str:
    """The server's web site: the gateway's host on the usual port."""
    host = urlsplit(url).hostname or ""
    return f"https://[{host}]" if ":" in host else f"https://{host}"


def _key_row(key: Key, now: float) -> tuple[str, ...]:
    rate = f"{key.requests_per_minute}/min" if key.requests_per_minute else "-"
    return (
        key.key_id,
        key.name or "-",
        _scope(key),
        key_state(key, now),
        rate,
        until(key.expires_unix_seconds, now),
        ago(key.created_unix_seconds, now),
    )


def _scope(key: Key) -> str:
    return "dashboard" if key.dashboard else ", ".join(key.models) or "all models"


def _grant(key: Key, now: float) -> str:
    """What the key opens, how often and how long."""
    scope = "the Dask dashboard" if key.dashboard else ", ".join(key.models) or "all models"
    name = f" of {key.name}" if key.name else ""
    rate = f", {plural(key.requests_per_minute, 'request')} a minute" if key.requests_per_minute else ""
    left = f"for {span(key.expires_unix_seconds - now + 60)}" if key.expires_unix_seconds else "until it is revoked"
    return f"{key.key_id}{name} opens {scope}{rate}, {left}"
