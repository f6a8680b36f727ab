--- What is written down of a request when it has ended: one line in the log, and the counters.
local gateway = require "clusterai.gateway"
local metrics = require "clusterai.metrics"
local requests = require "clusterai.requests"

local record = {}

local var = ngx.var
local find, format, match = string.find, string.format, string.match
local TAIL = 4096
local LONGEST_PATH = 200
-- What Ollama, OpenAI and Anthropic call them, from the most special to the most general.
local PROMPT_TOKENS = {'"prompt_eval_count":%s*(%d+)', '"prompt_tokens":%s*(%d+)', '"input_tokens":%s*(%d+)'}
local OUTPUT_TOKENS = {'"eval_count":%s*(%d+)', '"completion_tokens":%s*(%d+)', '"output_tokens":%s*(%d+)'}

local ESCAPES = {['"'] = '\\"', ["\\"] = "\\\\"}

--- Return the text in quotes, as JSON. Control characters and bytes beyond ASCII become question marks.
local function quoted(text)
    if find(text, '[^%w /_.:-]') then
        text = text:gsub("[^\32-\126]", "?"):gsub('["\\]', ESCAPES)
    end
    return '"' .. text .. '"'
end
record.quoted = quoted

local function first_of(patterns, text)
    for i = 1, #patterns do
        local number = match(text, ".*" .. patterns[i])
        if number then
            return number
        end
    end
    return nil
end

--- Return the tokens of prompt and answer that the end of an answer tells, as texts; nothing where it does not.
function record.tokens(tail)
    if not find(tail, "eval_count", 1, true) and not find(tail, "_tokens", 1, true) then
        return nil, nil
    end
    return first_of(PROMPT_TOKENS, tail), first_of(OUTPUT_TOKENS, tail)
end

local function tail_of(request)
    local tail = request.last
    if not tail then
        return ""
    elseif #tail < TAIL and request.last_but_one then
        tail = (request.last_but_two or "") .. request.last_but_one .. tail
    end
    return #tail > TAIL and tail:sub(-TAIL) or tail
end

local function path_of()
    local path = var.uri
    if find(path, "[cC][aA][kK]1%.") then
        return "(withheld: it contains a key)"
    end
    return #path > LONGEST_PATH and path:sub(1, LONGEST_PATH) or path
end

--- Return the fields of the line that only Lua knows, each with a comma behind it.
local function fields(request, node)
    local line = '"path":' .. quoted(path_of()) .. ',"key":"' .. (request.key or "") .. '",'
    if request.model then
        line = line .. '"model":' .. quoted(request.model.name) .. ',"node":"' .. node .. '","reason":"' .. (request.reason or "") .. '",'
    end
    if request.first_byte then
        line = line .. format('"first_byte_seconds":%.3f,', request.first_byte)
        local prompt, output = record.tokens(tail_of(request))
        if prompt then
            line = line .. '"prompt_tokens":' .. prompt .. ","
        end
        if output then
            line = line .. '"output_tokens":' .. output .. ","
        end
    end
    return line
end

--- Write the line and the counters; let go of the node.
function record.write()
    local request = requests.finish()
    if not request then
        var.clusterai = '"path":' .. quoted(path_of()) .. ","
        return
    end
    local node = request.node or ""
    gateway.remember(request)
    gateway.leave(request)
    var.clusterai = fields(request, node)
    local model = request.model and request.model.name or ""
    metrics.count(model, node, ngx.status, request.first_byte, ngx.now() - ngx.req.start_time())
end

return record
