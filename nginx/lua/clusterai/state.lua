--- What this worker process knows: the routes and keys of the files that the daemon writes.
local tables = require "clusterai.tables"
local files = require "clusterai.files"

local state = {}

local LARGEST = 64 * 1024 * 1024 -- bytes
local directory, watched

local function take(file)
    local size, version = files.look(file.path)
    if version == file.version then
        return
    end
    file.version = version
    if not size then
        file.problem = "it is not there"
        ngx.log(ngx.WARN, file.path, ": ", file.problem, "; the table stays as it was")
        return
    end
    local text, why
    if size <= LARGEST then
        text, why = files.read(file.path)
    end
    if text and text == file.text then
        file.problem = nil
        return
    end
    local compiled
    if text then
        compiled, why = file.compile(text)
    end
    if not compiled then
        file.problem = why or "it is too large"
        ngx.log(ngx.WARN, file.path, " is refused: ", file.problem, "; the table stays as it was")
        return
    end
    file.text, file.problem = text, nil
    state[file.name] = compiled
end

--- Read both files, before the first request. Later calls of `poll` take what is new.
function state.start(path)
    directory = path
    state.routes, state.keys = tables.nothing()
    watched = {
        {name = "routes", path = path .. "/routes.json", compile = tables.routes, version = false},
        {name = "keys", path = path .. "/keys.json", compile = tables.keys, version = false},
    }
    state.poll()
end

--- Take the files that were replaced since the last call. A file that cannot be used is refused, and the old table stays.
function state.poll()
    take(watched[1])
    take(watched[2])
end

--- Return the path of a file in the gateway's directory.
function state.path(name)
    return directory .. "/" .. name
end

--- Return what is wrong with the file of that name ("routes", "keys"); nothing when all is well.
function state.problem(name)
    for _, file in ipairs(watched) do
        if file.name == name then
            return file.problem
        end
    end
end

return state
