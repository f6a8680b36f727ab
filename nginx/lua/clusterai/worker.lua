--- What each nginx worker process does beside serving: look for new tables, tell the others its counts, hand over the log, probe
--- failing nodes.
local state = require "clusterai.state"
local busy = require "clusterai.busy"
local journal = require "clusterai.journal"
local failing = require "clusterai.failing"
local metrics = require "clusterai.metrics"

local worker = {}

local TICK_SECONDS, PROBE_SECONDS = 0.2, 1
local LEADER = 0 -- the worker that probes; nginx starts a new one of that number when it dies

local function tick(premature)
    metrics.flush()
    journal.flush()
    if premature then
        return busy.retire()
    end
    state.poll()
    busy.share()
    failing.refresh()
end

local function probe(premature)
    if not premature then
        failing.probe()
    end
end

--- Start this process's timers.
function worker.start()
    state.poll() -- a worker that takes a dead one's place begins with what was known when nginx started
    failing.refresh()
    assert(ngx.timer.every(TICK_SECONDS, tick))
    if ngx.worker.id() == LEADER then
        assert(ngx.timer.every(PROBE_SECONDS, probe))
    end
end

return worker
