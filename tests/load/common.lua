-- Shared by the wrk scripts: requests, counters per thread, and the one line that tests/load/run
-- reads: "wrk requests=N errors=N broken=N tokens=N seconds=S p50_us=N p99_us=N".
local M = {}
local threads = {}

function M.setup(thread)
    thread:set("thread_id", #threads)
    table.insert(threads, thread)
end

-- args: tokens per answer, model name.
function M.init(args)
    M.max_tokens = tonumber(args[1] or 32)
    M.model = args[2] or ""
    wrk.headers["Content-Type"] = "application/json"
    sent, errors, broken, tokens = 0, 0, 0, 0
end

function M.request(stream)
    sent = sent + 1
    local body = string.format(
        '{"model":"%s","prompt":"%d %d tell me about paged attention","max_tokens":%d,' ..
        '"temperature":0,"ignore_eos":true%s}', M.model, sent, thread_id, M.max_tokens,
        stream and ',"stream":true,"stream_options":{"include_usage":true}' or "")
    return wrk.format("POST", "/v1/completions", nil, body)
end

function M.count(status, n, is_broken)
    if status ~= 200 then errors = errors + 1 end
    if is_broken then broken = broken + 1 end
    tokens = tokens + n
end

function M.done(summary, latency, requests)
    local errors, broken, tokens = 0, 0, 0
    for _, t in ipairs(threads) do
        errors = errors + (t:get("errors") or 0)
        broken = broken + (t:get("broken") or 0)
        tokens = tokens + (t:get("tokens") or 0)
    end
    local e = summary.errors
    errors = errors + e.connect + e.read + e.write + e.timeout
    io.write(string.format(
        "wrk requests=%d errors=%d broken=%d tokens=%d seconds=%.3f p50_us=%d p99_us=%d\n",
        summary.requests, errors, broken, tokens, summary.duration / 1e6,
        latency:percentile(50), latency:percentile(99)))
end

return M
