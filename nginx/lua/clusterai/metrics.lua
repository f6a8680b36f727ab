--- Counters and histograms, by model, node and status. Counted in a table of this process, added to a shared dict now and then.
local metrics = {}

local shared = ngx.shared.metrics
local BOUNDS = {0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800} -- seconds
local LARGEST = math.huge
local SEPARATOR = "\t"
local pending = {} -- model -> node -> {statuses, first_byte, total}

local function new_series()
    return {statuses = {}, first_byte = {}, first_byte_sum = 0, total = {}, total_sum = 0}
end

local function series_of(model, node)
    local nodes = pending[model]
    if not nodes then
        nodes = {}
        pending[model] = nodes
    end
    local series = nodes[node]
    if not series then
        series = new_series()
        nodes[node] = series
    end
    return series
end

--- Return the number of the bucket that the seconds belong to; the one behind the last bound is for all above.
-- It halves what is left, by hand: a loop would end the compiler's trace of its callers.
local function bucket(seconds)
    local below = seconds > BOUNDS[7] and 7 or 0
    below = seconds > BOUNDS[below + 4] and below + 4 or below
    below = seconds > BOUNDS[below + 2] and below + 2 or below
    return seconds > (BOUNDS[below + 1] or LARGEST) and below + 2 or below + 1
end
metrics.bucket = bucket

--- Count a request that has ended. Model and node are empty for those that never got so far.
-- `first_byte` is in milliseconds, nothing where there was none; `total` in seconds.
function metrics.count(model, node, status, first_byte, total)
    local series = series_of(model, node)
    series.statuses[status] = (series.statuses[status] or 0) + 1
    if node == "" then
        return
    end
    local at = bucket(total)
    series.total[at] = (series.total[at] or 0) + 1
    series.total_sum = series.total_sum + total
    if first_byte then
        first_byte = first_byte / 1000
        at = bucket(first_byte)
        series.first_byte[at] = (series.first_byte[at] or 0) + 1
        series.first_byte_sum = series.first_byte_sum + first_byte
    end
end

local function add(labels, kind, name, amount)
    shared:incr(kind .. SEPARATOR .. labels .. SEPARATOR .. name, amount, 0)
end

local function add_series(labels, series)
    for status, count in pairs(series.statuses) do
        add(labels, "requests", status, count)
    end
    for _, kind in ipairs({"first_byte", "total"}) do
        local counted = false
        for at, count in pairs(series[kind]) do
            add(labels, kind, tostring(BOUNDS[at] or "+Inf"), count)
            counted = true
        end
        if counted then
            add(labels, kind .. "_sum", "", series[kind .. "_sum"])
        end
    end
end

--- Add what this process counted to the shared dict.
function metrics.flush()
    for model, nodes in pairs(pending) do
        for node, series in pairs(nodes) do
            add_series(model .. SEPARATOR .. node, series)
        end
    end
    pending = {}
end

local function fields(key)
    local list = {}
    for part in (key .. SEPARATOR):gmatch("([^\t]*)\t") do
        list[#list + 1] = part
    end
    return list
end

--- Return all counters as {fields, value}, and the histograms' bounds. Fields: kind, model, node, status or bound.
function metrics.all()
    local rows = {}
    for _, key in ipairs(shared:get_keys(0)) do
        rows[#rows + 1] = {fields(key), shared:get(key) or 0}
    end
    return rows, BOUNDS
end

return metrics
