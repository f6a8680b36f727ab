--- Requests in flight, by node and model. Each worker process counts its own in a table; they tell each other in a shared dict.
--
-- A worker's counts live in the dict for SHARED_SECONDS after it last wrote them: one that dies takes them with it. One that only
-- finishes its last streams after a reload has no timers any more; it writes whenever a request ends (`leave`).
local busy = {}

local shared = ngx.shared.busy
local pid = ngx.worker.pid
local exiting = ngx.worker.exiting

local SHARED_SECONDS, LINGER_SECONDS = 1.5, 3600
local SEPARATOR, LINE = "\t", "([^\t\n]+)\t([^\t\n]+)\t(%d+)\n"

local own, own_pairs = {}, {} -- node -> count; node -> model -> count
local others, all_pairs = {}, {} -- of the other processes; of all of them

--- Return the requests in flight on a node, of all worker processes as far as is known.
function busy.of(node)
    return (own[node] or 0) + (others[node] or 0)
end

local function add(node, model, change)
    local models = own_pairs[node]
    if not models then
        models = {}
        own_pairs[node] = models
    end
    own[node] = (own[node] or 0) + change
    models[model] = (models[model] or 0) + change
end

--- Count a request that goes to the node.
function busy.enter(node, model)
    add(node, model, 1)
end

local function publish(seconds)
    local lines = {}
    for node, models in pairs(own_pairs) do
        for model, count in pairs(models) do
            if count > 0 then
                lines[#lines + 1] = node .. SEPARATOR .. model .. SEPARATOR .. count .. "\n"
            else
                models[model] = nil
            end
        end
    end
    if #lines == 0 then
        shared:delete(pid())
    else
        shared:set(pid(), table.concat(lines), seconds)
    end
end

--- Count a request that has ended.
function busy.leave(node, model)
    add(node, model, -1)
    if exiting() then
        publish(LINGER_SECONDS)
    end
end

local function gather()
    local me, sums, both_sums = tostring(pid()), {}, {}
    for _, process in ipairs(shared:get_keys(0)) do
        for node, model, count in (shared:get(process) or ""):gmatch(LINE) do
            local both = node .. SEPARATOR .. model
            both_sums[both] = (both_sums[both] or 0) + count
            if process ~= me then
                sums[node] = (sums[node] or 0) + count
            end
        end
    end
    others, all_pairs = sums, both_sums
end

--- Tell the other processes what this one counts, and hear what they do.
function busy.share()
    publish(SHARED_SECONDS)
    gather()
end

--- Leave the last counts for the others: this process has no timers any more.
function busy.retire()
    publish(LINGER_SECONDS)
end

--- Call the function with node, model and count of all that is in flight.
function busy.each(visit)
    for both, count in pairs(all_pairs) do
        local node, model = both:match("^(.-)\t(.*)$")
        visit(node, model, count)
    end
end

return busy
