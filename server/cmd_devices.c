/* pagoda devices: what --device can name here, and why something cannot be used. */
#include <stdio.h>

#include "kernels/device.h"
#include "server/cmd.h"

int cmd_devices(const conf *c) {
    strbuf out = {0};
    device_list(&out, c->json);
    bool ok = fwrite(out.p, 1, out.n, stdout) == out.n;
    strbuf_done(&out);
    return ok ? 0 : 1;
}
