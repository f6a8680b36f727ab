--- routes.json and keys.json, checked and turned into what the gateway looks things up in. Pure: text in, table out.
local cjson = require "cjson"
local json = require "clusterai.json"
local digest = require "clusterai.digest"
local names = require "clusterai.names"

local tables = {}

local FORMAT = 1

local function refuse(...)
    error({reason = string.format(...)}, 0)
end

local function want(value, kind, where)
    if type(value) ~= kind then
        refuse("%s is no %s", where, kind == "table" and "object" or kind)
    end
    return value
end

local function decoded(text)
    local ok, value = pcall(cjson.decode, text)
    if not ok or type(value) ~= "table" then
        refuse("it is no JSON")
    elseif value.format ~= FORMAT then
        refuse("its format is %s, known is %d", tostring(value.format), FORMAT)
    end
    want(value.generation, "number", "generation")
    return value
end

--- Call the function, return its result; nothing and a sentence where it refused the text.
local function guarded(compile, text)
    local ok, result = pcall(compile, text)
    if ok then
        return result
    end
    return nil, type(result) == "table" and result.reason or tostring(result)
end

local function node_of(id, node)
    want(node, "table", "nodes." .. id)
    local host, port = want(node.host, "string", id .. ".host"), want(node.port, "number", id .. ".port")
    if host:find("[^0-9a-fA-F:.]") or port < 1 or port > 65535 or not id:find("^[a-z0-9-]+$") then
        refuse("the node %s has no address of its own: %s, %s", id, host, tostring(port))
    end
    return {
        id = id,
        host = host:find(":", 1, true) and "[" .. host .. "]" or host,
        port = port,
        slots = math.max(1, tonumber(node.slots) or 1),
        key = table.concat({id, host, port}, " "),
    }
end

local function candidate_of(node, copy)
    return {
        id = node.id, key = node.key, slots = node.slots, node = node,
        loaded = copy.loaded == true, fit = tonumber(copy.fit) or 9,
    }
end

local function model_of(name, model, nodes)
    if names.normalised(name) ~= name then
        refuse("%s is no normalised name of a model", name:sub(1, 80))
    end
    local compiled = {name = name, candidates = {}, by_id = {}}
    compiled.reason = type(model.reason) == "string" and model.reason or ""
    compiled.retry_after = math.ceil(tonumber(model.retry_after_seconds) or 0)
    for id, copy in pairs(want(model.nodes, "table", name .. ".nodes")) do
        if nodes[id] then
            local candidate = candidate_of(nodes[id], want(copy, "table", name .. ".nodes." .. id))
            compiled.by_id[id] = candidate
            table.insert(compiled.candidates, candidate)
        end
    end
    return compiled
end

--- Return Unix seconds of a time as Ollama writes it (RFC 3339); 0 for others. Days from the civil calendar, after Hinnant.
local function unix_seconds(text)
    local year, month, day, hour, minute, second = tostring(text):match("^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)")
    if not year then
        return 0
    end
    local y = month + 0 <= 2 and year - 1 or year + 0
    local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400)
    days = days + math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 719469
    local sign, hours, minutes = text:match("([+-])(%d%d):(%d%d)$")
    local offset = sign and (sign == "-" and -60 or 60) * (hours * 60 + minutes) or 0
    return days * 86400 + hour * 3600 + minute * 60 + second - offset
end
tables.unix_seconds = unix_seconds

local function as_openai(name, modified)
    local owner = name:match("^(.*)/[^/]*$") or "library"
    return cjson.encode({id = name, object = "model", created = unix_seconds(modified), owned_by = owner})
end

--- Return the list's objects as they stand in the text (cjson would turn empty lists into objects), with their names.
local function raw_objects(listing, listing_text, field)
    local objects = {}
    local list = want(listing[field], "table", "listing." .. field)
    for index, raw in ipairs(json.elements(json.member(listing_text, field))) do
        local name = want(list[index].model or list[index].name, "string", "listing." .. field .. ".model")
        objects[index] = {name = name, raw = raw, openai = as_openai(name, list[index].modified_at)}
    end
    return objects
end

local function names_of(models)
    local list = {}
    for name in pairs(models) do
        list[#list + 1] = name
    end
    table.sort(list)
    return list
end

local function set_of(list, where)
    local set = {}
    for _, value in ipairs(want(list, "table", where)) do
        set[value] = true
    end
    return set
end

local function routes_of(text)
    local file = decoded(text)
    local routes = {generation = file.generation, nodes = {}, models = {}}
    for id, node in pairs(want(file.nodes, "table", "nodes")) do
        routes.nodes[id] = node_of(id, node)
    end
    for name, model in pairs(want(file.models, "table", "models")) do
        routes.models[name] = model_of(name, want(model, "table", name), routes.nodes)
    end
    local listing, listing_text = want(file.listing, "table", "listing"), json.member(text, "listing")
    routes.names = names_of(routes.models)
    routes.version = cjson.encode({version = want(listing.version, "string", "listing.version")})
    routes.tags = raw_objects(listing, listing_text, "tags")
    routes.ps = raw_objects(listing, listing_text, "ps")
    local settings = want(file.settings, "table", "settings")
    routes.loopback_without_key = settings.loopback_without_key == true
    routes.mirror_rate = tonumber(settings.mirror_bytes_per_second) or 0
    routes.mirror_root = type(file.mirror) == "table" and want(file.mirror.root, "string", "mirror.root") or ""
    routes.revoked_serials = set_of(file.revoked_serials or {}, "revoked_serials")
    return routes
end

local function key_of(hash, key)
    want(key, "table", "keys." .. hash)
    local id, models = want(key.id, "string", "id"), nil
    if id:find("[^a-z0-9]") then
        refuse("%s is no id of a key", id)
    end
    if type(key.models) == "table" then
        models = set_of(key.models, "models")
    end
    return {
        id = id, models = models, dashboard = key.dashboard == true,
        expires = tonumber(key.expires_unix_seconds) or 0,
        per_minute = tonumber(key.requests_per_minute) or 0,
    }
end

local function keys_of(text)
    local file = decoded(text)
    local keys = {generation = file.generation, by_hash = {}}
    for hash, key in pairs(want(file.keys, "table", "keys")) do
        local bytes = digest.from_hex(hash)
        if not bytes then
            refuse("%s is no hash", hash)
        end
        keys.by_hash[bytes] = key_of(hash, key)
    end
    return keys
end

--- Return the compiled routes.json; nothing and why not.
function tables.routes(text)
    return guarded(routes_of, text)
end

--- Return the compiled keys.json; nothing and why not.
function tables.keys(text)
    return guarded(keys_of, text)
end

--- Return routes and keys of a gateway that has never been told anything.
function tables.nothing()
    local routes = {
        generation = 0, nodes = {}, models = {}, names = {}, tags = {}, ps = {}, version = '{"version":"0.0.0"}',
        loopback_without_key = false, mirror_rate = 0, mirror_root = "", revoked_serials = {},
    }
    return routes, {generation = 0, by_hash = {}}
end

return tables
