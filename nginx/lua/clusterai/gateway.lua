--- A request's way through the gateway: access, balancer, the answer's body, and what nginx could not do.
local balancer = require "ngx.balancer"
local state = require "clusterai.state"
local keys = require "clusterai.keys"
local heads = require "clusterai.heads"
local body = require "clusterai.body"
local names = require "clusterai.names"
local choose = require "clusterai.choose"
local busy = require "clusterai.busy"
local failing = require "clusterai.failing"
local answers = require "clusterai.answers"
local refusals = require "clusterai.refusals"
local requests = require "clusterai.requests"

local gateway = {}

local affinity = ngx.shared.affinity
local var = ngx.var
local AFFINITY_SECONDS, AFFINITY_SLOT_SECONDS = 3600, 600
local TRIES = 3
local NO_ANSWER_RETRY_SECONDS = 2

local BODY_REFUSALS = {
    ["bad-json"] = refusals.bad_json, ["no-model"] = refusals.no_model, ["ambiguous-model"] = refusals.ambiguous_model,
}

--- Return the model that the request is for, and the body's other findings; nothing and a refusal otherwise.
local function wanted_model()
    local found, code, detail = body.of_request()
    if not found then
        return nil, BODY_REFUSALS[code](detail)
    end
    local text, wrong = body.model_of(found)
    if not text then
        return nil, BODY_REFUSALS[wrong]()
    end
    local model = state.routes.models[text]
    if not model then
        local name = names.normalised(text)
        model = name and state.routes.models[name]
        text = name or text
    end
    return model, found, text
end

--- Return those of the cluster's models that the key may use, by name.
local function allowed_names(key)
    if not key.models and not key.dashboard then
        return state.routes.names
    end
    local list = {}
    for _, name in ipairs(state.routes.names) do
        if keys.allows(key, name) then
            list[#list + 1] = name
        end
    end
    return list
end

local function unknown_model(key, text)
    local shown = text:sub(1, 120):gsub("[^%w_./:-]", "?")
    if not keys.allows(key, text) then
        return refusals.model_not_allowed(shown)
    end
    return refusals.no_such_model(shown, names.closest(text, allowed_names(key)))
end

--- Return what tells this conversation from all others; nothing when it cannot be told.
local function conversation_of(key, model, found, named)
    if named ~= "" then
        return key.id .. " " .. model.name .. " " .. named:sub(1, 128)
    elseif found.mark then
        -- A hash, not the text: nothing of a prompt is kept. Two conversations that share one share a node, and no more.
        return key.id .. " " .. model.name .. " " .. found.mark
    end
    return nil
end

local function previous_node(request)
    if request.conversation then
        request.previous, request.slot = affinity:get(request.conversation)
    end
    return request.previous
end

--- Take the node for a new conversation, so that what a client asks beside its first request (a title, say) goes there too.
local function claim(request, candidate)
    local slot = math.floor(ngx.time() / AFFINITY_SLOT_SECONDS)
    if request.conversation and not request.previous
        and affinity:add(request.conversation, candidate.id, AFFINITY_SECONDS, slot) then
        request.previous, request.slot = candidate.id, slot
    end
end

--- Return why nobody can serve the model: the daemon's reason, or that all who could do not answer.
local function nobody(model)
    local list = {}
    for i, candidate in ipairs(model.candidates) do
        list[i] = candidate.id
    end
    if #list == 0 then
        local reason = model.reason ~= "" and model.reason or "no node has it ready"
        return refusals.no_node(model.name, reason, math.max(1, model.retry_after))
    end
    table.sort(list)
    local reason = table.concat(list, ", ") .. (#list == 1 and " does" or " do") .. " not answer; the gateway tries again every second"
    return refusals.no_node(model.name, reason, NO_ANSWER_RETRY_SECONDS)
end

--- Let the node hear the path that was looked at, in no other spelling and without a query.
local function spell_plainly(path)
    ngx.req.set_uri(path, false)
    ngx.req.set_uri_args("")
end

--- Decide where the request goes, or answer why it goes nowhere.
function gateway.access()
    local head = heads.current()
    local request = requests.begin(head.is_plain and head.path or var.uri)
    request.client = head.client
    if ngx.req.get_method() ~= "POST" then
        return answers.refuse(refusals.wrong_method(request.path, ngx.req.get_method()))
    end
    local key, refusal = keys.of_request(head)
    if not key then
        return answers.refuse(refusal)
    end
    request.key = key.id
    local model, found, text = wanted_model()
    if not model then
        return answers.refuse(text and unknown_model(key, text) or found)
    elseif not keys.allows(key, model.name) then
        return answers.refuse(refusals.model_not_allowed(model.name))
    end
    request.model, request.received = model, found.size
    request.conversation = conversation_of(key, model, found, head.conversation)
    local candidate, reason = choose.node(model, busy.of, failing.down, previous_node(request))
    if not candidate then
        return answers.refuse(nobody(model))
    end
    if not head.is_plain then
        spell_plainly(request.path)
    end
    request.candidate, request.reason = candidate, reason
    claim(request, candidate)
end

--- Note that the request goes to the candidate.
local function enter(request, candidate)
    request.candidate, request.node = candidate, candidate.id
    busy.enter(candidate.id, request.model.name)
end

--- Note that the request has left its node, if it had one.
function gateway.leave(request)
    if request.node then
        busy.leave(request.node, request.model.name)
        request.node = false
    end
end

--- Return the next candidate after one that did not answer; nothing when all were tried.
local function next_candidate(request)
    failing.mark(request.candidate.node)
    gateway.leave(request)
    request.tried = request.tried or {}
    request.tried[request.candidate.id] = true
    request.reason = "retried"
    return choose.best(request.model.candidates, busy.of, failing.down, request.tried)
end

--- Hand nginx the address of the node; called again when that one did not answer.
function gateway.balance()
    local request = requests.current()
    local candidate = request.candidate
    if request.tries == 0 then
        request.began = ngx.now()
        local others = math.min(TRIES, #request.model.candidates) - 1
        if others > 0 then
            balancer.set_more_tries(others)
        end
    elseif balancer.get_last_failure() then
        candidate = next_candidate(request)
    end
    request.tries = request.tries + 1
    if not candidate then
        return ngx.exit(502)
    end
    if not request.node then
        enter(request, candidate)
    end
    var.node, var.reason = candidate.id, request.reason
    balancer.set_current_peer(candidate.node.host, candidate.node.port)
end

--- Count the answer's bytes and keep its last pieces: there it tells how many tokens it took.
function gateway.body()
    local chunk = ngx.arg[1]
    local request = chunk ~= "" and requests.current()
    if request then
        if request.node and not request.first_byte then
            request.first_byte = math.max(0, math.floor((ngx.now() - request.began) * 1000 + 0.5))
        end
        request.last_but_two, request.last_but_one, request.last = request.last_but_one, request.last, chunk
        request.sent = request.sent + #chunk
    end
end

--- Tell whether the conversation has another node that can answer at once: a request for which it had no slot moves nothing.
local function stays(request)
    local node = request.model.by_id[affinity:get(request.conversation) or ""]
    return node and node.id ~= request.node and node.loaded and not failing.down[node.key]
end

--- Remember the node for the rest of the conversation.
function gateway.remember(request)
    if request.conversation and request.node then
        local slot = math.floor(ngx.time() / AFFINITY_SLOT_SECONDS)
        if request.previous == request.node and request.slot == slot then
            return
        elseif request.previous == request.node or not stays(request) then
            affinity:set(request.conversation, request.node, AFFINITY_SECONDS, slot)
        end
    end
end

--- Answer a body that is too large for nginx.
function gateway.too_large()
    return answers.refuse(refusals.too_large())
end

--- Tell whether nginx had a connection, handshake included, to the last node that it tried.
local function was_connected()
    local times = var.upstream_connect_time
    return times ~= nil and times:match("([^ ,:]+)$") ~= "-"
end

--- Answer where nginx got no answer: the node broke off, or none could be reached.
function gateway.failed()
    local request = requests.current()
    if not request or not request.model then
        return answers.refuse(refusals.failed())
    elseif request.node and was_connected() then
        return answers.refuse(refusals.node_failed(request.node))
    end
    if request.node then
        failing.mark(request.candidate.node)
        gateway.leave(request)
    end
    return answers.refuse(nobody(request.model))
end

return gateway
