--- Names of models, written in one way. The same rules as common/clusterai/models.py; tests/support/model_names.json checks both.
local names = {}

local find, lower, match, sub, byte = string.find, string.lower, string.match, string.sub, string.byte

local REGISTRY, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
local LONGEST, LONGEST_HOST, LONGEST_TEXT = 80, 349, 600
local COMPARED_NAMES, COMPARED_LENGTH, SHOWN = 500, 48, 3

local function is_part(text, longest)
    return #text <= longest and find(text, "^[a-z0-9_][a-z0-9_.-]*$") ~= nil
end

local function is_host(text)
    local host, port = match(text, "^(.-):(%d+)$")
    if host then
        return #port <= 5 and is_part(host, LONGEST_HOST)
    end
    return is_part(text, LONGEST_HOST)
end

local function short(host, namespace, model, tag)
    local name = model .. ":" .. tag
    if host ~= REGISTRY then
        return host .. "/" .. namespace .. "/" .. name
    end
    return namespace == NAMESPACE and name or namespace .. "/" .. name
end

--- Split at slashes: host, namespace, and the rest; nothing where there are more than three parts.
local function parts(text)
    local first, rest = match(text, "^([^/]*)/(.*)$")
    if not first then
        return REGISTRY, NAMESPACE, text
    end
    local second, third = match(rest, "^([^/]*)/([^/]*)$")
    if second then
        return first, second, third
    end
    if find(rest, "/", 1, true) then
        return nil
    end
    return REGISTRY, first, rest
end

--- Return the parts of a full name, each checked: host, namespace, model, tag; nothing when it is no name.
function names.split(text)
    if #text > LONGEST_TEXT then
        return nil
    end
    local host, namespace, last = parts(lower(text))
    if not host then
        return nil
    end
    local colon = find(last, ":", 1, true)
    local model, tag = last, TAG
    if colon then
        model, tag = sub(last, 1, colon - 1), sub(last, colon + 1)
    end
    if is_host(host) and is_part(namespace, LONGEST) and is_part(model, LONGEST) and is_part(tag, LONGEST) then
        return host, namespace, model, tag
    end
    return nil
end

--- Return the name as this cluster writes it, or nothing when it is none.
function names.normalised(text)
    local host, namespace, model, tag = names.split(text)
    return host and short(host, namespace, model, tag)
end

local row = {}

--- Levenshtein's distance, of at most COMPARED_LENGTH characters each.
local function distance(a, b)
    local width, height = math.min(#b, COMPARED_LENGTH), math.min(#a, COMPARED_LENGTH)
    for j = 0, width do
        row[j] = j
    end
    for i = 1, height do
        local diagonal, c = row[0], byte(a, i)
        row[0] = i
        for j = 1, width do
            local cost = c == byte(b, j) and diagonal or diagonal + 1
            diagonal = row[j]
            row[j] = math.min(cost, row[j] + 1, row[j - 1] + 1)
        end
    end
    return row[width]
end

local function ranked(text, candidate)
    local family = match(text, "^[^:]*")
    if sub(candidate, 1, #family) == family then
        return distance(text, candidate) / 8 -- other tags of the same model come first
    end
    return distance(text, candidate)
end

--- Return up to three of the list's names that are like the text, best first. Bounded work for any text and list.
function names.closest(text, list)
    text = lower(sub(text, 1, LONGEST_TEXT))
    local found = {}
    for i = 1, math.min(#list, COMPARED_NAMES) do
        local rank = ranked(text, list[i])
        if rank <= math.max(3, #text / 3) then
            found[#found + 1] = {rank = rank, name = list[i]}
        end
    end
    table.sort(found, function(a, b)
        return a.rank < b.rank or a.rank == b.rank and a.name < b.name
    end)
    local best = {}
    for i = 1, math.min(#found, SHOWN) do
        best[i] = found[i].name
    end
    return best
end

return names
