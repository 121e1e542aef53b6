"""What others do with the same card in the same minute: PyTorch's matrix product and attention on
the shapes of bench_gpu, timed in the same way, and transformers' generate on the random model of
1B parameters. One JSON object a line; an item that cannot run says why.

Usage: peers.py [MODEL]. Needs the PyPI packages torch and, for MODEL, transformers. Exit status 3:
there is no torch, or it sees no GPU.
"""
import json
import statistics
import sys
import time

LAUNCHES, REPLAYS = 20, 30
COLD_BYTES = 192 << 20
SHAPES = ((4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (128256, 4096))


def say(line, name, **what):
    print(json.dumps({"peer": True, "line": line, "name": name, **what}), flush=True)


def timed(torch, run, launches=LAUNCHES, replays=REPLAYS):
    """(median, least, most) us of one launch: run(0) .. run(launches-1) in a replayed graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(launches):
            run(i)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(launches):
                run(i)
        graph.replay()
        torch.cuda.synchronize()
        times = []
        for _ in range(replays):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(1e3 * begin.elapsed_time(end) / launches)
    return statistics.median(times), min(times), max(times)


def figures(us, flops, size):
    median, least, most = us
    return {"us_median": round(median, 3), "us_min": round(least, 3), "us_max": round(most, 3),
            "gb_s": round(size / median * 1e-3, 1), "tflop_s": round(flops / median * 1e-6, 2)}


def matmul(torch, m, n, k):
    copies = max(1, min(LAUNCHES, -(-COLD_BYTES // (2 * n * k))))
    w = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    flops, size = 2 * m * n * k, 2 * (n * k + m * k + m * n)
    launches = LAUNCHES if flops < 1e11 else 4
    us = timed(torch, lambda i: torch.mm(a, w[i % copies].t(), out=out), launches,
               REPLAYS if flops < 1e12 else 8)
    say("G6", f"torch.mm bf16 M={m} {n}x{k}", **figures(us, flops, size))


def attention(torch, line, name, batch, rows, length, causal):
    """Keys and values lie contiguous, as PyTorch wants them; 32 query heads, 8 of keys."""
    shape = dict(device="cuda", dtype=torch.bfloat16)
    q = torch.randn(batch, 32, rows, 128, **shape)
    k, v = (torch.randn(batch, 8, length, 128, **shape) for _ in range(2))
    call = torch.nn.functional.scaled_dot_product_attention
    pairs = rows * length - (rows * (rows - 1) // 2 if causal else 0)
    flops, size = 4 * 32 * 128 * batch * pairs, 4 * 8 * 128 * batch * length
    launches, replays = (2, 10) if rows > 1 else (LAUNCHES, REPLAYS)
    us = timed(torch, lambda i: call(q, k, v, is_causal=causal, enable_gqa=True), launches, replays)
    say(line, f"torch SDPA {name}", **figures(us, flops, size))


def generate(torch, folder):
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa").to("cuda").eval()
    for batch, length, new in ((1, 448, 128), (16, 128, 128), (64, 128, 128)):
        ids = torch.randint(3, 3000, (batch, length), device="cuda")
        how = dict(attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=None,
                   pad_token_id=0)
        with torch.inference_mode():
            model.generate(ids, max_new_tokens=4, min_new_tokens=4, **how)
            torch.cuda.synchronize()
            start = time.time()
            model.generate(ids, max_new_tokens=new, min_new_tokens=new, **how)
            torch.cuda.synchronize()
        seconds = time.time() - start
        say("G11", f"transformers generate 1b B={batch} {length}/{new}",
            tokens_per_s=round(batch * new / seconds, 1),
            us_per_token=round(1e6 * seconds / new, 1))


def attempt(line, name, call, *args):
    try:
        call(*args)
    except Exception as e:
        say(line, name, failed=f"{type(e).__name__}: {e}"[:300])


def main():
    try:
        import torch
    except ImportError as e:
        print(f"no PyTorch: {e}")
        return 3
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU")
        return 3
    say("", "versions", torch=torch.__version__, gpu=torch.cuda.get_device_name())
    for n, k in SHAPES:
        for m in (1, 16, 4096):
            attempt("G6", f"torch.mm M={m} {n}x{k}", matmul, torch, m, n, k)
    attempt("G0", "torch.mm 8192^3", matmul, torch, 8192, 8192, 8192)
    for line, name, batch, rows, length in (
            ("G1", "prefill causal 2k", 1, 2048, 2048), ("G1", "prefill causal 16k", 1, 16384, 16384),
            ("G3", "decode B=32 4k", 32, 1, 4096), ("G4", "decode B=1 64k", 1, 1, 65536)):
        attempt(line, "torch SDPA " + name, attention, torch, line, name, batch, rows, length,
                rows > 1)
    torch.cuda.empty_cache()
    if len(sys.argv) > 1:
        attempt("G11", "transformers generate", generate, torch, sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
