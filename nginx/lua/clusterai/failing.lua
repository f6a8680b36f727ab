--- Nodes that do not answer: marked by the request that found out, probed by one worker process until they answer again.
local ssl = require "ngx.ssl"
local files = require "clusterai.files"
local state = require "clusterai.state"

local failing = {down = {}} -- `down`: this process's copy of the marks, node key -> since when

local shared = ngx.shared.failing
local PROBE_MILLISECONDS = 700
local certificate, private_key, certificate_version

--- Mark a node. It gets no requests of this process from now on, and of the others a fifth of a second later.
function failing.mark(node)
    if not failing.down[node.key] then
        failing.down[node.key] = ngx.now()
        shared:set(node.key, ngx.now())
        ngx.log(ngx.WARN, node.id, " at ", node.host, ":", node.port, " does not answer; no requests until a probe succeeds")
    end
end

--- Read the marks that other processes set and removed.
function failing.refresh()
    local down = {}
    for _, key in ipairs(shared:get_keys(0)) do
        down[key] = shared:get(key)
    end
    failing.down = down
end

--- Load the gateway's certificate, anew when it was renewed. Gates close a connection without one.
local function load_certificate()
    local path = state.path("gateway.pem")
    local _, version = files.look(path)
    if version == certificate_version and certificate then
        return
    end
    local pem = files.read(path)
    if pem then
        certificate, private_key = ssl.parse_pem_cert(pem), ssl.parse_pem_priv_key(pem)
        certificate_version = version
    end
end

--- Tell whether the node's gate answers a handshake. Requests check its certificate themselves; this only decides whether to try.
local function answers(node)
    local socket = ngx.socket.tcp()
    socket:settimeout(PROBE_MILLISECONDS)
    if not socket:connect(node.host, node.port) then
        return false
    end
    if certificate and private_key then
        socket:setclientcert(certificate, private_key)
    end
    local ok = socket:sslhandshake(false, node.id .. ".gate.clusterai", true)
    socket:close()
    return ok and true or false
end

local function probe(node)
    if answers(node) then
        shared:delete(node.key)
        ngx.log(ngx.WARN, node.id, " at ", node.host, ":", node.port, " answers again")
    end
end

--- Probe every marked node once, all at the same time; forget marks of nodes that are no longer in the table.
function failing.probe()
    local marks = shared:get_keys(0)
    if #marks == 0 then
        return
    end
    load_certificate()
    local known, threads = {}, {}
    for _, node in pairs(state.routes.nodes) do
        known[node.key] = node
    end
    for _, key in ipairs(marks) do
        if known[key] then
            threads[#threads + 1] = ngx.thread.spawn(probe, known[key])
        else
            shared:delete(key)
        end
    end
    for _, thread in ipairs(threads) do
        ngx.thread.wait(thread)
    end
end

return failing
