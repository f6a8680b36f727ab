"""What pip's words mean. The texts are recorded from pip 23.0.1 and venv of Debian 12."""

# ruff: noqa: E501  recorded as they are

import pytest

from clusterai.pip_output import (
    DiskFull,
    EnvironmentBuildFailed,
    HashMismatch,
    IndexUnreachable,
    NoWheel,
    VenvMissing,
    collected,
    explain,
    shown,
)

DEAD_INDEX = """\
Looking in indexes: http://127.0.0.1:9/simple
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPConnection object at 0x7f7c2917c7d0>: Failed to establish a new connection: [Errno 111] Connection refused')': /simple/bokeh/
ERROR: Could not find a version that satisfies the requirement bokeh==3.9.2 (from versions: none)
ERROR: No matching distribution found for bokeh==3.9.2"""
NO_NAME = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f2>: Failed to establish a new connection: [Errno -2] Name or service not known')': /simple/bokeh/
ERROR: No matching distribution found for bokeh==3.9.2"""
OTHER_PLATFORM = """\
ERROR: Ignored the following versions that require a different python version: 3.10.0 Requires-Python >=3.12
ERROR: Could not find a version that satisfies the requirement contourpy==1.3.3 (from versions: none)
ERROR: No matching distribution found for contourpy==1.3.3"""
ALTERED = """\
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package versions, please update the hashes. Otherwise, examine the package contents carefully; someone may have tampered with them.
    zict==3.0.0 from https://index.example/zict-3.0.0-py2.py3-none-any.whl (from -r pool.lock (line 793)):
        Expected sha256 0000e263b6a97aafc0790c3cfb3c04656b7066e6738c37fffcca95d803c9fba5
             Got        5796e36bd0e0cc8cf0fbc1ace6a68912611c1dbd74750a3f3026b9b9d6a327ae"""
FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
NO_ENSUREPIP = """\
The virtual environment was not created successfully because ensurepip is not
available.  On Debian/Ubuntu systems, you need to install the python3-venv
package using the following command.

    apt install python3.11-venv"""


@pytest.mark.parametrize(
    ("text", "kind", "sentence", "fix"),
    [
        (DEAD_INDEX, IndexUnreachable, "connection refused", "wheel_directory"),
        (NO_NAME, IndexUnreachable, "name or service not known", "index_url"),
        (OTHER_PLATFORM, NoWheel, "no wheel of contourpy==1.3.3", "wheel directory"),
        (ALTERED, HashMismatch, "zict==3.0.0 is not the file that the lock names", "another file"),
        (FULL, DiskFull, "the disk is full", "df -h /somewhere"),
        (NO_ENSUREPIP, VenvMissing, "Python 3.11 here cannot make virtual environments", "apt install python3.11-venv"),
        ("/usr/bin/python3.11: No module named venv", VenvMissing, "cannot make", "apt install python3.11-venv"),
        ("ReadTimeoutError: HTTPSConnectionPool: Read timed out.", IndexUnreachable, "timed out", "index_url"),
        ("ERROR: something new\nbye", EnvironmentBuildFailed, "something new", "log"),
        ("", EnvironmentBuildFailed, "ended without a word", "log"),
    ],
)
def test_each_failure_is_a_sentence_and_a_fix(
    text: str, kind: type[EnvironmentBuildFailed], sentence: str, fix: str
) -> None:
    error = explain(text.splitlines(), "/somewhere", "3.11")
    assert type(error) is kind
    assert sentence in str(error)
    assert fix in error.advice


def test_every_package_that_pip_turns_to_counts_once() -> None:
    said = ["Collecting click==8.5.1", "  Using cached click-8.5.1-py3-none-any.whl (126 kB)",
            "Processing /wheels/zict-3.0.0-py3-none-any.whl", "Installing collected packages: click, zict"]  # fmt: skip
    assert sum(collected(line) for line in said) == 2


def test_progress_shows_what_is_downloaded_and_how_much() -> None:
    line = "  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl (16.9 MB)"
    assert shown(line) == "downloading numpy 2.4.6 (16.9 MB)"
    assert shown("Installing collected packages: a, b") == "installing"
    assert shown("Looking in indexes: somewhere") == ""
