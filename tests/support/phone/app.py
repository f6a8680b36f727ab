"""Runs a program as an Android app may: `app.py PROGRAM [ARGUMENT]...`; netlink sockets are denied by seccomp.

A preloaded library would not do: `ifaddr` opens libc by itself and goes round it.
"""

import ctypes
import os
import struct
import sys

NO_NEW_PRIVS, SET_SECCOMP, FILTER_MODE = 38, 22, 2
AF_NETLINK, EACCES = 16, 13
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
SOCKET_CALL = {"x86_64": 41, "aarch64": 198}  # asm/unistd.h


def deny_netlink() -> None:
    """socket(AF_NETLINK, …) ends with EACCES, for this process and all that it starts."""
    number = SOCKET_CALL[os.uname().machine]
    steps = (
        (LOAD, 0, 0, 0),  # seccomp_data.nr
        (JUMP_IF_EQUAL, 0, 3, number),
        (LOAD, 0, 0, 16),  # seccomp_data.args[0]
        (JUMP_IF_EQUAL, 0, 1, AF_NETLINK),
        (RETURN, 0, 0, ERRNO | EACCES),
        (RETURN, 0, 0, ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for words in ((NO_NEW_PRIVS, 1, 0, 0, 0), (SET_SECCOMP, FILTER_MODE, ctypes.byref(program))):
        if libc.prctl(*words) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    deny_netlink()
    os.execvp(sys.argv[1], sys.argv[1:])
