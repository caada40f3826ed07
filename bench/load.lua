-- For wrk: `wrk -s load.lua URL -- FILE PREFIX`. FILE holds whole HTTP requests, each ended by a NUL. A request with the mark
-- @KEY@ is sent again and again, with a new idempotency key. All other requests are sent once.

local heads, tails, sent, prefix = {}, {}, 0, ""

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  for request in file:read("*a"):gmatch("[^%z]+") do
    local from, to = request:find("@KEY@", 1, true)
    heads[#heads + 1] = from and request:sub(1, from - 1) or request
    tails[#heads] = to and request:sub(to + 1) or false
  end
  prefix = arguments[2]
end

function request()
  local at = sent % #heads + 1
  sent = sent + 1
  if tails[at] then
    return heads[at] .. prefix .. sent .. tails[at]
  end
  if sent >= #heads then
    wrk.thread:stop()
  end
  return heads[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  ))
end
