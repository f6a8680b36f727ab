--- Which node gets a request. Pure: what is known comes in, a node comes out.
local choose = {}

--- Tell whether candidate `a`, with so many requests in flight per slot, is better than `b`.
local function better(a, a_load, b, b_load)
    if a.loaded ~= b.loaded then
        return a.loaded
    elseif a_load ~= b_load then
        return a_load < b_load
    elseif a.fit ~= b.fit then
        return a.fit < b.fit
    end
    return a.id < b.id
end

--- Return the best candidate: loaded there, then fewest in flight per slot, then best fit, then the name.
--
-- @param candidates array of {id, key, loaded, fit, slots}
-- @param busy function of a node's id: its requests in flight
-- @param down set of keys of nodes that are marked as failing
-- @param tried set of ids that this request has tried already; may be nil
function choose.best(candidates, busy, down, tried)
    local best, best_load = nil, 0
    for i = 1, #candidates do
        local candidate = candidates[i]
        if not down[candidate.key] and not (tried and tried[candidate.id]) then
            local load = busy(candidate.id) / candidate.slots
            if not best or better(candidate, load, best, best_load) then
                best, best_load = candidate, load
            end
        end
    end
    return best
end

--- Return a node and why it is that one: "conversation", "only", "loaded" or "cold"; nothing when there is none.
--
-- The conversation's node is kept when it can answer at once, or when nobody else could do so sooner.
function choose.node(model, busy, down, previous)
    local kept = previous and model.by_id[previous]
    if kept and (down[kept.key] or not kept.loaded) then
        kept = nil
    elseif kept and busy(kept.id) < kept.slots then
        return kept, "conversation" -- nearly always: the others need no look
    end
    local best = choose.best(model.candidates, busy, down)
    if kept and not (best and best.loaded and busy(best.id) < best.slots) then
        return kept, "conversation"
    elseif not best then
        return nil
    elseif not model.candidates[2] then
        return best, best.loaded and "only" or "cold"
    end
    return best, best.loaded and "loaded" or "cold"
end

return choose
