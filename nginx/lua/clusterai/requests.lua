--- What is known of each request that is being served, by the address of nginx's own record of it.
--
-- `ngx.ctx` would do the same, but nginx clears it when an error page takes over, and with it who was counted as in flight.
local ffi = require "ffi"
local get_request = require("resty.core.base").get_request

local requests = {}

local cast, tonumber = ffi.cast, tonumber
local uintptr_t = ffi.typeof "uintptr_t"
local live = {}

--- Our own paths, each with itself in quotes: what is written in this way has no arguments and needs no escapes.
requests.paths = {}
for _, path in ipairs({
    "/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show", "/v1/chat/completions", "/v1/completions",
    "/v1/embeddings", "/v1/responses", "/v1/messages", "/api/tags", "/api/ps", "/api/version", "/v1/models", "/",
}) do
    requests.paths[path] = '"' .. path .. '"'
end

--- Return the address of the current request.
local function address()
    return tonumber(cast(uintptr_t, get_request()))
end

--- Begin a new record for the current request, which is for that path.
function requests.begin(path)
    local request = {
        path = path, key = false, model = false, conversation = false, previous = false, slot = false, -- who and what
        candidate = false, reason = false, node = false, tries = 0, tried = false, -- where
        last = false, last_but_one = false, last_but_two = false, -- pieces of the answer
    }
    live[address()] = request
    return request
end

--- Return the current request's record; nothing when it has none.
function requests.current()
    return live[address()]
end

--- Return the current request's record and forget it.
function requests.finish()
    local at = address()
    local request = live[at]
    live[at] = nil
    return request
end

return requests
