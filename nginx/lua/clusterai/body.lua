--- What the gateway needs of a request's body: the model, and which conversation it belongs to.
local json = require "clusterai.json"
local files = require "clusterai.files"

local body = {}

local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub
local field, after_space, value_end = json.field, json.after_space, json.value_end

local QUOTE, COMMA = 34, 44
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY = 123, 125, 91
local SAMPLE = 256 -- characters: so much of a conversation's first message, and its length, tell it from others
local SHORTEST_KEY, LONGEST_KEY, LONGEST_ESCAPED = 4, 8, 48 -- "name", "messages", "\u006d\u006f…"
local LARGE = 4 * 1024 * 1024 -- bytes: what of that size is thrown away is collected at once

local ABSENT = 0
local NOT_JSON = "it breaks off or is no JSON"

--- Return the key's text if it can be one that counts; nothing for others. An escaped key is decoded.
local function key_text(text, key, key_end)
    local length = key_end - key
    if length < SHORTEST_KEY or length > LONGEST_ESCAPED then
        return nil
    end
    local raw = sub(text, key, key_end - 1)
    if find(raw, "\\", 1, true) then
        return json.text(text, key, key_end)
    end
    return length <= LONGEST_KEY and raw or nil
end

--- Take a field that may name the model; return what is wrong with it, or nothing.
local function take_name(found, key, text, value, ends)
    local folded = lower(key)
    if folded ~= "model" and folded ~= "name" then
        return nil
    elseif folded ~= key or found[key] ~= ABSENT then
        return "ambiguous-model"
    end
    found[key] = byte(text, value) == QUOTE and json.text(text, value + 1, ends - 1) or false
    return nil
end

--- Return whether the message that begins at `i` is a user's, and where its content begins and ends.
local function message(text, i)
    local is_user, from, to = false, nil, nil
    local c = COMMA
    while c == COMMA do
        local key, key_end, value, ends
        key, key_end, value, ends, i, c = field(text, i + 1)
        if not key then
            return false
        end
        local length = key_end - key
        if length == 4 and sub(text, key, key_end - 1) == "role" then
            is_user = sub(text, value, ends - 1) == '"user"'
        elseif length == 7 and sub(text, key, key_end - 1) == "content" then
            from, to = value, ends
        end
    end
    return is_user, from, to
end

--- Return where the first message of a user has its content, from the array at `i`; nothing when there is none.
local function first_user(text, i)
    local c
    i, c = after_space(text, i + 1)
    while c == OPEN_OBJECT do
        local is_user, from, to = message(text, i)
        if is_user and from then
            return from, to
        end
        i, c = after_space(text, value_end(text, i, c) or #text + 1)
        if c ~= COMMA then
            return nil
        end
        i, c = after_space(text, i + 1)
    end
    return nil
end

--- Note what tells this conversation from others: of its first message the begin and the length.
local function take_conversation(found, text, messages)
    local from, to = first_user(text, messages)
    if from then
        found.sample_length = to - from
        found.sample = sub(text, from, from + math.min(to - from, SAMPLE) - 1)
    end
end

--- Look at a body.
--
-- @return a table with `model`, `name` (texts, 0 where there are none, false where they are no texts), `sample` and its message's
-- length; or nothing, a stable code and, for "bad-json", what is wrong.
function body.inspect(text)
    local i, c = after_space(text, 1)
    if not c then
        return nil, "bad-json", "it is empty"
    elseif c ~= OPEN_OBJECT then
        return nil, "bad-json", "it is not an object"
    end
    local found, messages = {model = ABSENT, name = ABSENT, sample = false, sample_length = 0}, nil
    local first, first_byte = after_space(text, i + 1)
    if first_byte == CLOSE_OBJECT then
        i, c = first, first_byte
    else
        c = COMMA
    end
    while c == COMMA do
        local key, key_end, value, ends
        key, key_end, value, ends, i, c = field(text, i + 1)
        if not key then
            return nil, "bad-json", key_end == "deep" and "it is nested too deeply" or NOT_JSON
        end
        local name = key_text(text, key, key_end)
        if name then
            local wrong = take_name(found, name, text, value, ends)
            if wrong then
                return nil, wrong
            elseif (name == "messages" or name == "input") and byte(text, value) == OPEN_ARRAY then
                messages = value
            end
        end
    end
    if c ~= CLOSE_OBJECT or after_space(text, i + 1) <= #text then
        return nil, "bad-json", NOT_JSON
    end
    if messages then
        take_conversation(found, text, messages)
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
