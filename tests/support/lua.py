"""The gateway's Lua modules without a gateway: a script runs in nginx's own Lua, once, while nginx starts."""

import json
import subprocess
from pathlib import Path
from typing import Any

from support.tree import ROOT

_SECONDS = 120
_CONFIGURATION = """load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    lua_package_path "{lua}/?.lua;;";
    lua_shared_dict busy 1m;
    lua_shared_dict failing 1m;
    lua_shared_dict affinity 1m;
    lua_shared_dict rate 1m;
    lua_shared_dict metrics 1m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    access_log off;
    init_by_lua_file {directory}/script.lua;
}}
"""
_SCRIPT = """local cjson = require "cjson"
local function read()
    local file = assert(io.open("{directory}/input.json"))
    local text = file:read("*a")
    file:close()
    return cjson.decode(text)
end
local function run(given)
{script}
end
local ok, result = xpcall(run, debug.traceback, read())
local out = assert(io.open("{directory}/output.json", "w"))
out:write(cjson.encode({{ok = ok, result = result}}))
out:close()
os.exit(0)
"""


def run_lua(directory: Path, script: str, given: Any = None) -> Any:
    """Run the script, a function's body with one argument `given`; return what it returns. Both travel as JSON."""
    (directory / "input.json").write_text(json.dumps({} if given is None else given))
    (directory / "script.lua").write_text(_SCRIPT.format(directory=directory, script=script))
    configuration = directory / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, lua=ROOT / "nginx/lua"))
    command = ["/usr/sbin/nginx", "-e", "stderr", "-c", str(configuration)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    output = directory / "output.json"
    assert output.exists(), ended.stderr
    said = json.loads(output.read_text())
    output.unlink()
    assert said["ok"], said["result"]
    return said.get("result")
