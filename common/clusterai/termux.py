"""Termux on Android: whether this is it, and where its files lie."""

import os
import sys
from pathlib import Path

_USUAL = Path("/data/data/com.termux/files/usr")


def is_android() -> bool:
    """Whether this system is Android; before Python 3.13 it called itself Linux, and Termux has none so old."""
    return sys.platform == "android"


def termux_prefix() -> Path | None:
    """Return Termux's prefix, as its shell sets it in PREFIX; None on any other system."""
    return Path(os.environ.get("PREFIX") or _USUAL) if is_android() else None


def how_to_set_the_clock() -> str:
    """Return what a person does about this machine's clock."""
    if is_android():
        return "in Android's settings, under System, Date & time, switch *Set time automatically* on"
    return "set it (`timedatectl` shows it)"


def is_of_google_play() -> bool:
    """Whether this is the Termux of Google Play, another distribution (the variables are those of termux-app)."""
    release, version = os.environ.get("TERMUX_APK_RELEASE", ""), os.environ.get("TERMUX_VERSION", "")
    return is_android() and ("GOOGLE" in release.upper() or version.startswith("googleplay"))
