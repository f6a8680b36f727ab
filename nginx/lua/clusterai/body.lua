--- What the gateway needs of a request's body: the model, and which conversation it belongs to.
local json = require "clusterai.json"
local digest = require "clusterai.digest"
local files = require "clusterai.files"

local body = {}

local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub
local key_at, field, after_space = json.key_at, json.field, json.after_space
local value_end, structure_end = json.value_end, json.structure_end

local QUOTE, COMMA = 34, 44
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY = 123, 125, 91
local SHORTEST_KEY, LONGEST_ESCAPED = 4, 48 -- "name", "\u006d\u006f…"
local LARGE = 4 * 1024 * 1024 -- bytes: what of that size is thrown away is collected at once
-- What a key means to us; "" for those that mean nothing. Common ones stand here to be known at once.
local MEANINGS = {
    model = "model", name = "name", messages = "messages", input = "messages", stream = "", options = "", prompt = "",
}

local ABSENT = 0
local found = {model = ABSENT, name = ABSENT, mark = false, size = 0} -- of the body that is looked at; nobody waits meanwhile
local NOT_JSON = "it breaks off or is no JSON"

--- Return what a key means that is not among the common ones: it may be escaped, or "model" in other letters.
local function unusual(text, key, key_end, raw)
    local decoded = find(raw, "\\", 1, true) and json.text(text, key, key_end) or raw
    local folded = lower(decoded)
    return MEANINGS[decoded] or (folded == "model" or folded == "name") and "ambiguous" or ""
end

--- Return what the key means.
local function meaning(text, key, key_end)
    local length = key_end - key
    if length < SHORTEST_KEY or length > LONGEST_ESCAPED then
        return ""
    end
    local raw = sub(text, key, key_end - 1)
    return MEANINGS[raw] or unusual(text, key, key_end, raw)
end

--- Return where the message at `i` ends, and, if it is a user's, where its content begins and ends; nothing when it is none.
local function message(text, i)
    local is_user, from, to = false, nil, nil
    local c = COMMA
    while c == COMMA do
        local key, key_end, value, ends
        key, key_end, value, ends, i, c = field(text, i + 1)
        if not key then
            return nil
        end
        local length = key_end - key
        if length == 4 and sub(text, key, key_end - 1) == "role" then
            is_user = sub(text, value, ends - 1) == '"user"'
        elseif length == 7 and sub(text, key, key_end - 1) == "content" then
            from, to = value, ends
        end
    end
    if c ~= CLOSE_OBJECT then
        return nil
    end
    return i + 1, is_user and from, to
end

--- Note what tells this conversation from others, a mark of a user's first message. Return the position behind the array at `i`.
local function take_messages(text, i)
    local at, c = after_space(text, i + 1)
    while c == OPEN_OBJECT do
        local behind, from, to = message(text, at)
        if not behind then
            break
        elseif from then
            found.mark = digest.mark(text, from, to - 1)
            return structure_end(text, behind, 1) -- it is behind a whole message, so nothing is looked at twice
        end
        at, c = after_space(text, behind)
        if c ~= COMMA then
            break
        end
        at, c = after_space(text, at + 1)
    end
    return structure_end(text, i)
end

--- Take a field; return the position behind it. Otherwise nothing, a code and, for "bad-json", what is wrong.
local function take_field(text, i)
    local key, key_end, value, c = key_at(text, i)
    if not key then
        return nil, "bad-json", NOT_JSON
    end
    local means = meaning(text, key, key_end)
    local ends, why
    if means == "messages" and c == OPEN_ARRAY then
        ends, why = take_messages(text, value)
    else
        ends, why = value_end(text, value, c)
    end
    if not ends then
        return nil, "bad-json", why == "deep" and "it is nested too deeply" or NOT_JSON
    elseif means == "model" or means == "name" then
        if found[means] ~= ABSENT then
            return nil, "ambiguous-model"
        end
        found[means] = c == QUOTE and json.text(text, value + 1, ends - 1) or false
    elseif means == "ambiguous" then
        return nil, "ambiguous-model"
    end
    return ends
end

--- Look at a body.
--
-- @return a table, the same one each time, with `model`, `name` (texts, 0 where there are none, false where they are no texts),
-- `mark`, which tells conversations apart (false: nothing does), and `size` in bytes; or nothing, a stable code and, for "bad-json",
-- what is wrong.
function body.inspect(text)
    local i, c = after_space(text, 1)
    if not c then
        return nil, "bad-json", "it is empty"
    elseif c ~= OPEN_OBJECT then
        return nil, "bad-json", "it is not an object"
    end
    found.model, found.name, found.mark, found.size = ABSENT, ABSENT, false, #text
    local first, first_byte = after_space(text, i + 1)
    if first_byte == CLOSE_OBJECT then
        i, c = first, first_byte
    else
        c = COMMA
    end
    while c == COMMA do
        local ends, code, detail = take_field(text, i + 1)
        if not ends then
            return nil, code, detail
        end
        i, c = after_space(text, ends)
    end
    if c ~= CLOSE_OBJECT or after_space(text, i + 1) <= #text then
        return nil, "bad-json", NOT_JSON
    end
    return found
end

--- Look at the body of the current request, wherever nginx has it; reads it first.
function body.of_request()
    ngx.req.read_body()
    local text = ngx.req.get_body_data()
    if text then
        return body.inspect(text)
    end
    local file = ngx.req.get_body_file()
    if not file then
        return nil, "bad-json", "it is empty"
    end
    text = files.read(file)
    if not text then
        return nil, "bad-json", "it could not be read"
    end
    local found, code, detail = body.inspect(text)
    if #text > LARGE then
        text = nil
        collectgarbage()
    end
    return found, code, detail
end

--- Return the model's name as the body writes it; nothing and a code otherwise. `model` wins over `name`, as in Ollama.
function body.model_of(found)
    local model, name = found.model, found.name
    if name == ABSENT or name == model then
        name = model
    elseif model ~= ABSENT and model ~= "" then
        return nil, "ambiguous-model"
    end
    if not name or name == "" or name == ABSENT then
        return nil, "no-model"
    end
    return name
end

return body
