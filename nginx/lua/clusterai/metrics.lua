--- Counters and histograms, by model, node and status. Counted in a table of this process, added to a shared dict now and then.
local metrics = {}

local shared = ngx.shared.metrics
local BOUNDS = {0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800} -- seconds
local SEPARATOR = "\t"
local pending = {}

local function add(key, amount)
    pending[key] = (pending[key] or 0) + amount
end

local function observe(name, labels, seconds)
    local bound = "+Inf"
    for i = 1, #BOUNDS do
        if seconds <= BOUNDS[i] then
            bound = BOUNDS[i]
            break
        end
    end
    add(name .. SEPARATOR .. labels .. SEPARATOR .. bound, 1)
    add(name .. "_sum" .. SEPARATOR .. labels, seconds)
end

--- Count a request that has ended. Model and node are empty for those that never got so far.
function metrics.count(model, node, status, first_byte, total)
    add("requests" .. SEPARATOR .. model .. SEPARATOR .. node .. SEPARATOR .. status, 1)
    if node ~= "" then
        local labels = model .. SEPARATOR .. node
        observe("total", labels, total)
        if first_byte then
            observe("first_byte", labels, first_byte)
        end
    end
end

--- Add what this process counted to the shared dict.
function metrics.flush()
    for key, amount in pairs(pending) do
        shared:incr(key, amount, 0)
        pending[key] = nil
    end
end

local function fields(key)
    local list = {}
    for part in (key .. SEPARATOR):gmatch("([^\t]*)\t") do
        list[#list + 1] = part
    end
    return list
end

--- Return all counters as {fields, value}, and the histograms' bounds.
function metrics.all()
    local rows = {}
    for _, key in ipairs(shared:get_keys(0)) do
        rows[#rows + 1] = {fields(key), shared:get(key) or 0}
    end
    return rows, BOUNDS
end

return metrics
