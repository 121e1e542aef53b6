"""Writes the tiny bases and adapters of this folder and what the peft library computes with them.

    python make_adapters.py [BASE ...]        all bases, or only the named ones

Needs the PyPI packages torch, transformers, peft and safetensors. BASE/ is a checkpoint with random
weights in f32; BASE/ADAPTER/ an adapter as `save_pretrained` leaves it, with random numbers, and
golden.json:

    prompt     token ids
    rows       positions of the prompt whose logits are given
    logits     one list a row
    greedy     ids of 16 greedy steps, found by computing the whole sequence at every step

Each adapter is loaded again from its directory before anything is computed. A seed is taken where
every greedy step has a margin of at least MARGIN, so that ids can be compared exactly.
"""

import json
import pathlib
import shutil
import sys

import torch
from peft import (AdaLoraConfig, IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig,
                  PromptTuningConfig, get_peft_model)
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

HERE = pathlib.Path(__file__).resolve().parent
VOCAB, NEW, MARGIN, ROWS = 64, 16, 0.01, [0, 5, 11]
LLM = dict(task_type="CAUSAL_LM")

COMMON = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1,
              eos_token_id=2, max_position_embeddings=128, tie_word_embeddings=False)
BASES = {
    "llama": dict(COMMON, model_type="llama", num_key_value_heads=2, intermediate_size=40, rms_norm_eps=1e-5),
    "qwen2": dict(COMMON, model_type="qwen2", num_key_value_heads=2, intermediate_size=40, rms_norm_eps=1e-6,
                  use_sliding_window=False),
    "tied": dict(COMMON, model_type="llama", num_key_value_heads=4, intermediate_size=40, rms_norm_eps=1e-5,
                 tie_word_embeddings=True),
    "gpt2": dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2,
                 model_type="gpt2"),
    "gpt_neox": dict(COMMON, model_type="gpt_neox", intermediate_size=48, rotary_pct=0.5),
    "phi3": dict(COMMON, model_type="phi3", num_key_value_heads=2, intermediate_size=40, pad_token_id=0),
}

QV, QKVO = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"]
ADAPTERS = {
    "llama": {
        "lora-qv": LoraConfig(r=4, lora_alpha=8, target_modules=QV, **LLM),
        "lora-k": LoraConfig(r=2, lora_alpha=3, target_modules=["k_proj"], **LLM),
        "lora-bin": LoraConfig(r=3, lora_alpha=8, target_modules=QV, **LLM),
        "rslora-patterns": LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", use_rslora=True,
                                      rank_pattern={"down_proj": 2, r"layers\.1\.self_attn\.q_proj": 6},
                                      alpha_pattern={"o_proj": 3, r"layers\.\d+\.mlp\.gate_proj": 10}, **LLM),
        "regex-layer": LoraConfig(r=3, lora_alpha=5, target_modules=r".*\.1\..*(q_proj|up_proj)", **LLM),
        "one-layer": LoraConfig(r=3, lora_alpha=5, target_modules=QKVO, layers_to_transform=[1], **LLM),
        "dora": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=True, **LLM),
        "embed-head": LoraConfig(r=4, lora_alpha=8, target_modules=["embed_tokens", "lm_head", "q_proj"], **LLM),
        "saved-ends": LoraConfig(r=4, lora_alpha=8, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"], **LLM),
        "saved-norm": LoraConfig(r=4, lora_alpha=8, target_modules=QV, modules_to_save=["norm"], **LLM),
        "adalora": AdaLoraConfig(init_r=6, target_r=3, lora_alpha=16, total_step=100, target_modules=QKVO, **LLM),
        "ia3": IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **LLM),
        "prompt": PromptTuningConfig(num_virtual_tokens=5, **LLM),
        "p-tuning": PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=16, **LLM),
        "prefix": PrefixTuningConfig(num_virtual_tokens=6, **LLM),
        "prefix-projected": PrefixTuningConfig(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16, **LLM),
        "glm": "glm",
        "glm-projected": "glm-projected",
    },
    "qwen2": {
        "dora-bias": LoraConfig(r=4, lora_alpha=8, target_modules=QKVO, use_dora=True, **LLM),
        "lora-bias": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj"], lora_bias=True, **LLM),
        "bias-all": LoraConfig(r=4, lora_alpha=8, target_modules=QV, bias="all", **LLM),
        "ia3-bias": IA3Config(target_modules=["q_proj", "k_proj", "down_proj"], feedforward_modules=["down_proj"], **LLM),
        "prefix": PrefixTuningConfig(num_virtual_tokens=17, **LLM),
    },
    "larger": {
        "grown": LoraConfig(r=4, lora_alpha=8, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"], **LLM),
    },
    "tied": {
        "embed": LoraConfig(r=4, lora_alpha=8, target_modules=["embed_tokens", "v_proj"], **LLM),
    },
    "gpt2": {
        "lora": LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, **LLM),
        "dora": LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True, **LLM),
        "ia3": IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True, **LLM),
        "prompt": PromptTuningConfig(num_virtual_tokens=4, **LLM),
        "prefix": PrefixTuningConfig(num_virtual_tokens=3, **LLM),
    },
    "gpt_neox": {
        "lora": LoraConfig(r=4, lora_alpha=8, target_modules=["query_key_value", "dense_h_to_4h"], **LLM),
        "dora": LoraConfig(r=4, lora_alpha=8, target_modules=["query_key_value", "dense"], use_dora=True, **LLM),
        "ia3": IA3Config(target_modules=["query_key_value", "dense_4h_to_h"], feedforward_modules=["dense_4h_to_h"], **LLM),
        "prefix": PrefixTuningConfig(num_virtual_tokens=5, **LLM),
    },
    "phi3": {
        "lora": LoraConfig(r=4, lora_alpha=8, target_modules=["qkv_proj", "gate_up_proj", "o_proj", "down_proj"], **LLM),
        "dora": LoraConfig(r=4, lora_alpha=8, target_modules=["qkv_proj", "gate_up_proj"], use_dora=True, **LLM),
    },
}


def randomise(model, seed, adapter):
    """Numbers that matter: attention that looks somewhere, logits far from uniform."""
    g = torch.Generator().manual_seed(seed)

    def normal(p, std, mean=0.0):
        with torch.no_grad():
            p.copy_(mean + std * torch.randn(p.shape, generator=g))

    for name, p in model.named_parameters():
        own = any(s in name for s in ("lora_", "ia3_", "prompt_encoder", "modules_to_save"))
        if adapter != own and not (adapter and p.requires_grad and name.endswith("bias")):
            continue
        if "lora_magnitude" in name:
            with torch.no_grad():
                p.mul_(1 + 0.3 * torch.randn(p.shape, generator=g))
        elif "ia3_" in name:
            normal(p, 0.5, 1.0)
        elif "norm" in name or "ln_" in name:
            normal(p, 0.2, 0.0 if name.endswith("bias") else 1.0)
        elif "prompt_encoder" in name:
            normal(p, 0.8 if "embedding" in name else 0.4)
        elif "lora_E" in name:
            normal(p, 4.0)
        elif p.dim() == 1:
            normal(p, 0.3)
        elif "lora_" in name:
            normal(p, 0.35)
        elif "embed_tokens" in name or "wte" in name or "embed_in" in name:
            normal(p, 0.6)
        elif "wpe" in name:
            normal(p, 0.3)
        elif "lm_head" in name or "embed_out" in name:
            normal(p, 2.0 / p.shape[-1] ** 0.5)
        else:
            normal(p, 1.3 / p.shape[-1] ** 0.5)


def prune(config):
    """AdaLoRA after its budget was given away: each module keeps some of its ranks."""
    keep = {"q": [1, 0, 1, 1, 0, 1], "k": [0, 0, 1, 0, 0, 0], "v": [1] * 6, "o": [0, 1, 0, 1, 1, 0]}
    config.rank_pattern = {
        f"model.layers.{i}.self_attn.{n}_proj.lora_E.default": [bool(x) for x in keep[n]]
        for i in range(2) for n in keep}


class Glm(torch.nn.Module):
    """ChatGLM's P-tuning v2 on any base: keys and values are given, positions count from 0 behind them."""

    def __init__(self, base, folder):
        super().__init__()
        file = folder / "model.safetensors"
        t = load_file(file) if file.exists() else torch.load(folder / "pytorch_model.bin", weights_only=True)
        p = "transformer.prefix_encoder."
        x = t[p + "embedding.weight"]
        if p + "trans.0.weight" in t:
            x = torch.tanh(x @ t[p + "trans.0.weight"].T + t[p + "trans.0.bias"])
            x = x @ t[p + "trans.2.weight"].T + t[p + "trans.2.bias"]
        c = base.config
        self.base, self.n = base, x.shape[0]
        self.kv = x.view(self.n, 2 * c.num_hidden_layers, c.num_key_value_heads, -1).permute(1, 2, 0, 3).unsqueeze(1)

    def forward(self, ids):
        from transformers import DynamicCache
        cache = DynamicCache()
        for layer in range(self.kv.shape[0] // 2):
            cache.update(self.kv[2 * layer].clone(), self.kv[2 * layer + 1].clone(), layer)
        n = ids.shape[1]
        mask = torch.full((n, self.n + n), float("-inf"))
        mask = torch.triu(mask, diagonal=self.n + 1)[None, None]
        return self.base(input_ids=ids, past_key_values=cache, attention_mask=mask,
                         position_ids=torch.arange(n)[None], use_cache=True)


def write_glm(folder, kind, config, seed):
    g = torch.Generator().manual_seed(seed)
    width = 2 * config.num_hidden_layers * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    p = "transformer.prefix_encoder."
    if kind == "glm":
        t = {p + "embedding.weight": torch.randn(7, width, generator=g)}
    else:
        h = config.hidden_size
        t = {p + "embedding.weight": torch.randn(4, h, generator=g),
             p + "trans.0.weight": 0.3 * torch.randn(h, h, generator=g), p + "trans.0.bias": 0.3 * torch.randn(h, generator=g),
             p + "trans.2.weight": 0.3 * torch.randn(width, h, generator=g),
             p + "trans.2.bias": 0.3 * torch.randn(width, generator=g)}
    if kind == "glm":
        save_file(t, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(t, folder / "pytorch_model.bin")


def write_json(path, v):
    path.write_text(json.dumps(v, separators=(",", ":")) + "\n")


def load_base(base_dir, folder):
    model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, attn_implementation="eager").eval()
    if folder.name == "grown":  # more tokens than the base has
        model.resize_token_embeddings(VOCAB + 6)
    return model


def make_adapter(base_dir, folder, config, seed):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    base = load_base(base_dir, folder)
    if isinstance(config, str):
        write_glm(folder, config, base.config, seed)
        return Glm(base, folder).eval()
    import copy
    model = get_peft_model(base, copy.deepcopy(config)).eval()
    randomise(model, seed, adapter=True)
    if isinstance(config, AdaLoraConfig):
        prune(model.peft_config["default"])
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.save_pretrained(folder, safe_serialization=folder.name != "lora-bin")
    (folder / "README.md").unlink(missing_ok=True)
    saved = json.loads((folder / "adapter_config.json").read_text())
    for key in ("target_modules", "modules_to_save", "feedforward_modules"):  # sets: in any order
        if isinstance(saved.get(key), list):
            saved[key].sort()
    write_json(folder / "adapter_config.json", saved)
    base = load_base(base_dir, folder)
    return PeftModel.from_pretrained(base, folder).eval()


@torch.no_grad()
def rows(model, ids):
    return model(torch.tensor([ids])).logits[0, -len(ids):].double() if isinstance(model, Glm) else \
        model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0, -len(ids):].double()


def golden(model, seed):
    """None where a greedy step is too close to call."""
    g = torch.Generator().manual_seed(1000 + seed)
    prompt = torch.randint(3, VOCAB, (12,), generator=g).tolist()
    ids, greedy, first = list(prompt), [], None
    for _ in range(NEW):
        r = rows(model, ids)
        first = r if first is None else first
        top = r[-1].topk(2)
        if top.values[0] - top.values[1] < MARGIN:
            return None
        ids.append(int(top.indices[0]))
        greedy.append(ids[-1])
    return {"prompt": prompt, "rows": ROWS, "logits": [[float(f"{x:.8g}") for x in first[i]] for i in ROWS], "greedy": greedy}


def make_base(name):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    keys = dict(BASES[name])
    config = AutoConfig.for_model(keys.pop("model_type"), **keys)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model, 11 + sorted(BASES).index(name), adapter=False)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def main():
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    for base in sys.argv[1:] or ADAPTERS:
        base_dir = make_base(base if base in BASES else "llama")  # larger: llama with more tokens
        folder = HERE / base
        folder.mkdir(exist_ok=True)
        for name, config in ADAPTERS[base].items():
            for seed in range(1, 50):
                model = make_adapter(base_dir, folder / name, config, seed)
                g = golden(model, seed)
                if g:
                    break
            else:
                sys.exit(f"{base}/{name}: no seed without near ties")
            write_json(folder / name / "golden.json", {"seed": seed, **g})
            print(f"{base}/{name}: seed {seed}", flush=True)


main()
