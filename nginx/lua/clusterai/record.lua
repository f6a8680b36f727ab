--- What is written down of a request when it has ended: one line in the log, and the counters.
local gateway = require "clusterai.gateway"
local metrics = require "clusterai.metrics"
local requests = require "clusterai.requests"

local record = {}

local var = ngx.var
local byte, find, format, match, sub = string.byte, string.find, string.format, string.match, string.sub
local floor = math.floor
local TAIL = 4096
local LONGEST_PATH = 200
local PLAIN = {} -- what needs no look: our own paths
local ESCAPES = {['"'] = '\\"', ["\\"] = "\\\\"}
-- What Ollama calls the tokens of prompt and answer, and what OpenAI and Anthropic do. The last one in the text counts.
local OLLAMA_PROMPT, OLLAMA_OUTPUT = '"prompt_eval_count"', '"eval_count"'
local OPENAI_PROMPT, OPENAI_OUTPUT = '"prompt_tokens"', '"completion_tokens"'
local ANTHROPIC_PROMPT, ANTHROPIC_OUTPUT = '"input_tokens"', '"output_tokens"'
local NUMBER = ":%s*(%d+)"
local COLON, LARGEST = 58, 2 ^ 31

for _, path in ipairs({
    "/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show", "/v1/chat/completions", "/v1/completions",
    "/v1/embeddings", "/v1/responses", "/v1/messages", "/api/tags", "/api/ps", "/api/version", "/v1/models", "/",
}) do
    PLAIN[path] = '"' .. path .. '"'
end

--- Return the text in quotes, as JSON. Control characters and bytes beyond ASCII become question marks.
local function quoted(text)
    local known = PLAIN[text]
    if known then
        return known
    elseif find(text, "[^%w /_.:-]") then
        text = text:gsub("[^\32-\126]", "?"):gsub('["\\]', ESCAPES)
    end
    return '"' .. text .. '"'
end
record.quoted = quoted

--- Return the number of the field whose name ends before `at`, as text. LuaJIT compiles this as it is; a pattern it does not,
-- and a loop would make it give up on the callers.
local function number_at(tail, at)
    local stop, brace = find(tail, ",", at, true), find(tail, "}", at, true)
    if brace and not (stop and stop < brace) then
        stop = brace
    end
    local number = stop and byte(tail, at) == COLON and tonumber(sub(tail, at + 1, stop - 1))
    if number and number >= 0 and number < LARGEST and floor(number) == number then
        return format("%d", number)
    end
    return match(tail, "^" .. NUMBER, at)
end

--- Return the number of the last field of that name, as text. Where there is but one, as nearly always, nothing steps back from the end.
local function last(tail, name)
    local at = find(tail, name, 1, true)
    if not at then
        return nil
    elseif find(tail, name, at + 1, true) then
        return match(tail, "^.*" .. name .. NUMBER)
    end
    return number_at(tail, at + #name)
end

--- Return the tokens of prompt and answer that the end of an answer tells, as texts; nothing where it does not.
function record.tokens(tail)
    if find(tail, OLLAMA_OUTPUT, 1, true) or find(tail, OLLAMA_PROMPT, 1, true) then
        return last(tail, OLLAMA_PROMPT), last(tail, OLLAMA_OUTPUT)
    elseif find(tail, '_tokens"', 1, true) then
        return last(tail, OPENAI_PROMPT) or last(tail, ANTHROPIC_PROMPT),
            last(tail, OPENAI_OUTPUT) or last(tail, ANTHROPIC_OUTPUT)
    end
    return nil, nil
end

--- Return the end of the answer: at most 4 kB, and of a stream no more than the last three pieces.
local function tail_of(request)
    local tail = request.last
    if not tail then
        return ""
    elseif #tail < TAIL and request.last_but_one then
        tail = (request.last_but_two or "") .. request.last_but_one .. tail
    end
    return #tail > TAIL and tail:sub(-TAIL) or tail
end

--- Return the seconds to the first byte of the node's answer, over all tries, and as text; nothing when there was none.
local function first_byte_of()
    local times = var.upstream_header_time
    local seconds = tonumber(times)
    if seconds or not times then
        return seconds, times
    end
    local sum = 0 -- several tries: "0.700, 0.012"
    for time in times:gmatch("[%d.]+") do
        sum = sum + time
    end
    if times:find("%d$") then
        return sum, format("%.3f", sum)
    end
    return nil
end

--- Return the path in quotes, as the log has it.
local function shown(path)
    if PLAIN[path] then
        return PLAIN[path]
    elseif find(path:lower(), "cak1.", 1, true) then
        return '"(withheld: it contains a key)"'
    end
    return quoted(#path > LONGEST_PATH and path:sub(1, LONGEST_PATH) or path)
end

--- Return what the log says of the node's answer, a comma behind it.
local function answer_fields(request, first_byte)
    local prompt, output = record.tokens(tail_of(request))
    return '"first_byte_seconds":' .. first_byte .. (prompt and ',"prompt_tokens":' .. prompt or "")
        .. (output and ',"output_tokens":' .. output or "") .. ","
end

--- Return the fields of the line that only Lua knows, a comma behind the last.
local function fields(request, node, first_byte)
    local key, model = request.key or "", request.model
    if not model then
        return '"path":' .. shown(request.path) .. ',"key":"' .. key .. '",'
    end
    return '"path":' .. shown(request.path) .. ',"key":"' .. key .. '","model":"' .. model.name .. '","node":"' .. node .. '","reason":"'
        .. (request.reason or "") .. '",' .. (first_byte and answer_fields(request, first_byte) or "")
end

--- Write the line and the counters; let go of the node.
function record.write()
    local request = requests.finish()
    if not request then
        var.clusterai = '"path":' .. shown(var.uri or "") .. "," -- what is no HTTP has none
        return
    end
    local node, model = request.node or "", request.model
    gateway.remember(request)
    gateway.leave(request)
    local first_byte, shown_first_byte
    if node ~= "" then
        first_byte, shown_first_byte = first_byte_of()
    end
    var.clusterai = fields(request, node, shown_first_byte)
    metrics.count(model and model.name or "", node, ngx.status, first_byte, ngx.now() - ngx.req.start_time())
end

return record
