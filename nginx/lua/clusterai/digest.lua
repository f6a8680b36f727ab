--- SHA-256, by the libcrypto that nginx itself is linked with.
local ffi = require "ffi"

local digest = {}

ffi.cdef [[ unsigned char *SHA256(const unsigned char *, size_t, unsigned char *); ]]
local C = ffi.C
local SIZE = 32
local out = ffi.new("unsigned char[?]", SIZE)

--- Return the 32 bytes of the text's SHA-256.
function digest.sha256(text)
    C.SHA256(text, #text, out)
    return ffi.string(out, SIZE)
end

--- Return the bytes that a text in hexadecimal stands for; nothing when it is none of 64 digits.
function digest.from_hex(text)
    if type(text) ~= "string" or #text ~= 2 * SIZE or text:find("[^0-9a-f]") then
        return nil
    end
    return (text:gsub("..", function(pair)
        return string.char(tonumber(pair, 16))
    end))
end

return digest
