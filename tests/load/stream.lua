-- POST /v1/completions, streaming. Each answer is parsed as server-sent events: it must hold at
-- least one event with text, a usage event and the final [DONE]; tokens are counted from usage.
local common = dofile("tests/load/common.lua")

function init(args)
    common.init(args)
end

function request()
    return common.request(true)
end

local function parse(body)
    local events, tokens, finished, failed = 0, 0, false, false
    for data in body:gmatch("data: ?([^\n]*)\n") do
        if data == "[DONE]" then
            finished = true
        else
            if data:find('"error":', 1, true) then failed = true end
            if data:find('"text":', 1, true) then events = events + 1 end
            tokens = tonumber(data:match('"completion_tokens":%s*(%d+)')) or tokens
        end
    end
    return finished and not failed and events > 0 and tokens > 0, tokens
end

function response(status, headers, body)
    local good, tokens = parse(body)
    common.count(status, tokens, status == 200 and not good)
end

setup = common.setup
done = common.done
