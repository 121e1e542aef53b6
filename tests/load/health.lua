-- GET /health: the front end's floor.
local common = dofile("tests/load/common.lua")

function init(args)
    common.init(args)
    wrk.headers["Content-Type"] = nil
end

function request()
    return wrk.format("GET", "/health")
end

function response(status)
    common.count(status, 0)
end

setup = common.setup
done = common.done
