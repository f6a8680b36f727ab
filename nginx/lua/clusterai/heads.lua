--- What the gateway wants of a request's head: its path, who asks from where, and in which conversation.
--
-- nginx makes one variable of it, since from Lua each costs some 600 instructions; and what that holds is taken apart once for all
-- requests that have the same, which saves another thousand.
local requests = require "clusterai.requests"

local heads = {}

local var, find, sub = ngx.var, string.find, string.sub
local MOST_KEPT = 1000
local kept, kept_count = {}, 0

local function taken_apart(text)
    local path_end = find(text, "\n", 1, true)
    local client_end = find(text, "\n", path_end + 1, true)
    local authorization_end = find(text, "\n", client_end + 1, true)
    local path = sub(text, 1, path_end - 1)
    return {
        text = text, path = path, client = sub(text, path_end + 1, client_end - 1),
        is_plain = requests.paths[path] ~= nil, -- one of our own paths, without arguments and in no other spelling
        authorization = sub(text, client_end + 1, authorization_end - 1), conversation = sub(text, authorization_end + 1),
    }
end

--- Return the current request's head: {path, client, is_plain, authorization, conversation}, texts that may be empty.
function heads.current()
    local text = var.head
    return kept[text] or taken_apart(text)
end

--- Remember the head of somebody who may ask: the same will come again, unless it names a conversation.
function heads.keep(head)
    if head.conversation == "" and not kept[head.text] then
        if kept_count >= MOST_KEPT then
            kept, kept_count = {}, 0
        end
        kept[head.text], kept_count = head, kept_count + 1
    end
end

return heads
