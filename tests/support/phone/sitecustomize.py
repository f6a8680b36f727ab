"""What Python shows of itself on Android. It lies in the simulated phone's root file system, where `site` imports it."""

import os
import platform
import sys

sys.platform = "android"
os.environ.setdefault("ANDROID_ROOT", "/system")
for denied in ("getloadavg", "link"):  # bionic below API level 29 has no getloadavg; SELinux denies hard links
    if hasattr(os, denied):
        delattr(os, denied)
platform.system = lambda: "Android"
