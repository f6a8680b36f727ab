--- What is written down of a request when it has ended: one line in the log, and the counters.
local ffi = require "ffi"
local gateway = require "clusterai.gateway"
local journal = require "clusterai.journal"
local metrics = require "clusterai.metrics"
local requests = require "clusterai.requests"

local record = {}

ffi.cdef [[
    long strtol(const char *text, char **behind, int base);
    const char *strstr(const char *text, const char *part);
]]
local C = ffi.C
local TEXT = ffi.typeof "const char *"
local behind = ffi.new "char *[1]"
local var = ngx.var
local find, format, match = string.find, string.format, string.match
local floor, max, tobit = math.floor, math.max, require("bit").tobit
local TAIL = 4096
local LONGEST_PATH = 200
local PLAIN = requests.paths
local STATUS, SHORT_TIMES = {}, {} -- by number, and by milliseconds: a time takes a thousand instructions to format
for number = 0, 999 do
    SHORT_TIMES[number] = format("%.3f", number / 1000)
    STATUS[number] = ',"status":' .. number .. ',"method":"'
end
local second, begun = -1, ""
local ESCAPES = {['"'] = '\\"', ["\\"] = "\\\\"}
-- What Ollama calls the tokens of prompt and answer, and what OpenAI and Anthropic do. The last one in the text counts.
local OLLAMA_PROMPT, OLLAMA_OUTPUT = '"prompt_eval_count"', '"eval_count"'
local OPENAI_PROMPT, OPENAI_OUTPUT = '"prompt_tokens"', '"completion_tokens"'
local ANTHROPIC_PROMPT, ANTHROPIC_OUTPUT = '"input_tokens"', '"output_tokens"'
local COLON, COMMA, CLOSE_OBJECT = 58, 44, 125
local LARGEST, MOST = 2 ^ 31, 2 ^ 53

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

--- Return the text's number, rounded down and written as JSON has it; nothing when it is none, or more than any count.
local function whole(text)
    local number = tonumber(text)
    return number and number < MOST and format("%.0f", floor(number)) or nil
end

--- Return the number behind the name at `at`, which points into the tail. An integer is one for the compiler too, which writes it
-- at once.
local function number_at(tail, name, at)
    local value = at + #name
    if value[0] == COLON and value[1] >= 48 and value[1] <= 57 then
        local number = tonumber(C.strtol(value + 1, behind, 10))
        local c = behind[0][0]
        if number < LARGEST and (c == COMMA or c == CLOSE_OBJECT) then
            return tobit(number)
        end
    end
    return whole(match(tail, "^:%s*([%d.eE+]+)", tonumber(value - ffi.cast(TEXT, tail)) + 1))
end

--- Return the number of the last field of that name; nothing where there is none. Where there is but one, as nearly always, nothing
-- steps back from the end.
local function last(tail, name)
    local at = C.strstr(tail, name)
    if at == nil then
        return nil
    elseif C.strstr(at + 1, name) ~= nil then
        return whole(match(tail, "^.*" .. name .. ":%s*(%d+)"))
    end
    return number_at(tail, name, at)
end

--- Return the tokens of prompt and answer that the end of an answer tells, as numbers or texts; nothing where it does not.
function record.tokens(tail)
    local prompt, output = last(tail, OLLAMA_PROMPT), last(tail, OLLAMA_OUTPUT)
    if not prompt and not output and C.strstr(tail, '_tokens"') ~= nil then
        prompt = last(tail, OPENAI_PROMPT) or last(tail, ANTHROPIC_PROMPT)
        output = last(tail, OPENAI_OUTPUT) or last(tail, ANTHROPIC_OUTPUT)
    end
    return prompt, output
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

--- Return milliseconds as seconds, with three decimals.
local function seconds(milliseconds)
    return SHORT_TIMES[milliseconds] or format("%.3f", milliseconds / 1000)
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

--- Return the beginning of a line: the time, made once a second, up to the path.
local function beginning()
    local now = ngx.time()
    if now ~= second then
        second, begun = now, '{"time":"' .. var.time_iso8601 .. '","path":'
    end
    return begun
end

--- Put what the request was about.
local function put_subject(line, request, node)
    local model, first_byte = request.model, request.first_byte
    if not model then
        line:put(beginning(), shown(request.path), ',"key":"', request.key or "", '"')
        return
    end
    local prompt, output
    if first_byte then
        prompt, output = record.tokens(tail_of(request))
    end
    line:put(beginning(), shown(request.path), ',"key":"', request.key or "", '","model":"', model.name, '","node":"', node,
        '","reason":"', request.reason or "", '"')
    if prompt then
        line:put(',"prompt_tokens":', prompt)
    end
    if output then
        line:put(',"output_tokens":', output)
    end
    if first_byte then
        line:put(',"first_byte_seconds":', seconds(first_byte))
    end
end

--- Put how it went: bytes of the two bodies, and the time.
local function put_result(line, request, status, total)
    local received = request and request.received or whole(match(var.content_length or "", "^%d+$")) or 0 -- a header holds anything
    local sent = request and request.last and request.sent or var.body_bytes_sent
    line:put(STATUS[status], ngx.req.get_method(), '","request_bytes":', received, ',"response_bytes":', sent,
        ',"total_seconds":', seconds(total), ',"client":"', request and request.client or var.remote_addr, '"}\n')
end

--- Write the line and the counters; let go of the node.
function record.write()
    local request, status = requests.finish(), ngx.status
    local total = max(0, floor((ngx.now() - ngx.req.start_time()) * 1000 + 0.5)) -- milliseconds
    local line = journal.line()
    if request then
        local node, model = request.node or "", request.model
        gateway.remember(request)
        gateway.leave(request)
        metrics.count(model and model.name or "", node, status, request.first_byte, total / 1000)
        put_subject(line, request, node)
        put_result(line, request, status, total)
        requests.recycle(request)
    else
        line:put(beginning(), shown(var.uri or "")) -- what is no HTTP has none
        put_result(line, nil, status, total)
    end
    journal.ended()
end

return record
