"""pagoda convert and the tokenizer: between directories and GGUF it goes along, or the reason why
not is told before anything is written.

    tests/cli/convert.py [CASE...]     PAGODA is the program to run
"""
import json
import os
import shutil
import sys
import tempfile

import cli

TEXTS = ["Hello, world!", "  two  spaces\n\nand lines", "<|im_start|>user\nsnow \u96ea caf\u00e9 1234"]
FIXTURES = "tests/tokenizer/fixtures/"
CASES = []


def case(f):
    CASES.append(f)
    return f


def answers(model):
    """Greedy text and the ids of TEXTS. GGUF has the rows of q and k in another order, which
    changes the last bits of scores: so products are exact, or that decides where two tokens are
    nearly as likely."""
    text = cli.run("generate", "--model", model, "--prompt", "What is a page?", "--temperature", "0",
                   "--max-tokens", "16", "--isa", "exact")[0]
    return text, cli.lines("tokenize", "--model", model, values=TEXTS)


@case
def the_demo_model_goes_through_gguf_and_back():
    want = answers(cli.need(cli.DEMO))
    with tempfile.TemporaryDirectory() as d:
        gguf, back, again = d + "/demo.gguf", d + "/back", d + "/again.gguf"
        cli.run("convert", cli.DEMO, "--out", gguf)
        assert answers(gguf) == want
        cli.run("convert", gguf, "--out", back)
        assert answers(back) == want
        names = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
        assert names < set(os.listdir(back)), os.listdir(back)
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        assert (cli.lines("render", "--model", back, values=[chat]) ==
                cli.lines("render", "--model", gguf, values=[chat]) ==
                cli.lines("render", "--model", cli.DEMO, values=[chat]))
        cli.run("convert", back, "--out", again)
        assert answers(again) == want


@case
def no_tokenizer_leaves_it_out():
    with tempfile.TemporaryDirectory() as d:
        cli.run("convert", cli.need(cli.DEMO), "--out", d + "/bare.gguf", "--no-tokenizer")
        err = cli.run("tokenize", "--model", d + "/bare.gguf", text='"x"\n', rc=1)[1]
        assert "tokenizer.ggml.tokens" in err, err
        err = cli.run("convert", d + "/bare.gguf", "--out", d + "/back", rc=1)[1]
        assert "--no-tokenizer" in err and not os.path.exists(d + "/back"), err
        cli.run("convert", d + "/bare.gguf", "--out", d + "/back", "--no-tokenizer")
        assert "tokenizer.json" not in os.listdir(d + "/back")


def with_tokenizer(d, fixture):
    """The demo model with another tokenizer."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(f"{cli.DEMO}/{name}", d)
    shutil.copy(f"{FIXTURES}{fixture}.json", d + "/tokenizer.json")


@case
def what_gguf_has_no_word_for_is_refused_before_anything_is_written():
    cases = [("clip_like", "end_of_word_suffix"), ("byte_level", "GGUF has no name for the split"),
             ("prefix_bpe", "continuing_subword_prefix"), ("metaspace_first", '"NFKC"')]
    for fixture, word in cases:
        with tempfile.TemporaryDirectory() as d:
            with_tokenizer(d, fixture)
            err = cli.run("convert", d, "--out", d + "/out.gguf", rc=1)[1]
            assert word in err and d in err and "--no-tokenizer" in err, err
            assert not os.path.exists(d + "/out.gguf")


@case
def more_tokens_than_rows_are_refused():
    with tempfile.TemporaryDirectory() as d:
        cli.run("make-tiny", "llama", "--out", d, "--config-keys", json.dumps({"vocab_size": 300}))
        shutil.copy(f"{cli.DEMO}/tokenizer.json", d)
        err = cli.run("convert", d, "--out", d + "/out.gguf", rc=1)[1]
        assert "3072 tokens" in err and "300 rows" in err, err


if __name__ == "__main__":
    cli.CASES[:] = CASES
    sys.exit(cli.main(sys.argv[1:]))
