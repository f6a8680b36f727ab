--- What is known of each request that is being served, by the address of nginx's own record of it.
--
-- `ngx.ctx` would do the same, but nginx clears it when an error page takes over, and with it who was counted as in flight.
local ffi = require "ffi"
local get_request = require("resty.core.base").get_request

local requests = {}

local cast, tonumber = ffi.cast, tonumber
local uintptr_t = ffi.typeof "uintptr_t"
local live = {}
local spare, spares = {}, 0

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

--- Make the record one of a request of which nothing is known.
local function clear(request)
    request.path, request.client, request.key, request.model = false, false, false, false -- who and what
    request.conversation, request.received = false, false -- which one; the body's bytes
    request.previous, request.slot = false, false -- the conversation's node, and since when
    request.candidate, request.reason, request.node, request.tries, request.tried = false, false, false, 0, false -- where
    request.began, request.first_byte = 0, false -- when a node was chosen; milliseconds from there to the answer's first byte
    request.last, request.last_but_one, request.last_but_two, request.sent = false, false, false, 0 -- pieces of the answer; its bytes
    return request
end

--- Begin a record for the current request, which is for that path.
function requests.begin(path)
    local request = spare[spares]
    if request then
        spare[spares], spares = nil, spares - 1
    else
        request = clear({})
    end
    request.path = path
    live[address()] = request
    return request
end

--- Return the current request's record; nothing when it has none.
function requests.current()
    return live[address()]
end

--- Return the current request's record, which is then nobody's.
function requests.finish()
    local at = address()
    local request = live[at]
    live[at] = nil
    return request
end

--- Take back a record that `finish` returned: the next request has it. A new table for each is a hundredth of its instructions.
function requests.recycle(request)
    spares = spares + 1
    spare[spares] = clear(request)
end

return requests
