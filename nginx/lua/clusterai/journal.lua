--- The access log's way to the journal: lines are gathered, and handed over several times a second, all in one piece.
--
-- nginx's own log is a system call for each line, and wakes the journal for each. This is a stream of lines as a service's standard
-- output is one, opened as sd_journal_stream_fd(3) does; each worker process has its own. The journal never holds up a request: what
-- it does not take at once waits, up to a limit, and what is beyond that is lost and counted. (libsystemd's own function would bring
-- that library, and what it needs, into every process that speaks with the network; nginx's sockets for Lua end with their request.)
local ffi = require "ffi"
local new_buffer = require("string.buffer").new

local journal = {}

ffi.cdef [[
    typedef struct { unsigned short family; char path[108]; } clusterai_address;
    int socket(int domain, int type, int protocol);
    int connect(int socket, const clusterai_address *address, unsigned int size);
    long write(int file, const void *bytes, size_t size);
    int close(int file);
    const char *memchr(const char *bytes, int byte, size_t size);
]]
local C = ffi.C
local AF_UNIX, STREAM = 1, 1 + 0x800 + 0x80000 -- SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC
local EAGAIN, NEWLINE = 11, 10
-- Our name; no unit, the journal knows it; priority "info"; lines have no priority of their own; the journal's own forwarding.
local HEAD = "clusterai_gateway\n\n6\n0\n0\n0\n0\n"
local PIECE, MOST = 32 * 1024, 1024 * 1024 -- bytes

local lines, scrap = new_buffer(2 * PIECE), new_buffer(1024)
local address, stream
local is_stuck, is_cut, lost = false, false, 0 -- it took no more just now; it has the beginning of a line; lines it never got

--- Return a socket that leads to the journal; nothing when there is no way.
local function connected()
    local socket = C.socket(AF_UNIX, STREAM, 0)
    if socket < 0 then
        return nil
    elseif C.connect(socket, address, ffi.sizeof(address)) ~= 0 or C.write(socket, HEAD, #HEAD) ~= #HEAD then
        C.close(socket)
        return nil
    end
    return socket
end

--- Forget the rest of a line whose beginning went to a stream that is no more.
local function mend()
    if is_cut then
        local bytes, size = lines:ref()
        lines:skip(C.memchr(bytes, NEWLINE, size) - ffi.cast("const char *", bytes) + 1)
        is_cut = false
    end
end

--- Write what there is; tell whether the journal took all of it.
local function write()
    local bytes, size = lines:ref()
    local taken = tonumber(C.write(stream, bytes, size))
    if taken <= 0 then
        if ffi.errno() ~= EAGAIN then
            C.close(stream)
            stream = nil
        end
        return false
    end
    is_cut = bytes[taken - 1] ~= NEWLINE
    lines:skip(taken)
    return taken == size
end

--- Hand over the lines that there are, as many as the journal takes now.
function journal.flush()
    if #lines == 0 then
        return
    elseif not stream then
        stream = connected()
        mend()
    end
    is_stuck = not stream or not write()
    if not is_stuck and lost > 0 then
        ngx.log(ngx.WARN, lost, " lines of the access log are lost: the journal did not take them")
        lost = 0
    end
end

--- Return the buffer that a line is put into, newline and all; `ended` is called when it is.
function journal.line()
    if #lines < MOST then
        return lines
    end
    lost = lost + 1
    return scrap:reset()
end

--- Hand over what has become much, and all of it in a process that only finishes its last streams: it has no timers any more.
function journal.ended()
    if #lines >= PIECE and not is_stuck or ngx.worker.exiting() then
        journal.flush()
    end
end

--- Use the journal's socket at this path, from this process. One that cannot be had now is looked for when there are lines.
function journal.start(path)
    address = ffi.new("clusterai_address", AF_UNIX, path)
    stream = connected()
end

return journal
