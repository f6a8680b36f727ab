--- What browsers reach beside Open WebUI: the dashboard, for keys that open it.
local keys = require "clusterai.keys"

local web = {}

local function refuse(status, text)
    ngx.status = status
    ngx.header["Content-Type"] = "text/plain; charset=utf-8"
    if status == 401 then
        ngx.header["WWW-Authenticate"] = 'Basic realm="Cluster AI dashboard: any name, a dashboard key as password", charset="UTF-8"'
    end
    ngx.say(text)
    return ngx.exit(ngx.HTTP_OK)
end

--- Return the password of HTTP's Basic scheme.
local function password()
    local encoded = (ngx.var.http_authorization or ""):match("^[Bb]asic +(%S+)$")
    local decoded = encoded and ngx.decode_base64(encoded)
    return decoded and decoded:match("^[^:]*:(.*)$")
end

--- Tell whether a page of another site opened this connection with the browser's remembered password.
local function is_foreign()
    local origin = ngx.var.http_origin
    return origin ~= nil and origin:match("^https?://(.+)$") ~= ngx.var.http_host
end

--- Let in who shows a key that opens the dashboard.
function web.dashboard()
    local text = password()
    if not text then
        return refuse(401, "The dashboard needs a dashboard key: clusteractl key create NAME --dashboard")
    end
    local key, refusal = keys.find(text)
    if not key then
        return refuse(401, refusal.sentence)
    elseif not key.dashboard then
        return refuse(403, "This key is for models, not for the dashboard: clusteractl key create NAME --dashboard")
    elseif is_foreign() then
        return refuse(403, "Another site asked for the dashboard.")
    end
end

return web
