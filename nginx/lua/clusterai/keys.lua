--- Who may: the key of a request, and what it allows.
local state = require "clusterai.state"
local digest = require "clusterai.digest"
local refusals = require "clusterai.refusals"

local keys = {}

local rate = ngx.shared.rate
local var, byte, find, lower, sub = ngx.var, string.byte, string.find, string.lower, string.sub
local MARK, BEARER, SPACE = "cak1.", "Bearer ", 32
local LONGEST, MOST_SEEN = 200, 1000
local seen, seen_count, seen_of = {}, 0, nil -- texts of valid keys, as long as this process uses the same table
local WITHOUT_KEY = {id = "", per_minute = 0, expires = 0, dashboard = false}

--- Return the key that the request shows; nothing when there is none.
local function shown()
    local authorization = var.http_authorization
    if not authorization then
        return var.http_x_api_key
    elseif sub(authorization, 1, 7) == BEARER and byte(authorization, 8) ~= SPACE then
        return sub(authorization, 8) -- the usual case, without a pattern
    end
    return authorization:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +(%S+)$") or ""
end

local function is_loopback(host)
    return host == "localhost" or host == "127.0.0.1" or host == "[::1]"
end

--- Tell whether the request may go without a key: it comes from this machine, and no web page of another site sent it.
local function is_local()
    local address = var.remote_addr
    if not state.routes.loopback_without_key or (address ~= "127.0.0.1" and address ~= "::1") then
        return false
    end
    local origin = var.http_origin
    return is_loopback(var.host) and (not origin or is_loopback(origin:match("^https?://([^/]-):?%d*$")))
end

--- Return the key of that text, whatever it still allows. Its hash is made once for each table of keys, not for each request.
local function known(text)
    local by_hash = state.keys.by_hash
    if seen_of ~= by_hash or seen_count >= MOST_SEEN then
        seen, seen_count, seen_of = {}, 0, by_hash
    end
    local key = seen[text]
    if not key and #text <= LONGEST then
        key = by_hash[digest.sha256(text)]
        if key then
            seen[text], seen_count = key, seen_count + 1
        end
    end
    return key
end

--- Return the valid key of that text; nothing and a refusal otherwise.
function keys.find(text)
    local key = known(text)
    if not key then
        return nil, refusals.bad_key()
    elseif key.expires > 0 and key.expires <= ngx.time() then
        return nil, refusals.key_expired()
    end
    return key
end

--- Count the request; return a refusal when the key's minute is used up.
local function exceeded(key)
    local now = ngx.time()
    local minute = math.floor(now / 60)
    local count = rate:incr(key.id .. minute, 1, 0, 120)
    if count and count > key.per_minute then
        return refusals.too_many_requests(key.per_minute, 60 * (minute + 1) - now)
    end
end

--- Tell whether a key stands in the URL, behind the question mark.
function keys.in_url()
    local arguments = var.args
    return arguments and find(lower(arguments), MARK, 1, true) or false
end

--- Tell whether a key stands in the path.
function keys.in_path()
    return find(lower(var.uri), MARK, 1, true) ~= nil
end

--- Return the request's key; nothing and a refusal where it may not go on. `is_plain`: its URL is known to have no arguments.
function keys.of_request(is_plain)
    if not is_plain and keys.in_url() then
        return nil, refusals.key_in_url()
    end
    local text = shown()
    if not text then
        if is_local() then
            return WITHOUT_KEY
        end
        return nil, refusals.no_key()
    end
    local key, refusal = keys.find(text)
    if key and key.per_minute > 0 then
        refusal = exceeded(key)
    end
    return not refusal and key or nil, refusal
end

--- Tell whether the key is for the model.
function keys.allows(key, model)
    return not key.dashboard and (not key.models or key.models[model] == true)
end

return keys
