--- What is going on: /status for programs and people, /metrics for Prometheus. On loopback only.
local cjson = require "cjson"
local state = require "clusterai.state"
local busy = require "clusterai.busy"
local failing = require "clusterai.failing"
local metrics = require "clusterai.metrics"

local status = {}

local function in_flight()
    local counts = {}
    busy.each(function(node, _, count)
        counts[node] = (counts[node] or 0) + count
    end)
    return counts
end

--- Answer the gateway's state as JSON.
function status.json()
    busy.share()
    local counts, nodes = in_flight(), {}
    for id, node in pairs(state.routes.nodes) do
        local since = failing.down[node.key]
        nodes[id] = {
            in_flight = counts[id] or 0, slots = node.slots, failing = since ~= nil,
            failing_since_unix_seconds = since, queued = math.max(0, (counts[id] or 0) - node.slots),
        }
    end
    ngx.header["Content-Type"] = "application/json"
    ngx.say(cjson.encode({
        routes = {generation = state.routes.generation, problem = state.problem("routes") or ""},
        keys = {generation = state.keys.generation, problem = state.problem("keys") or ""},
        nodes = nodes,
        models = #state.routes.names,
        workers = ngx.worker.count(),
    }))
end

local function labels(model, node, more)
    return string.format('{model="%s",node="%s"%s}', model, node, more or "")
end

local function line(name, selector, value)
    ngx.print("clusterai_gateway_", name, selector, " ", value, "\n")
end

local function head(name, kind, help)
    ngx.print("# HELP clusterai_gateway_", name, " ", help, "\n# TYPE clusterai_gateway_", name, " ", kind, "\n")
end

--- Sort the counters by their kind: requests, and for each histogram its buckets and sums by model and node.
local function sorted(rows)
    local requests, series = {}, {first_byte = {}, total = {}}
    for _, row in ipairs(rows) do
        local fields, value = row[1], row[2]
        local name, sum = fields[1]:gsub("_sum$", "")
        if name == "requests" then
            requests[#requests + 1] = {fields[2], fields[3], fields[4], value}
        elseif series[name] then
            local both = fields[2] .. "\t" .. fields[3]
            local one = series[name][both] or {model = fields[2], node = fields[3], buckets = {}, sum = 0}
            series[name][both] = one
            if sum == 1 then
                one.sum = value
            else
                one.buckets[fields[4]] = value
            end
        end
    end
    return requests, series
end

local function histogram(name, help, series, bounds)
    head(name, "histogram", help)
    for _, one in pairs(series) do
        local count = 0
        for _, bound in ipairs(bounds) do
            count = count + (one.buckets[tostring(bound)] or 0)
            line(name .. "_bucket", labels(one.model, one.node, ',le="' .. bound .. '"'), count)
        end
        count = count + (one.buckets["+Inf"] or 0)
        line(name .. "_bucket", labels(one.model, one.node, ',le="+Inf"'), count)
        line(name .. "_sum", labels(one.model, one.node), one.sum)
        line(name .. "_count", labels(one.model, one.node), count)
    end
end

local function gauges()
    head("in_flight", "gauge", "Requests that a node works on now.")
    busy.each(function(node, model, count)
        line("in_flight", labels(model, node), count)
    end)
    local counts = in_flight()
    head("queued", "gauge", "Requests of a node beyond its slots.")
    for id, node in pairs(state.routes.nodes) do
        line("queued", '{node="' .. id .. '"}', math.max(0, (counts[id] or 0) - node.slots))
    end
    head("node_failing", "gauge", "Whether a node does not answer the gateway.")
    for id, node in pairs(state.routes.nodes) do
        line("node_failing", '{node="' .. id .. '"}', failing.down[node.key] and 1 or 0)
    end
    head("generation", "gauge", "The generation of each table in use.")
    line("generation", '{table="routes"}', state.routes.generation)
    line("generation", '{table="keys"}', state.keys.generation)
end

--- Answer Prometheus.
function status.metrics()
    metrics.flush()
    busy.share()
    ngx.header["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
    local rows, bounds = metrics.all()
    local requests, series = sorted(rows)
    head("requests_total", "counter", "Requests that have ended, by model, node and status.")
    for _, row in ipairs(requests) do
        line("requests_total", labels(row[1], row[2], ',status="' .. row[3] .. '"'), row[4])
    end
    histogram("first_byte_seconds", "Time to the first byte of an answer.", series.first_byte, bounds)
    histogram("total_seconds", "Time to the end of an answer.", series.total, bounds)
    gauges()
end

return status
