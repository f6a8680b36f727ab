--- What is written down of a request when it has ended: one line in the log, and the counters.
local ffi = require "ffi"
local gateway = require "clusterai.gateway"
local metrics = require "clusterai.metrics"
local requests = require "clusterai.requests"

local record = {}

ffi.cdef "long strtol(const char *, char **, int);"
local C = ffi.C
local TEXT = ffi.typeof "const char *"
local behind = ffi.new "char *[1]"
local var = ngx.var
local byte, find, format, match, sub = string.byte, string.find, string.format, string.match, string.sub
local floor, tobit = math.floor, require("bit").tobit
local TAIL = 4096
local LONGEST_PATH = 200
local PLAIN = requests.paths
local THREE_DIGITS = {}
for number = 0, 999 do
    THREE_DIGITS[number] = format("%03d", number)
end
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

--- Return the number of the field whose name ends before `at`. An integer is one for the compiler too, which writes it at once.
local function number_at(tail, at)
    local digit = byte(tail, at) == COLON and byte(tail, at + 1)
    if digit and digit >= 48 and digit <= 57 then
        local number = tonumber(C.strtol(ffi.cast(TEXT, tail) + at, behind, 10))
        local c = behind[0][0]
        if number < LARGEST and (c == COMMA or c == CLOSE_OBJECT) then
            return tobit(number)
        end
    end
    return whole(match(tail, "^:%s*([%d.eE+]+)", at))
end

--- Return the number of the last field of that name, which occurs first at `at`. Where there is but one, as nearly always, nothing
-- steps back from the end.
local function last(tail, name, at)
    if not at then
        return nil
    elseif find(tail, name, at + 1, true) then
        return whole(match(tail, "^.*" .. name .. ":%s*(%d+)"))
    end
    return number_at(tail, at + #name)
end

--- Return the number of the last field of the one name, or else of the other.
local function either(tail, one, other)
    return last(tail, one, find(tail, one, 1, true)) or last(tail, other, find(tail, other, 1, true))
end

--- Return the tokens of prompt and answer that the end of an answer tells, as numbers or texts; nothing where it does not.
function record.tokens(tail)
    local prompt, output = find(tail, OLLAMA_PROMPT, 1, true), find(tail, OLLAMA_OUTPUT, 1, true)
    if prompt or output then
        return last(tail, OLLAMA_PROMPT, prompt), last(tail, OLLAMA_OUTPUT, output)
    elseif find(tail, '_tokens"', 1, true) then
        return either(tail, OPENAI_PROMPT, ANTHROPIC_PROMPT), either(tail, OPENAI_OUTPUT, ANTHROPIC_OUTPUT)
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

--- Return milliseconds as seconds, with three decimals: what format("%.3f") takes a thousand instructions for.
local function seconds(milliseconds)
    return floor(milliseconds / 1000) .. "." .. THREE_DIGITS[milliseconds % 1000]
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

--- Return the fields of the line that only Lua knows, a comma behind the last.
--
-- All is put together at once, since each piece would become a string. What differs most often stands at the end, because LuaJIT
-- tells long strings by their ends: of those that it holds to be the same it compares every byte.
local function fields(request, node)
    local key, model, first_byte = request.key or "", request.model, request.first_byte
    if not model then
        return '"path":' .. shown(request.path) .. ',"key":"' .. key .. '",'
    end
    local prompt, output
    if first_byte then
        prompt, output = record.tokens(tail_of(request))
    end
    return '"path":' .. shown(request.path) .. ',"key":"' .. key .. '","model":"' .. model.name .. '","node":"' .. node
        .. '","reason":"' .. (request.reason or "") .. '",' .. (prompt and '"prompt_tokens":' or "") .. (prompt or "")
        .. (prompt and "," or "") .. (output and '"output_tokens":' or "") .. (output or "") .. (output and "," or "")
        .. (first_byte and '"first_byte_seconds":' or "") .. (first_byte and seconds(first_byte) or "")
        .. (first_byte and "," or "")
end

--- Write the line and the counters; let go of the node.
function record.write()
    local request = requests.finish()
    if not request then
        var.line = '"path":' .. shown(var.uri or "") .. "," -- what is no HTTP has none
        return
    end
    local node, model = request.node or "", request.model
    gateway.remember(request)
    gateway.leave(request)
    var.line = fields(request, node)
    metrics.count(model and model.name or "", node, ngx.status, request.first_byte, ngx.now() - ngx.req.start_time())
    requests.recycle(request)
end

return record
