--- What the gateway answers itself: refusals in the shape that the client's library expects, and plain JSON.
local cjson = require "cjson"

local answers = {}

local OPENAI_TYPES = {[401] = "authentication_error", [403] = "permission_error", [429] = "rate_limit_error"}
local ANTHROPIC_TYPES = {
    [400] = "invalid_request_error", [401] = "authentication_error", [403] = "permission_error", [404] = "not_found_error",
    [405] = "invalid_request_error", [413] = "request_too_large", [429] = "rate_limit_error", [503] = "overloaded_error",
}

local function said(refusal)
    return refusal.hint and refusal.sentence .. " — " .. refusal.hint or refusal.sentence
end

local function as_openai(refusal)
    local kind = OPENAI_TYPES[refusal.status] or refusal.status >= 500 and "server_error" or "invalid_request_error"
    return {error = {message = said(refusal), type = kind, param = cjson.null, code = refusal.code, hint = refusal.hint}}
end

local function as_anthropic(refusal)
    local kind = ANTHROPIC_TYPES[refusal.status] or "api_error"
    return {type = "error", error = {type = kind, message = said(refusal), code = refusal.code, hint = refusal.hint}}
end

--- Return the refusal as a table in the shape that belongs to the path. Pure.
function answers.shaped(path, refusal)
    if path == "/v1/messages" then
        return as_anthropic(refusal)
    elseif path:sub(1, 4) == "/v1/" then
        return as_openai(refusal)
    end
    return {error = refusal.sentence, code = refusal.code, hint = refusal.hint}
end

--- Send a JSON text and end the request.
function answers.send(status, text)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Content-Length"] = #text
    if ngx.req.get_method() ~= "HEAD" then
        ngx.print(text)
    else
        ngx.send_headers()
    end
    return ngx.exit(ngx.HTTP_OK)
end

--- Send a refusal {status, code, sentence, hint, retry_after} and end the request.
function answers.refuse(refusal)
    if refusal.retry_after then
        ngx.header["Retry-After"] = refusal.retry_after
    end
    if refusal.status == 401 then
        ngx.header["WWW-Authenticate"] = 'Bearer realm="Cluster AI"'
    end
    return answers.send(refusal.status, cjson.encode(answers.shaped(ngx.var.uri, refusal)) .. "\n")
end

return answers
