-- POST /v1/completions, whole answers. Prompts differ from the first word on, so that a prefix
-- cache does not answer for the engine. Counts tokens by "completion_tokens".
local common = dofile("tests/load/common.lua")

function init(args)
    common.init(args)
end

function request()
    return common.request(false)
end

function response(status, headers, body)
    common.count(status, tonumber(body:match('"completion_tokens":%s*(%d+)') or 0))
end

setup = common.setup
done = common.done
