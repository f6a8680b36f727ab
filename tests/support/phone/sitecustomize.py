"""What Python shows of itself on Android. `site` imports it in the simulated phone's root file system."""

import ctypes  # noqa: F401  before the platform's name changes: Android's wants a library that Debian does not ship
import os
import platform
import sys

# As above: the module of `sysconfig` has the platform in its name.
os.environ.setdefault(
    "_PYTHON_SYSCONFIGDATA_NAME", f"_sysconfigdata_{sys.abiflags}_{sys.platform}_{sys.implementation._multiarch}"
)
sys.platform = "android"
os.environ.setdefault("ANDROID_ROOT", "/system")
# bionic has getloadavg and posix_spawn from API level 29 and 28 on, Python pidfd_open from 31: Termux is built for 24.
# SELinux denies hard links.
for denied in ("getloadavg", "link", "pidfd_open", "posix_spawn", "posix_spawnp"):
    if hasattr(os, denied):
        delattr(os, denied)
platform.system = lambda: "Android"
if hasattr(platform, "AndroidVer"):  # since Python 3.13; it asks bionic
    known = platform.AndroidVer("14", 34, "Google", "Pixel 7", "panther", is_emulator=False)
    vars(platform)["android_ver"] = lambda *_given, **_named: known
