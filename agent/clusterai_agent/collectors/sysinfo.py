"""sysinfo(2): uptime and load where Android hides the files of /proc that tell them."""

_BYTES, _LOAD_UNIT = 256, 1 << 16  # longs: the uptime, then three loads as fixed-point numbers


def uptime_and_load() -> tuple[float, float]:
    """Return the seconds since the boot, and the load of the last minute; raise OSError."""
    import ctypes  # only where the files are hidden

    longs = (ctypes.c_ulong * (_BYTES // ctypes.sizeof(ctypes.c_ulong)))()
    if ctypes.CDLL(None, use_errno=True).sysinfo(longs):
        raise OSError(ctypes.get_errno(), "sysinfo")
    return float(longs[0]), float(longs[1] / _LOAD_UNIT)
