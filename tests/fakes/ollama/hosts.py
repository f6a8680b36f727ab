"""Whose requests are taken: a loopback server looks at Host, and every server at Origin."""

import ipaddress
import re
import socket
from fnmatch import fnmatchcase

_PRIVATE = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
_OWN = (f"{scheme}://{host}" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1", "0.0.0.0"))
_APPS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_ORIGINS = (*(f"{origin}{port}" for origin in _OWN for port in ("", ":*")), *_APPS)


def host_allowed(header: str, listening: str) -> bool:
    """Tell whether the Host header is taken, by a server that listens on this address."""
    if not _is(listening, "loopback"):
        return True
    host = re.sub(r":\d+$", "", header).strip("[]").lower()
    if host in ("", "localhost", socket.gethostname().lower()) or host.endswith((".localhost", ".local", ".internal")):
        return True
    return _is(host, "loopback", "unspecified") or _is_private(host) or _is_own(host)


def _is_private(host: str) -> bool:
    """Tell what Go calls private: RFC 1918 and fc00::/7. Python's `is_private` means more."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _PRIVATE if network.version == address.version)


def _is(host: str, *kinds: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" and "loopback" in kinds
    return any(getattr(address, f"is_{kind}") for kind in kinds)


def _is_own(host: str) -> bool:
    """Tell whether it is an address of this machine: one that a socket can be bound to."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        return False
    return True


def origin_allowed(origin: str, host: str, more: tuple[str, ...]) -> bool:
    """Tell whether a page of this origin may ask: none, our own, or one of a list."""
    if not origin or origin in (f"http://{host}", f"https://{host}"):
        return True
    return any(fnmatchcase(origin, pattern) for pattern in (*_ORIGINS, *more))
