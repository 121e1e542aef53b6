"""The forward pass of model families that transformers does not implement, written down from their published facts.

Each function takes (c, t, ids, n_prompt, total) - the object of config.json, the tensors by their names in the
checkpoint (f32), the token ids, how many of them are the prompt, and the length that length-dependent rope is fixed
for - and returns logits [len(ids), vocab]. Everything is computed at once, without a cache: each row sees what a step
by step computation with a consistent cache would see. Needs the PyPI package torch. README.md says which of these
were run beside the families' own code.
"""

import math

import torch
import torch.nn.functional as F


# ---- pieces ---------------------------------------------------------------------------------------

def rms(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def layer_norm(x, t, name, eps):
    d = x - x.mean(-1, keepdim=True)
    return d * torch.rsqrt(d.square().mean(-1, keepdim=True) + eps) * t[name + ".weight"] + t[name + ".bias"]


def linear(x, t, name):
    y = x @ t[name + ".weight"].T
    return y + t[name + ".bias"] if name + ".bias" in t else y


def frequencies(dim, base):
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def dynamic_base(base, dim, factor, length, limit):
    """Dynamic NTK: the base of a sequence of `length` tokens of a model trained on `limit`."""
    return base * (factor * max(length, limit) / limit - (factor - 1)) ** (dim / (dim - 2))


def rotate_half(x, pos, freq):
    """x [T, heads, d]: pairs (j, j + n) of the first 2n dimensions, n = len(freq)."""
    n = len(freq)
    angle = torch.outer(pos.float(), freq)[:, None, :]
    a, b = x[..., :n], x[..., n:2 * n]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), x[..., 2 * n:]), -1)


def rotate_pairs(x, pos, freq):
    """x [T, heads, d]: pairs (2j, 2j + 1) of the first 2n dimensions."""
    n = len(freq)
    angle = torch.outer(pos.float(), freq)[:, None, :]
    a, b = x[..., 0:2 * n:2], x[..., 1:2 * n:2]
    turned = torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1).flatten(-2)
    return torch.cat((turned, x[..., 2 * n:]), -1)


def attention(q, k, v, scale, prefix=0, slopes=None):
    """q [T, H, d], k and v [T, G, d]; positions below `prefix` see each other, the rest is causal; -> [T, H * d]."""
    n, heads, _ = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    row, col = torch.arange(n)[:, None], torch.arange(n)[None, :]
    if slopes is not None:
        scores = scores - slopes[:, None, None] * (row - col).abs()
    scores = scores.masked_fill(~((col <= row) | ((row < prefix) & (col < prefix))), float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)


def alibi_slopes(heads):
    """The geometric row of the largest power of two of heads; the rest every second one of twice as many."""
    full = 2 ** int(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / full) for i in range(full)]
    return torch.tensor(first + [2 ** (-4 * (2 * i + 1) / full) for i in range(heads - full)])


def heads_of(x, n):
    return x.unflatten(-1, (n, -1))


def gated(x, t, gate, up, down):
    return linear(F.silu(linear(x, t, gate)) * linear(x, t, up), t, down)


def positions(ids):
    return torch.arange(len(ids))


# ---- families -------------------------------------------------------------------------------------

def llama_like(c, t, ids, attend, mlp, branch=1.0):
    """The skeleton of several: x += attend(norm(x)); x += mlp(norm(x))."""
    eps = c.get("rms_norm_eps", 1e-6)
    x = t["model.embed_tokens.weight"][ids] * c.get("scale_emb", 1)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        x = x + branch * attend(p, rms(x, t[p + "input_layernorm.weight"], eps))
        x = x + branch * mlp(i, p + "mlp.", rms(x, t[p + "post_attention_layernorm.weight"], eps))
    return rms(x, t["model.norm.weight"], eps)


def silu_mlp(t, names=("gate_proj", "up_proj", "down_proj")):
    return lambda i, p, x: gated(x, t, *(p + name for name in names))


def separate_qkv(c, t, ids, freq):
    """q_proj, k_proj, v_proj and o_proj, each with a bias where the file has one; rotated by halves."""
    n, g = c["num_attention_heads"], c.get("num_key_value_heads", c["num_attention_heads"])

    def attend(p, x):
        q, k, v = (heads_of(linear(x, t, p + f"self_attn.{m}_proj"), h) for m, h in (("q", n), ("k", g), ("v", g)))
        q, k = (rotate_half(y, positions(ids), freq) for y in (q, k))
        return linear(attention(q, k, v, q.shape[-1] ** -0.5), t, p + "self_attn.o_proj")
    return attend


def head_dim(c):
    return c["hidden_size"] // c["num_attention_heads"]


def scaled_base(c, base, total):
    """rope_scaling of type dynamic; others are not among these checkpoints."""
    s = c.get("rope_scaling")
    assert s is None or s["type"] == "dynamic"
    return dynamic_base(base, head_dim(c), s["factor"], total, c["max_position_embeddings"]) if s else base


def llama(c, t, ids, n_prompt, total):
    """Yi, Aquila, XVERSE: LLaMA under another name."""
    freq = frequencies(head_dim(c), scaled_base(c, c.get("rope_theta", 10000.0), total))
    return linear(llama_like(c, t, ids, separate_qkv(c, t, ids, freq), silu_mlp(t)), t, "lm_head")


def yi_first(c, t, ids, n_prompt, total):
    """Yi as first published: the norms of a layer are ln1 and ln2."""
    names = (("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm"))
    t = {next((k.replace(a, b) for a, b in names if f".{a}." in k), k): v for k, v in t.items()}
    return llama(c, t, ids, n_prompt, total)


def internlm(c, t, ids, n_prompt, total):
    """LLaMA with biases on q, k, v and o; its own place for the rope's base and dynamic scaling."""
    rotary = c.get("rotary", {"type": "origin", "base": 10000})
    base = rotary["base"]
    if rotary["type"] == "dynamic":
        base = dynamic_base(base, head_dim(c), rotary.get("scaling_factor", 1.0), total, c["max_position_embeddings"])
    freq = frequencies(head_dim(c), base)
    return linear(llama_like(c, t, ids, separate_qkv(c, t, ids, freq), silu_mlp(t)), t, "lm_head")


def internlm2(c, t, ids, n_prompt, total):
    """wqkv holds, for each kv head, its group's query heads, then its key and its value head."""
    heads, groups, eps = c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"]
    freq = frequencies(head_dim(c), scaled_base(c, c["rope_theta"], total))
    x = t["model.tok_embeddings.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        y = linear(rms(x, t[p + "attention_norm.weight"], eps), t, p + "attention.wqkv")
        y = y.view(len(ids), groups, heads // groups + 2, head_dim(c))
        q, k, v = y[:, :, :-2].flatten(1, 2), y[:, :, -2], y[:, :, -1]
        q, k = (rotate_half(z, positions(ids), freq) for z in (q, k))
        x = x + linear(attention(q, k, v, head_dim(c) ** -0.5), t, p + "attention.wo")
        f = p + "feed_forward."
        x = x + gated(rms(x, t[p + "ffn_norm.weight"], eps), t, f + "w1", f + "w3", f + "w2")
    return linear(rms(x, t["model.norm.weight"], eps), t, "output")


def baichuan(c, t, ids, n_prompt, total):
    """W_pack is q above k above v. 7B rotates, 13B has ALiBi; version 2 has unit rows in the head."""
    heads = c["num_attention_heads"]
    rotates = "max_position_embeddings" in c
    freq, slopes = frequencies(head_dim(c), 10000.0), alibi_slopes(heads)

    def attend(p, x):
        q, k, v = (heads_of(y, heads) for y in linear(x, t, p + "self_attn.W_pack").chunk(3, -1))
        if rotates:
            q, k = (rotate_half(y, positions(ids), freq) for y in (q, k))
        y = attention(q, k, v, head_dim(c) ** -0.5, slopes=None if rotates else slopes)
        return linear(y, t, p + "self_attn.o_proj")
    head = t["lm_head.weight"]
    if "z_loss_weight" in c:
        head = head / head.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return llama_like(c, t, ids, attend, silu_mlp(t)) @ head.T


def qwen(c, t, ids, n_prompt, total):
    """NTK scaling chosen by the prompt's length, log-length scaling of late queries, gate in w2."""
    heads, eps, trained = c["num_attention_heads"], c["layer_norm_epsilon"], c["seq_length"]
    d, alpha = c["kv_channels"], 1
    if c["use_dynamic_ntk"]:
        doublings = 0
        while trained << doublings < n_prompt:
            doublings += 1
        alpha = max(1, 2 ** (doublings + 1) - 1) if n_prompt > trained else 1
    rd = int(d * c["rotary_pct"])
    freq = frequencies(rd, c["rotary_emb_base"] * alpha ** (rd / (rd - 2)))
    stretch = torch.tensor([max(1.0, math.log(p + 1) / math.log(trained)) for p in range(len(ids))])
    x = t["transformer.wte.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"transformer.h.{i}."
        y = linear(rms(x, t[p + "ln_1.weight"], eps), t, p + "attn.c_attn")
        q, k, v = (heads_of(z, heads) for z in y.chunk(3, -1))
        q, k = (rotate_half(z, positions(ids), freq) for z in (q, k))
        if c["use_logn_attn"]:
            q = q * stretch[:, None, None]
        x = x + linear(attention(q, k, v, d ** -0.5), t, p + "attn.c_proj")
        x = x + gated(rms(x, t[p + "ln_2.weight"], eps), t, p + "mlp.w2", p + "mlp.w1", p + "mlp.c_proj")
    return linear(rms(x, t["transformer.ln_f.weight"], eps), t, "lm_head")


def chatglm_6b(c, t, ids, n_prompt, total):
    """The prompt less its last token is seen from everywhere; two positions, each turning one half of every head;
    the normed value is the residual, times sqrt(2 L)."""
    heads, eps, n = c["num_attention_heads"], c["layernorm_epsilon"], len(ids)
    half = head_dim(c) // 2
    freq = frequencies(half, 10000.0).half().float()
    context = n_prompt - 1
    first = torch.arange(n).clamp(max=context - 1)
    second = (torch.arange(n) - context + 1).clamp(min=0)
    alpha = (2 * c["num_layers"]) ** 0.5
    x = t["transformer.word_embeddings.weight"][ids]
    for i in range(c["num_layers"]):
        p = f"transformer.layers.{i}."
        a = layer_norm(x, t, p + "input_layernorm", eps)
        q, k, v = heads_of(linear(a, t, p + "attention.query_key_value"), heads).chunk(3, -1)
        q, k = (torch.cat((rotate_half(z[..., :half], first, freq), rotate_half(z[..., half:], second, freq)), -1)
                for z in (q, k))
        y = linear(attention(q, k, v, head_dim(c) ** -0.5, prefix=context), t, p + "attention.dense")
        m = layer_norm(alpha * a + y, t, p + "post_attention_layernorm", eps)
        h = F.gelu(linear(m, t, p + "mlp.dense_h_to_4h"), approximate="tanh")
        x = alpha * m + linear(h, t, p + "mlp.dense_4h_to_h")
    return linear(layer_norm(x, t, "transformer.final_layernorm", eps), t, "lm_head")


def chatglm2(c, t, ids, n_prompt, total):
    """ChatGLM2, ChatGLM3, CodeGeeX2 and GLM-4 as first published; most of it switched by flags."""
    heads, d, ff, eps = c["num_attention_heads"], c["kv_channels"], c["ffn_hidden_size"], c["layernorm_epsilon"]
    stretched = c.get("_name_or_path", "").endswith("chatglm2-6b-32k")  # there rope_ratio divides the positions
    ratio = c.get("rope_ratio", 1)
    freq = frequencies(d // 2, 10000.0 * (1 if stretched else ratio))
    pos = positions(ids) / (ratio if stretched else 1)

    def norm(x, name):
        return rms(x, t[name + ".weight"], eps) if c["rmsnorm"] else layer_norm(x, t, name, eps)

    def split(y):
        if not c["multi_query_attention"]:
            return heads_of(y, heads).chunk(3, -1)
        g = c["multi_query_group_num"]
        q, k, v = y.split((heads * d, g * d, g * d), -1)
        return heads_of(q, heads), heads_of(k, g), heads_of(v, g)
    x = t["transformer.embedding.word_embeddings.weight"][ids]
    for i in range(c["num_layers"]):
        p = f"transformer.encoder.layers.{i}."
        a = norm(x, p + "input_layernorm")
        q, k, v = split(linear(a, t, p + "self_attention.query_key_value"))
        q, k = (rotate_pairs(z, pos, freq) for z in (q, k))
        y = linear(attention(q, k, v, d ** -0.5), t, p + "self_attention.dense")
        x = y + (a if c["apply_residual_connection_post_layernorm"] else x)
        m = norm(x, p + "post_attention_layernorm")
        y = linear(m, t, p + "mlp.dense_h_to_4h")
        y = linear(F.silu(y[:, :ff]) * y[:, ff:], t, p + "mlp.dense_4h_to_h")
        x = y + (m if c["apply_residual_connection_post_layernorm"] else x)
    if c["post_layer_norm"]:
        x = norm(x, "transformer.encoder.final_layernorm")
    return linear(x, t, "transformer.output_layer")


def moss(c, t, ids, n_prompt, total):
    """qkv_proj holds four parts of a quarter of the heads each: query, value, key. One norm feeds both branches."""
    heads, d, eps = c["n_head"], c["n_embd"] // c["n_head"], c["layer_norm_epsilon"]
    freq = frequencies(c["rotary_dim"], 10000.0)
    x = t["transformer.wte.weight"][ids]
    for i in range(c["n_layer"]):
        p = f"transformer.h.{i}."
        a = layer_norm(x, t, p + "ln_1", eps)
        parts = linear(a, t, p + "attn.qkv_proj").view(len(ids), 4, 3, heads // 4, d)
        q, v, k = (parts[:, :, j].flatten(1, 2) for j in range(3))
        q, k = (rotate_pairs(z, positions(ids), freq) for z in (q, k))
        y = linear(attention(q, k, v, d ** -0.5), t, p + "attn.out_proj")
        h = F.gelu(linear(a, t, p + "mlp.fc_in"), approximate="tanh")
        x = x + y + linear(h, t, p + "mlp.fc_out")
    return linear(layer_norm(x, t, "transformer.ln_f", eps), t, "lm_head")


def minicpm(c, t, ids, n_prompt, total):
    """LLaMA with scaled embeddings, branches and head; the head is the embedding unless said otherwise."""
    freq = frequencies(head_dim(c), scaled_base(c, c.get("rope_theta", 10000.0), total))
    branch = c["scale_depth"] / math.sqrt(c["num_hidden_layers"])
    expert = silu_mlp(t, ("w1", "w3", "w2"))

    def experts(i, p, x):
        weights, chosen = linear(x, t, p + "gate").softmax(-1).topk(c["num_experts_per_tok"], -1)
        weights = weights / weights.sum(-1, keepdim=True)
        return torch.stack([sum(w * expert(i, p + f"experts.{e}.", x[row])
                                for w, e in zip(weights[row], chosen[row].tolist())) for row in range(len(x))])
    mlp = experts if c.get("num_experts") else silu_mlp(t)
    x = llama_like(c, t, ids, separate_qkv(c, t, ids, freq), mlp, branch)
    head = t["model.embed_tokens.weight"] if c.get("tie_word_embeddings", True) else t["lm_head.weight"]
    return x / (c["hidden_size"] / c["dim_model_base"]) @ head.T


def deepseek(c, t, ids, n_prompt, total):
    """LLaMA's attention; after the first dense layers a mixture of experts beside shared ones."""
    freq = frequencies(head_dim(c), scaled_base(c, c.get("rope_theta", 10000.0), total))
    dense = silu_mlp(t)

    def mlp(i, p, x):
        if i < c["first_k_dense_replace"] or i % c["moe_layer_freq"]:
            return dense(i, p, x)
        weights, chosen = linear(x, t, p + "gate").softmax(-1).topk(c["num_experts_per_tok"], -1)
        if c["norm_topk_prob"]:
            weights = weights / weights.sum(-1, keepdim=True)
        out = dense(i, p + "shared_experts.", x) if c["n_shared_experts"] else torch.zeros_like(x)
        for row in range(len(x)):
            for w, e in zip(weights[row], chosen[row].tolist()):
                out[row] += w * dense(i, p + f"experts.{e}.", x[row])
        return out
    return linear(llama_like(c, t, ids, separate_qkv(c, t, ids, freq), mlp), t, "lm_head")
