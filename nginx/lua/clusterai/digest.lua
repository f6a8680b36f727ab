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
local cast, TEXT = ffi.cast, ffi.typeof "const unsigned char *"
local PIECE = 64
local marks = ffi.new("uint32_t[3]")
local context = ffi.new("uint64_t[32]") -- SHA256_CTX is of 112 bytes

--- Return the 32 bytes of the text's SHA-256.
function digest.sha256(text)
    C.SHA256_Init(context)
    C.SHA256_Update(context, text, #text)
    C.SHA256_Final(out, context)
    return ffi.string(out, SIZE)
end

--- Return 12 bytes: hashes (MurmurHash2, for no secrets) of begin and end of what stands there, and its length.
function digest.mark(text, first, last)
    local at, length = cast(TEXT, text) + first - 1, last - first + 1
    local piece = length < PIECE and length or PIECE
    marks[0], marks[1], marks[2] = C.ngx_murmur_hash2(at, piece), C.ngx_murmur_hash2(at + length - piece, piece), length
    return ffi.string(marks, 12)
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
