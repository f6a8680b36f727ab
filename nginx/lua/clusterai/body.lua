--- What the gateway needs of a request's body: the model, and which conversation it belongs to.
local ffi = require "ffi"
local json = require "clusterai.json"

local body = {}

ffi.cdef [[
int open(const char *, int, ...);
int close(int);
void *mmap(void *, size_t, int, int, int, long);
int munmap(void *, size_t);
]]
local C = ffi.C
local bytes_t = ffi.typeof "const uint8_t *"
local string_of = ffi.string
local field, after_space, value_end = json.field, json.after_space, json.value_end

local QUOTE, COMMA, BACKSLASH = 34, 44, 92
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = 123, 125, 91, 93
local SAMPLE = 4096 -- so much of a conversation's first message tells it from others
local O_RDONLY, PROT_READ, MAP_PRIVATE = 0, 1, 2
local SHORTEST_KEY, LONGEST_KEY = 4, 8 -- "name", "messages"

--- Return the key's text if it can be one that counts; nothing for others. An escaped key is decoded.
local function key_text(p, key, key_end)
    local length = key_end - key
    if length >= SHORTEST_KEY and length <= LONGEST_KEY then
        local text = string_of(p + key, length)
        if text:find("\\", 1, true) then
            return json.text(p, key, key_end)
        end
        return text
    end
    if length > LONGEST_KEY and length <= 6 * LONGEST_KEY then -- \u006d\u006f…
        for i = key, key_end - 1 do
            if p[i] == BACKSLASH then
                return json.text(p, key, key_end)
            end
        end
    end
    return nil
end

--- Take a field that may name the model; return what is wrong with it, or nothing.
local function take_name(found, text, p, value, ends)
    local folded = text:lower()
    if folded ~= "model" and folded ~= "name" then
        return nil
    end
    if folded ~= text or found[text] ~= nil then
        return "ambiguous-model"
    end
    if p[value] ~= QUOTE then
        found[text] = false
    else
        found[text] = json.text(p, value + 1, ends - 1) or false
    end
    return nil
end

--- Return where the first message of a user has its content, from the array at `i`; nothing when there is none.
local function first_user(p, i, n)
    i = after_space(p, i + 1, n)
    while i < n and p[i] == OPEN_OBJECT do
        local stop = value_end(p, i, n)
        local is_user, from, to = false, nil, nil
        local at = i + 1
        while stop and at < stop do
            local key, key_end, value, ends, next_one = field(p, at, stop)
            if not key then
                break
            end
            local length = key_end - key
            if length == 4 and string_of(p + key, 4) == "role" then
                is_user = ends - value == 6 and string_of(p + value, 6) == '"user"'
            elseif length == 7 and string_of(p + key, 7) == "content" then
                from, to = value, ends
            end
            at = next_one + 1
        end
        if is_user and from then
            return from, to
        end
        i = after_space(p, stop or n, n)
        i = i < n and p[i] == COMMA and after_space(p, i + 1, n) or n
    end
    return nil
end

--- Return what tells this conversation from others: of its first message the begin and the length; nothing without one.
local function conversation(p, messages, n)
    local from, to = first_user(p, messages, n)
    if not from then
        return nil
    end
    local length = to - from
    return string_of(p + from, math.min(length, SAMPLE)), length
end

--- Look at a body of `n` bytes.
--
-- @return a table with `model`, `name` (texts, or false where they are no texts), `sample` and `sample_length`; or nothing, a
-- stable code and, for "bad-json", what is wrong.
function body.inspect(p, n)
    local i = after_space(p, 0, n)
    if i >= n then
        return nil, "bad-json", "it is empty"
    elseif p[i] ~= OPEN_OBJECT then
        return nil, "bad-json", "it is not an object"
    end
    local found, messages = {}, nil
    i = after_space(p, i + 1, n)
    local open = i < n and p[i] ~= CLOSE_OBJECT
    while open do
        local key, key_end, value, ends, next_one = field(p, i, n)
        if not key then
            return nil, "bad-json", key_end == "deep" and "it is nested too deeply" or "it breaks off or is no JSON"
        end
        local text = key_text(p, key, key_end)
        if text then
            local wrong = take_name(found, text, p, value, ends)
            if wrong then
                return nil, wrong
            end
            if (text == "messages" or text == "input") and p[value] == OPEN_ARRAY then
                messages = value
            end
        end
        i = next_one
        open = i < n and p[i] == COMMA
        i = open and i + 1 or i
    end
    if i >= n or p[i] ~= CLOSE_OBJECT or after_space(p, i + 1, n) < n then
        return nil, "bad-json", "it breaks off or is no JSON"
    end
    if messages then
        found.sample, found.sample_length = conversation(p, messages, n)
    end
    return found
end

--- Call `inspect` on a file that nginx wrote the body to.
local function inspect_file(file)
    local descriptor = C.open(file, ffi.cast("int", O_RDONLY))
    if descriptor < 0 then
        return nil, "bad-json", "it could not be read"
    end
    local handle = io.open(file, "rb")
    local size = handle and handle:seek("end") or 0
    if handle then
        handle:close()
    end
    local mapped = C.mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0)
    C.close(descriptor)
    if tonumber(ffi.cast("intptr_t", mapped)) == -1 then
        return nil, "bad-json", "it could not be read"
    end
    local found, code, detail = body.inspect(ffi.cast(bytes_t, mapped), size)
    C.munmap(mapped, size)
    return found, code, detail
end

--- Look at the body of the current request, wherever nginx has it; reads it first.
function body.of_request()
    ngx.req.read_body()
    local text = ngx.req.get_body_data()
    if text then
        return body.inspect(json.bytes(text))
    end
    local file = ngx.req.get_body_file()
    if file then
        return inspect_file(file)
    end
    return nil, "bad-json", "it is empty"
end

--- Return the model's name as the body writes it; nothing, a code otherwise. `model` wins over `name`, as in Ollama.
function body.model_of(found)
    local model, name = found.model, found.name
    if model and name and model ~= name then
        return nil, "ambiguous-model"
    end
    local text = model or (model == nil or model == "") and name
    if not text or text == "" then
        return nil, "no-model"
    end
    return text
end

return body
