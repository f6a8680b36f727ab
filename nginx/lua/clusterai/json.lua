--- Where things stand in a JSON text, without decoding it: `p` is a pointer to its bytes, positions count from 0 to n - 1.
--
-- It is exact for every valid text. It does not judge what is between the keys that it is asked for: a text that is no JSON may
-- pass, and Ollama's strict decoder, which looks at all of it before it uses any of it, refuses it.
local ffi = require "ffi"
local cjson = require "cjson"

local json = {}

ffi.cdef [[ void *memchr(const void *, int, size_t); ]]
local C, string_of = ffi.C, ffi.string
local bytes_t = ffi.typeof "const uint8_t *"

local QUOTE, BACKSLASH, COLON, COMMA = 34, 92, 58, 44
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = 123, 125, 91, 93
local DEEPEST = 512

--- Return a pointer to the text's bytes and their number. The text must stay referenced while the pointer is used.
function json.bytes(text)
    return ffi.cast(bytes_t, text), #text
end

--- Return the first position from `i` that is no white space; `n` when there is none.
local function after_space(p, i, n)
    while i < n do
        local c = p[i]
        if c ~= 32 and c ~= 10 and c ~= 13 and c ~= 9 then
            return i
        end
        i = i + 1
    end
    return n
end
json.after_space = after_space

--- Return the position of the quote that ends the string whose first character is at `i`; nothing when it never ends.
local function string_end(p, i, n)
    local from = i
    while from < n do
        local found = C.memchr(p + from, QUOTE, n - from)
        if found == nil then
            return nil
        end
        local quote = tonumber(ffi.cast(bytes_t, found) - p)
        local slashes = 0
        while quote - slashes > i and p[quote - slashes - 1] == BACKSLASH do
            slashes = slashes + 1
        end
        if slashes % 2 == 0 then
            return quote
        end
        from = quote + 1
    end
    return nil
end

--- Return the position behind the object or array that begins at `i`.
local function structure_end(p, i, n)
    local depth = 0
    while i < n do
        local c = p[i]
        if c == QUOTE then
            i = string_end(p, i + 1, n)
            if not i then
                return nil
            end
        elseif c == OPEN_OBJECT or c == OPEN_ARRAY then
            depth = depth + 1
            if depth > DEEPEST then
                return nil, "deep"
            end
        elseif c == CLOSE_OBJECT or c == CLOSE_ARRAY then
            depth = depth - 1
            if depth == 0 then
                return i + 1
            end
        end
        i = i + 1
    end
    return nil
end

--- Return the position behind the number or word that begins at `i`.
local function scalar_end(p, i, n)
    local from = i
    while i < n do
        local c = p[i]
        if c == COMMA or c == CLOSE_OBJECT or c == CLOSE_ARRAY or c <= 32 then
            break
        end
        i = i + 1
    end
    return i > from and i or nil
end

--- Return the position behind the value that begins at `i`; nothing (and "deep") when it has no end.
local function value_end(p, i, n)
    if i >= n then
        return nil
    end
    local c = p[i]
    if c == QUOTE then
        local quote = string_end(p, i + 1, n)
        return quote and quote + 1
    elseif c == OPEN_OBJECT or c == OPEN_ARRAY then
        return structure_end(p, i, n)
    end
    return scalar_end(p, i, n)
end
json.value_end = value_end

--- Return start and end of the key at `i`, of its value, and the position of the comma or brace after it.
-- Nothing when there is no field; the second value is then "deep" where that is why.
function json.field(p, i, n)
    i = after_space(p, i, n)
    if i >= n or p[i] ~= QUOTE then
        return nil
    end
    local key = i + 1
    local key_end = string_end(p, key, n)
    if not key_end then
        return nil
    end
    i = after_space(p, key_end + 1, n)
    if i >= n or p[i] ~= COLON then
        return nil
    end
    local value = after_space(p, i + 1, n)
    local ends, why = value_end(p, value, n)
    if not ends then
        return nil, why
    end
    return key, key_end, value, ends, after_space(p, ends, n)
end

--- Return the decoded string whose characters stand from `from` to before `to`; nothing when it is no string.
function json.text(p, from, to)
    local raw = string_of(p + from, to - from)
    if not raw:find("\\", 1, true) then
        return raw
    end
    local ok, decoded = pcall(cjson.decode, '["' .. raw .. '"]')
    return ok and decoded[1] or nil
end

--- Return the raw text of a field of the object text; nothing when it is not there.
function json.member(text, name)
    local p, n = json.bytes(text)
    local i = after_space(p, 0, n) + 1
    while i < n do
        local key, key_end, value, ends, next_one = json.field(p, i, n)
        if not key then
            return nil
        elseif json.text(p, key, key_end) == name then
            return text:sub(value + 1, ends)
        end
        i = next_one + 1
    end
    return nil
end

--- Return the raw texts of an array's elements.
function json.elements(text)
    local p, n = json.bytes(text)
    local found = {}
    local i = after_space(p, 0, n) + 1
    while true do
        i = after_space(p, i, n)
        if i >= n or p[i] == CLOSE_ARRAY then
            return found
        end
        local ends = value_end(p, i, n)
        if not ends then
            return found
        end
        found[#found + 1] = text:sub(i + 1, ends)
        i = after_space(p, ends, n) + 1
    end
end

return json
