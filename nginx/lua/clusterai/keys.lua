--- Who may: the key of a request, and what it allows.
local state = require "clusterai.state"
local digest = require "clusterai.digest"
local refusals = require "clusterai.refusals"
local heads = require "clusterai.heads"

local keys = {}

local rate = ngx.shared.rate
local var, find, lower = ngx.var, string.find, string.lower
local MARK = "cak1."
local LONGEST, MOST_SEEN = 200, 1000
-- Texts and headers with valid keys, as long as this process uses the same table.
local seen_texts, seen_headers, seen_count, seen_of = {}, {}, 0, nil
local WITHOUT_KEY = {id = "", per_minute = 0, expires = 0, dashboard = false}

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

--- Forget what was seen when the table of keys is another one, or much was seen.
local function keep_current()
    if seen_of ~= state.keys.by_hash or seen_count >= MOST_SEEN then
        seen_texts, seen_headers, seen_count, seen_of = {}, {}, 0, state.keys.by_hash
    end
end

--- Return the key of that text, whatever it still allows. Its hash is made once for each table of keys, not for each request.
local function by_text(text)
    keep_current()
    local key = seen_texts[text]
    if not key and #text <= LONGEST then
        key = state.keys.by_hash[digest.sha256(text)]
        if key then
            seen_texts[text], seen_count = key, seen_count + 1
        end
    end
    return key
end

--- Return the key in an `Authorization` header, whatever it still allows. It is taken apart once, as above.
local function by_header(authorization)
    keep_current()
    local key = seen_headers[authorization]
    if not key then
        key = by_text(authorization:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +(%S+)$") or "")
        if key then
            seen_headers[authorization], seen_count = key, seen_count + 1
        end
    end
    return key
end

--- Return the key; nothing and a refusal when there is none, or it has expired.
local function valid(key)
    if not key then
        return nil, refusals.bad_key()
    elseif key.expires > 0 and key.expires <= ngx.time() then
        return nil, refusals.key_expired()
    end
    return key
end

--- Return the valid key of that text; nothing and a refusal otherwise.
function keys.find(text)
    return valid(by_text(text))
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

--- Return the key that the request shows, with that `Authorization` ("": none); nothing and a refusal otherwise.
local function shown(authorization)
    if authorization ~= "" then
        return valid(by_header(authorization))
    end
    local text = var.http_x_api_key
    if text then
        return keys.find(text)
    elseif is_local() then
        return WITHOUT_KEY
    end
    return nil, refusals.no_key()
end

--- Return the key of the request with that head (see heads.lua); nothing and a refusal where it may not go on.
function keys.of_request(head)
    if not head.is_plain and keys.in_url() then
        return nil, refusals.key_in_url()
    end
    local key, refusal = shown(head.authorization)
    if key then
        heads.keep(head)
        refusal = key.per_minute > 0 and exceeded(key) or nil
    end
    return not refusal and key or nil, refusal
end

--- Tell whether the key is for the model.
function keys.allows(key, model)
    return not key.dashboard and (not key.models or key.models[model] == true)
end

return keys
