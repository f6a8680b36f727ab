"""What Python shows of itself on Android. `site` imports it in the simulated phone's root file system."""

import os
import platform
import sys

sys.platform = "android"
os.environ.setdefault("ANDROID_ROOT", "/system")
for denied in ("getloadavg", "link"):  # bionic below API level 29 has no getloadavg; SELinux denies hard links
    if hasattr(os, denied):
        delattr(os, denied)
platform.system = lambda: "Android"
if hasattr(platform, "AndroidVer"):  # since Python 3.13; it asks bionic
    known = platform.AndroidVer("14", 34, "Google", "Pixel 7", "panther", is_emulator=False)
    vars(platform)["android_ver"] = lambda *_given, **_named: known
