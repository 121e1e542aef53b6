"""Writes checkpoints of this folder as GGUF files, with llama.cpp's own converter: gguf-NAME/model.gguf.

    python make_gguf.py LLAMA_CPP [NAME ...]        all of them, or only the named ones

LLAMA_CPP is a checkout of github.com/ggml-org/llama.cpp (its conversion/ and gguf-py/ are used; a release's
source archive of PyPI's llama-cpp-python holds one). Needs the PyPI packages of make_archs.py and sentencepiece.
The tokenizers of the checkpoints are made up, which the converter does not accept: the files get none.

golden.json names the golden of the checkpoint itself. CASES are checkpoints of shapes that the format presumes
(it has no key for the scale of Gemma's attention, for instance); they exist as GGUF files only.
"""
import json
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
LLAMA_CPP = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py"), str(HERE)]

import gguf  # noqa: E402
import torch  # noqa: E402
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class  # noqa: E402

import make_families as families  # noqa: E402

NAMES = ["llama-rope-llama3", "mixtral", "xverse", "qwen1", "qwen2-tied", "qwen3-v5", "qwen3-moe", "gemma", "phi3",
         "phi3-longrope", "stablelm", "cohere2", "olmo", "olmo2", "neox", "gpt2", "bloom", "falcon-40b",
         "internlm2", "internlm3", "minicpm-untied", "deepseek-moe", "deepseek-v3", "chatglm2",
         "glm4", "glm4-moe-air", "gpt-oss", "bert", "baichuan-7b"]

SMALL = dict(families.LLAMA, hidden_size=32)
GEMMA = dict(families.COMMON, hidden_size=64, num_attention_heads=2, num_key_value_heads=1, intermediate_size=40,
             max_position_embeddings=128, rms_norm_eps=1e-6, hidden_activation="gelu_pytorch_tanh", sliding_window=9)
CASES = {
    "gguf-gemma2": families.case("Gemma2ForCausalLM", "gemma2", dict(
        GEMMA, num_hidden_layers=2, head_dim=16, query_pre_attn_scalar=16, rope_theta=10000.0,
        attn_logit_softcapping=4.0, final_logit_softcapping=10.0), embed=0.04, final=20),
    "gguf-gemma3": families.case("Gemma3ForCausalLM", "gemma3_text", dict(
        GEMMA, num_hidden_layers=7, head_dim=8, query_pre_attn_scalar=8, sliding_window_pattern=6,
        rope_theta=1000000.0, rope_local_base_freq=10000.0, rope_scaling={"factor": 8.0, "rope_type": "linear"}),
        embed=0.04, final=10),
    "gguf-phi": families.case("PhiForCausalLM", "phi", dict(
        SMALL, num_key_value_heads=4, intermediate_size=128, partial_rotary_factor=0.5, hidden_act="gelu_new",
        layer_norm_eps=1e-5, qk_layernorm=False, tie_word_embeddings=False)),
    "gguf-qwen2-moe": families.case("Qwen2MoeForCausalLM", "qwen2_moe", dict(
        SMALL, **families.MOE, num_experts=6, shared_expert_intermediate_size=40, norm_topk_prob=False,
        decoder_sparse_step=1, rms_norm_eps=1e-6, tie_word_embeddings=False)),
    "gguf-minicpm3": families.case("MiniCPM3ForCausalLM", "minicpm3", dict(
        families.CASES["minicpm3"]["config"], num_hidden_layers=2, hidden_size=64, scale_emb=12, scale_depth=1.4,
        dim_model_base=256, max_position_embeddings=128, rope_scaling={
            **families.LONGROPE, "factor": 1.0, "original_max_position_embeddings": 128}), embed=0.015, final=3, mix=2, distinct=7),
}


def convert(folder, out):
    hparams = ModelBase.load_hparams(folder, False)
    model = get_model_class(get_model_architecture(hparams, ModelType.TEXT), mmproj=False)
    model.set_vocab = lambda self: None
    if model.__name__ == "BaichuanModel":  # passes other tensors than W_pack on to itself, forever
        own = model.modify_tensors
        model.modify_tensors = lambda self, data, name, layer: (
            own(self, data, name, layer) if "W_pack" in name else [(self.map_tensor_name(name), data)])
    exact = hparams.get("dtype", hparams.get("torch_dtype")) in (None, "float32")
    types = gguf.LlamaFileType
    with torch.inference_mode():
        model(folder, types.ALL_F32 if exact else types.GUESSED, out, eager=True, model_name=folder.name,
              hparams={"rotary_pct": 0.25} | hparams).write()


def make(name):
    if name in CASES:
        folder = HERE / name
        families.CASES[name] = CASES[name]
        families.make(name, len(families.CASES) + list(CASES).index(name))
        tokens = {str(i): i for i in range(families.VOCAB)}  # Gemma's rows past the tokenizer's are cut off
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}, "added_tokens": []}))
        convert(folder, folder / "model.gguf")
        for file in folder.iterdir():
            if file.name not in ("golden.json", "model.gguf"):
                file.unlink()
        return folder
    folder = HERE / f"gguf-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for golden in ("golden.json", "hidden.json"):
        if (HERE / name / golden).exists():
            (folder / golden).write_text(json.dumps({"golden": name}) + "\n")
    convert(HERE / name, folder / "model.gguf")
    return folder


def main():
    torch.set_num_threads(1)
    for name in sys.argv[2:] or NAMES + list(CASES):
        folder = make(name)
        print(f"{folder.name}: {(folder / 'model.gguf').stat().st_size} bytes", flush=True)


main()
