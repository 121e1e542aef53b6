/* What tokenizer.ggml.pre means. The format gives a pre-tokeniser by name only, and the names are
 * those of llama.cpp; the patterns are the ones that the models' own tokenizers use.
 *
 * A name that is not here is refused: with a wrong split every prompt would be tokenised a little
 * wrong, and nobody would see why. No name at all has a meaning (files of before there was one). */
#include "engine/base/json.h"
#include "tokenizer/gguf_tok.h"
#include "tokenizer/patterns.h"

#define DIGIT "\\p{N}"
#define BLOOM " ?[^(\\s|.,!?…。，、।۔،)]+"
#define CJK   "[一-龥ࠀ-一가-퟿]+"
#define DSV3                                                                                       \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"                                       \
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*" PATTERN_ENDS_
/* Letters that have case. */
#define CASED_LETTERS                                                                              \
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-"                      \
    "ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷ"                      \
    "ᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼ"                     \
    "ιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-"                     \
    "ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-"                       \
    "ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚ"                     \
    "ａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"

/* Its later steps see the byte alphabet, in which some bytes are digits. */
#define FALCON                                                                                     \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Punctuation\",\"behavior\":"            \
    "\"Contiguous\"},"                                                                             \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false},{\"type\":\"Digits\"},{\"type\":"         \
    "\"Split\","                                                                                   \
    "\"pattern\":{\"Regex\":\"[0-9][0-9][0-9]\"},\"behavior\":\"Isolated\"}]}"

#define PATTERNS_MAX 6
#define BOS          1
#define SEP          2
#define WHOLE        4 /* a word that is a token is that token */
#define NFC          8

typedef struct split {
    const char *names; /* between spaces */
    unsigned flags;
    const char *patterns[PATTERNS_MAX];
    const char *json; /* instead of patterns: a pre_tokenizer as tokenizer.json writes it */
} split;

static const split splits[] = {
    {" llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
     BOS | WHOLE,
     {PATTERN_LLAMA3}},
    {" dbrx smaug-bpe glm4 chatglm-bpe ", 0, {PATTERN_LLAMA3}},
    {" qwen2 deepseek-r1-qwen kormo megrez ", NFC, {PATTERN_QWEN2}},
    {" stablelm stablelm2 hunyuan grok-2 ", 0, {PATTERN_QWEN2}},
    {" gpt-4o llama4 minimax-m2 kanana2 ", 0, {PATTERN_O200K}},
    {" tekken ", BOS | WHOLE, {PATTERN_TEKKEN}},
    {" mpt olmo ", NFC, {PATTERN_GPT2}},
    {" gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum jais "
     "trillion granite-docling exaone4 ",
     0,
     {PATTERN_GPT2}},
    {" jina-v1-en jina-v2-code roberta-bpe ", SEP, {PATTERN_GPT2}},
    {" starcoder refact command-r smollm codeshell exaone minerva-7b ", 0, {DIGIT, PATTERN_GPT2}},
    {" falcon ", 0, {0}, FALCON},
    {" deepseek-llm ",
     0,
     {"[\r\n]", CASED_LETTERS, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$", CJK, DIGIT}},
    {" deepseek-coder ", 0, {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK, DIGIT}},
    {" deepseek-v3 hunyuan-dense ", 0, {DIGIT "{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DSV3}},
    {" bloom poro-chat gpt3-finnish ", 0, {BLOOM}},
    {" viking ", 0, {BLOOM, DIGIT}},
    {" chameleon ",
     BOS,
     {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", DIGIT,
      "[\\p{P}!-/:-@\\[-`{-~]", PATTERN_GPT2}},
    {" bailingmoe bailingmoe2 llada-moe ",
     0,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
      "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {" seed-coder ", 0, {PATTERN_WORDS_ "\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+" PATTERN_ENDS_}},
    {" default ", 0, {"[\\p{P}$+<=>^~|]+", PATTERN_GPT2, DIGIT "+", "[0-9][0-9][0-9]"}},
};

static status json_pretok(const char *text, pretok **ret, error *err) {
    json_t *j = NULL;
    TRY(js_parse(str_z(text), &j, err));
    status st = pretok_new(j, ret, err);
    json_decref(j);
    return st;
}

static const split *find(str name) {
    strbuf word = {0};
    const split *found = NULL;
    strbuf_addc(&word, ' ');
    strbuf_add(&word, name.n ? name : STR("default"));
    strbuf_addc(&word, ' ');
    for (size_t i = 0; !found && i < ARRAY_LEN(splits); i++)
        if (strlen(word.p) == word.n && strstr(splits[i].names, word.p)) found = &splits[i];
    strbuf_done(&word);
    return found;
}

status gguf_pre_of(str name, tokenizer *t, gguf_pre *ret, error *err) {
    const split *s = str_find(name, STR(" "), 0) < 0 ? find(name) : NULL;
    if (!s)
        return error_set(err, ERR_UNSUPPORTED, "tokenizer.ggml.pre: \"" STR_FMT "\" is not known",
                         STR_ARG(str_cut(name, 0, MIN(name.n, (size_t)60))));
    *ret =
        (gguf_pre){.bos = s->flags & BOS, .sep = s->flags & SEP, .ignore_merges = s->flags & WHOLE};
    size_t n = 0;
    while (n < PATTERNS_MAX && s->patterns[n]) n++;
    if (s->json)
        TRY(json_pretok(s->json, &t->pre, err));
    else
        TRY(pretok_of_regexes(s->patterns, n, &t->pre, err));
    if (!(s->flags & NFC)) return OK;
    json_t *nfc = json_pack("{s:s}", "type", "NFC");
    status st = normalizer_new(nfc, &t->norm, err);
    json_decref(nfc);
    return st;
}
