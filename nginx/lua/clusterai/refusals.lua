--- Every refusal of the gateway: a status, a stable code, a sentence and what to do. docs/inference.md has the table.
local refusals = {}

local HOW_TO_GIVE = "send it as `Authorization: Bearer KEY`; make one on the server with `clusteractl key create NAME`"
local LARGEST = "64 MB"

local function refusal(status, code, sentence, hint, retry_after)
    return {status = status, code = code, sentence = sentence, hint = hint, retry_after = retry_after}
end

function refusals.no_such_path(path)
    return refusal(404, "no-such-path", "there is no " .. path:sub(1, 100) .. " here",
        "the gateway answers the paths of Ollama's and OpenAI's API with which one chats; see docs/inference.md")
end

function refusals.wrong_method(path, method)
    return refusal(405, "wrong-method", path .. " is called with " .. method, "Ollama's clients know which one; see its API's documentation")
end

function refusals.use_clusteractl(path, command)
    return refusal(403, "use-clusteractl", "models of a cluster are not managed with " .. path:sub(1, 100),
        "on the server: " .. command)
end

function refusals.key_in_url()
    return refusal(400, "key-in-url", "the key stands in the URL, where logs keep it",
        "revoke it (`clusteractl key revoke`), make a new one, and send that as `Authorization: Bearer KEY`")
end

function refusals.no_key()
    return refusal(401, "no-key", "this needs a key", HOW_TO_GIVE)
end

function refusals.bad_key()
    return refusal(401, "bad-key", "this key is not valid: it is wrong or was revoked", HOW_TO_GIVE)
end

function refusals.key_expired()
    return refusal(401, "key-expired", "this key has expired", "make a new one on the server with `clusteractl key create NAME`")
end

function refusals.too_many_requests(per_minute, seconds)
    return refusal(429, "too-many-requests", "this key may send " .. per_minute .. " requests a minute",
        "wait " .. seconds .. " s", seconds)
end

function refusals.too_large()
    return refusal(413, "too-large", "the request is larger than " .. LARGEST, "send fewer or smaller images")
end

function refusals.bad_json(detail)
    return refusal(400, "bad-json", "the body cannot be used: " .. (detail or "it is no JSON"), "send one JSON object with a `model`")
end

function refusals.no_model()
    return refusal(400, "no-model", "the body names no model", 'add "model", for example "llama3.2:3b"; `clusteractl model list` shows which there are')
end

function refusals.ambiguous_model()
    return refusal(400, "ambiguous-model", "the body names the model twice, or in another spelling of the key `model`",
        'write "model" once, in lower case')
end

function refusals.model_not_allowed(name)
    return refusal(403, "model-not-allowed", "this key is not for " .. name, "ask for a key that has it, or take one of /api/tags")
end

function refusals.no_such_model(name, closest)
    local hint = "`clusteractl model pull " .. name .. "` on the server brings it"
    if closest[1] then
        hint = "did you mean " .. table.concat(closest, ", ") .. "? Otherwise " .. hint
    end
    return refusal(404, "no-such-model", 'model "' .. name .. '" is not in this cluster', hint)
end

function refusals.no_node(name, reason, retry_after)
    return refusal(503, "no-node", "no node can serve " .. name .. " now: " .. reason,
        "try again in " .. retry_after .. " s; `clusteractl why " .. name .. "` on the server explains it", retry_after)
end

function refusals.node_failed(node)
    return refusal(502, "node-failed", (node or "the node") .. " broke off before it answered",
        "the request may have been worked on, so it was not sent again; send it again yourself")
end

function refusals.failed()
    return refusal(500, "gateway-failed", "the gateway itself failed", "`journalctl -u clusterai-gateway` on the server says why")
end

return refusals
