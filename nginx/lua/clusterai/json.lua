--- Where things stand in a JSON text, without decoding it. Positions count from 1, as strings do.
--
-- It is exact for every valid text. It does not judge what is between the keys that it is asked for: a text that is no JSON may
-- pass, and Ollama's strict decoder, which looks at all of it before it uses any of it, refuses it.
--
-- It works on strings, not on pointers: LuaJIT's interpreter reads a byte of a string many times faster. And the usual cases are
-- written without loops, since a loop inside of a call ends the compiler's trace, and without patterns, which end it too.
local ffi = require "ffi"
local cjson = require "cjson"

local json = {}

local byte, find, sub = string.byte, string.find, string.sub

local QUOTE, BACKSLASH, COLON, COMMA = 34, 92, 58, 44
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = 123, 125, 91, 93
local SPACE, DEEPEST = 32, 512
local AFTER_A_WORD = ",}] \t\r\n\v\f"

ffi.cdef [[
size_t strcspn(const char *, const char *);
const void *memchr(const void *, int, size_t);
]]
local C, cast, TEXT = ffi.C, ffi.cast, ffi.typeof "const char *"

local function after_many_spaces(text, i)
    local c = byte(text, i)
    while c == SPACE or c == 10 or c == 13 or c == 9 do
        i = i + 1
        c = byte(text, i)
    end
    return i, c
end

--- Return the first position from `i` that is no white space, and the byte there; no byte at the end of the text.
local function after_space(text, i)
    local c = byte(text, i)
    if c == SPACE then
        i = i + 1
        c = byte(text, i)
    end
    if not c or c > SPACE then
        return i, c
    end
    return after_many_spaces(text, i)
end
json.after_space = after_space

--- Return the position of the first quote from `i`, which is one behind the text's end at most. string.find takes three times the
-- instructions.
local function find_quote(text, i)
    local from = cast(TEXT, text)
    local at = C.memchr(from + i - 1, QUOTE, #text - i + 1)
    return at ~= nil and tonumber(cast(TEXT, at) - from) + 1 or nil
end

--- Tell whether the quote at `quote` is escaped, in a string that begins at `from`.
local function is_escaped(text, quote, from)
    local i = quote - 1
    while i >= from and byte(text, i) == BACKSLASH do
        i = i - 1
    end
    return (quote - 1 - i) % 2 == 1
end

local function end_among_escapes(text, quote, from)
    while quote and is_escaped(text, quote, from) do
        quote = find_quote(text, quote + 1)
    end
    return quote
end

--- Return the position of the quote that ends the string whose first character is at `i`; nothing when it never ends.
local function string_end(text, i)
    local quote = find_quote(text, i)
    if quote and byte(text, quote - 1) == BACKSLASH then
        return end_among_escapes(text, quote, i)
    end
    return quote
end

--- Return the position behind the object or array that begins at `i`; or, at a depth, behind that which `i` is so deep inside of.
local function structure_end(text, i, depth)
    depth = depth or 0
    local c = byte(text, i)
    while c do
        if c == QUOTE then
            i = string_end(text, i + 1)
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
        c = byte(text, i)
    end
    return nil
end
json.structure_end = structure_end

--- Return the position behind the value that begins at `i` with byte `c`; nothing (and "deep") when it has no end.
local function value_end(text, i, c)
    if c == QUOTE then
        local quote = string_end(text, i + 1)
        return quote and quote + 1
    elseif c == OPEN_OBJECT or c == OPEN_ARRAY then
        return structure_end(text, i)
    end
    local length = tonumber(C.strcspn(cast(TEXT, text) + i - 1, AFTER_A_WORD)) -- a number or a word
    return length > 0 and i + length <= #text and i + length or nil
end
json.value_end = value_end

--- Return start and end of the key at `i`, and position and byte of its value; nothing when there is no key.
-- Ends are positions behind the last character.
local function key_at(text, i)
    local c
    i, c = after_space(text, i)
    if c ~= QUOTE then
        return nil
    end
    local key = i + 1
    local key_end = string_end(text, key)
    if not key_end then
        return nil
    end
    i, c = after_space(text, key_end + 1)
    if c ~= COLON then
        return nil
    end
    i, c = after_space(text, i + 1)
    return key, key_end, i, c
end
json.key_at = key_at

--- Return start and end of the key at `i`, of its value, and position and byte of what follows: a comma or a brace.
-- Nothing when there is no field.
function json.field(text, i)
    local key, key_end, value, c = key_at(text, i)
    local ends = key and value_end(text, value, c)
    if not ends then
        return nil
    end
    i, c = after_space(text, ends)
    return key, key_end, value, ends, i, c
end

--- Return the decoded string whose characters stand from `from` to before `to`; nothing when it is no string.
function json.text(text, from, to)
    local raw = sub(text, from, to - 1)
    if not find(raw, "\\", 1, true) then
        return raw
    end
    local ok, decoded = pcall(cjson.decode, '["' .. raw .. '"]')
    return ok and decoded[1] or nil
end

--- Return the raw text of a field of the object text; nothing when it is not there.
function json.member(text, name)
    local i = after_space(text, 1)
    local following = COMMA
    while following == COMMA do
        local key, key_end, value, ends, next_one, c = json.field(text, i + 1)
        if not key then
            return nil
        elseif json.text(text, key, key_end) == name then
            return sub(text, value, ends - 1)
        end
        i, following = next_one, c
    end
    return nil
end

--- Return the raw texts of an array's elements.
function json.elements(text)
    local found = {}
    local i = after_space(text, 1)
    local c = COMMA
    while c == COMMA do
        i, c = after_space(text, i + 1)
        local ends = c ~= CLOSE_ARRAY and value_end(text, i, c)
        if ends then
            found[#found + 1] = sub(text, i, ends - 1)
            i, c = after_space(text, ends)
        end
    end
    return found
end

return json
