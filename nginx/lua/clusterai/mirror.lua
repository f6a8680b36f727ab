--- The server's model files, for nodes, by the rules of the registry that Ollama pulls from. nginx serves the files itself.
local names = require "clusterai.names"
local state = require "clusterai.state"
local files = require "clusterai.files"

local mirror = {}

local HEX64 = ("[0-9a-f]"):rep(64)
local BLOB = "^/v2/([^/]+)/([^/]+)/blobs/sha256[:-](" .. HEX64 .. ")$"
local MANIFEST = "^/v2/([^/]+)/([^/]+)/manifests/([^/]+)$"
local FILE = "^/blobs/sha256%-" .. HEX64 .. "$"
-- Ollama fetches a blob in parts of size/16, of at least 100 MB and at most 1 GB, up to 16 at once.
local PARTS, SMALLEST_PART, LARGEST_PART = 16, 100e6, 1e9

local function stop(status)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    ngx.say('{"errors":[{"code":"', status == 404 and "NOT_FOUND" or "DENIED", '"}]}')
    return ngx.exit(ngx.HTTP_OK)
end

--- Return a share of the rate (bytes per second) with which all parts of a blob that are fetched at once keep it together.
function mirror.share(rate, size)
    local part = math.min(math.max(size / PARTS, SMALLEST_PART), LARGEST_PART)
    return math.max(1, math.floor(rate / math.min(PARTS, math.ceil(size / part))))
end

--- Return a certificate's serial number as the daemon writes it: hexadecimal, lower case, no zeros in front.
local function serial()
    return (ngx.var.ssl_client_serial or ""):lower():gsub("^0+", "")
end

--- Refuse revoked certificates and methods that do not read; tell nginx where the files are.
local function admitted()
    local method = ngx.var.request_method
    if state.routes.revoked_serials[serial()] or (method ~= "GET" and method ~= "HEAD") then
        return stop(403)
    elseif state.routes.mirror_root:sub(1, 1) ~= "/" then
        return stop(404)
    end
    ngx.var.mirror_root = state.routes.mirror_root
    return true
end

--- Serve a manifest, tell a blob's size, or send to where its bytes are. Runs in the rewrite phase.
function mirror.registry()
    if not admitted() then
        return
    end
    local path = ngx.var.uri
    local namespace, model, tag = path:match(MANIFEST)
    if namespace then
        local _, space, name, label = names.split(namespace .. "/" .. model .. ":" .. tag)
        if not space then
            return stop(404)
        end
        return ngx.req.set_uri("/manifests/registry.ollama.ai/" .. space .. "/" .. name .. "/" .. label, false)
    end
    local hex
    namespace, model, hex = path:match(BLOB)
    if not namespace or not names.split(namespace .. "/" .. model) then
        return stop(404)
    end
    local file = "/blobs/sha256-" .. hex
    if ngx.var.request_method == "HEAD" or not files.look(state.routes.mirror_root .. file) then
        return ngx.req.set_uri(file, false)
    end
    return ngx.redirect(file, 307)
end

--- Serve a blob's bytes. Its answer names its own address: Ollama takes the address of the parts from there.
function mirror.blob()
    if not admitted() then
        return
    end
    local path = ngx.var.uri
    if not path:find(FILE) then
        return stop(404)
    end
    ngx.header["Location"] = path
    local rate = state.routes.mirror_rate
    if rate > 0 then
        ngx.var.limit_rate = mirror.share(rate, files.look(state.routes.mirror_root .. path) or 1)
    end
end

return mirror
