--- The paths that the gateway answers from its tables, and those that it refuses.
local state = require "clusterai.state"
local keys = require "clusterai.keys"
local heads = require "clusterai.heads"
local names = require "clusterai.names"
local answers = require "clusterai.answers"
local refusals = require "clusterai.refusals"
local requests = require "clusterai.requests"

local local_api = {}

local MANAGES = { -- path -> what to type instead
    ["/api/pull"] = "clusteractl model pull MODEL",
    ["/api/push"] = "clusteractl model list",
    ["/api/create"] = "clusteractl model place MODEL --node NODE, after `ollama create` on that node",
    ["/api/copy"] = "clusteractl model place MODEL --node NODE",
    ["/api/delete"] = "clusteractl model rm MODEL",
}
local LISTED = {} -- path -> function of the key: the JSON text

--- Return the raw JSON of those objects that the key may see, joined by commas.
local function joined(objects, key, field)
    local texts = {}
    for _, object in ipairs(objects) do
        if keys.allows(key, object.name) then
            texts[#texts + 1] = object[field]
        end
    end
    return table.concat(texts, ",")
end

LISTED["/api/version"] = function()
    return state.routes.version
end

LISTED["/api/tags"] = function(key)
    return '{"models":[' .. joined(state.routes.tags, key, "raw") .. "]}"
end

LISTED["/api/ps"] = function(key)
    return '{"models":[' .. joined(state.routes.ps, key, "raw") .. "]}"
end

LISTED["/v1/models"] = function(key)
    return '{"object":"list","data":[' .. joined(state.routes.tags, key, "openai") .. "]}"
end

--- Return OpenAI's description of one model; nothing and a refusal when the key's cluster has none of that name.
local function one_model(key, text)
    local name = names.normalised(text)
    for _, object in ipairs(state.routes.tags) do
        if object.name == name and keys.allows(key, name) then
            return object.openai
        end
    end
    local list = {}
    for _, known in ipairs(state.routes.names) do
        list[#list + 1] = keys.allows(key, known) and known or nil
    end
    local shown = text:sub(1, 120):gsub("[^%w_./:-]", "?")
    return nil, refusals.no_such_model(shown, names.closest(text, list))
end

local function managing(path)
    return MANAGES[path] or path:sub(1, 11) == "/api/blobs/" and "clusteractl model pull MODEL" or nil
end

--- Tell clients that probe for an Ollama that this is one. Needs no key: it says nothing else.
function local_api.root()
    requests.begin("/")
    if not ngx.req.get_method():find("^[GH]E[TA]D?$") then
        return answers.refuse(refusals.no_such_path("/"))
    end
    ngx.header["Content-Type"] = "text/plain; charset=utf-8"
    ngx.header["Content-Length"] = 17
    if ngx.req.get_method() == "GET" then
        ngx.print("Ollama is running")
    end
    return ngx.exit(ngx.HTTP_OK)
end

--- Answer a path that goes to no node.
function local_api.access()
    local path = ngx.var.uri
    local request = requests.begin(path)
    if keys.in_url() or keys.in_path() then
        return answers.refuse(refusals.key_in_url())
    elseif managing(path) then
        return answers.refuse(refusals.use_clusteractl(path, managing(path)))
    end
    local listed, id = LISTED[path], path:match("^/v1/models/(.+)$")
    if not listed and not id then
        return answers.refuse(refusals.no_such_path(path))
    end
    local key, refusal = keys.of_request(heads.current())
    if not key then
        return answers.refuse(refusal)
    end
    request.key = key.id
    local method = ngx.req.get_method()
    if method ~= "GET" and method ~= "HEAD" then
        return answers.refuse(refusals.wrong_method(path, method))
    end
    local text
    if listed then
        text = listed(key)
    else
        text, refusal = one_model(key, id)
    end
    return text and answers.send(200, text) or answers.refuse(refusal)
end

return local_api
