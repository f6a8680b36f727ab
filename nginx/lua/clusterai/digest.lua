--- SHA-256, by the libcrypto that nginx itself is linked with, and nginx's own hash of a text.
local ffi = require "ffi"

local digest = {}

-- The one-shot SHA256() of OpenSSL 3 looks its implementation up at every call; these do not.
ffi.cdef [[
int SHA256_Init(void *);
int SHA256_Update(void *, const void *, size_t);
int SHA256_Final(unsigned char *, void *);
uint32_t ngx_murmur_hash2(const unsigned char *, size_t); // a third of zlib's CRC-32 in instructions
]]
local C = ffi.C
local SIZE = 32
local out = ffi.new("unsigned char[?]", SIZE)
local pair = ffi.new("uint32_t[2]")
local context = ffi.new("uint64_t[32]") -- SHA256_CTX is of 112 bytes

--- Return the 32 bytes of the text's SHA-256.
function digest.sha256(text)
    C.SHA256_Init(context)
    C.SHA256_Update(context, text, #text)
    C.SHA256_Final(out, context)
    return ffi.string(out, SIZE)
end

--- Return 8 bytes: the text's hash (MurmurHash2, for no secrets), and the number.
function digest.mark(text, number)
    pair[0], pair[1] = C.ngx_murmur_hash2(text, #text), number
    return ffi.string(pair, 8)
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
