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
    "{\"type\":\"Sequence\",\"pretokenizers\":["                                                   \
    "{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"},"                                      \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"                    \
    "\"use_regex\":true},"                                                                         \
    "{\"type\":\"Digits\",\"individual_digits\":false},"                                           \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[0-9][0-9][0-9]\"},"                             \
    "\"behavior\":\"Isolated\",\"invert\":false}]}"

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
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
     BOS | WHOLE,
     {PATTERN_LLAMA3}},
    {" dbrx smaug-bpe glm4 chatglm-bpe ", 0, {PATTERN_LLAMA3}},
    {" qwen2 deepseek-r1-qwen kormo megrez ", NFC, {PATTERN_QWEN2}},
    {" stablelm2 stablelm hunyuan grok-2 ", 0, {PATTERN_QWEN2}},
    {" gpt-4o llama4 minimax-m2 kanana2 ", 0, {PATTERN_O200K}},
    {" tekken ", BOS | WHOLE, {PATTERN_TEKKEN}},
    {" olmo mpt ", NFC, {PATTERN_GPT2}},
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

static status split_of(str name, const split **ret, gguf_pre *ret_implied, error *err) {
    const split *s = *ret = str_find(name, STR(" "), 0) < 0 ? find(name) : NULL;
    if (!s)
        return error_set(err, ERR_UNSUPPORTED, "tokenizer.ggml.pre: \"" STR_FMT "\" is not known",
                         STR_ARG(str_cut(name, 0, MIN(name.n, (size_t)60))));
    *ret_implied =
        (gguf_pre){.bos = s->flags & BOS, .sep = s->flags & SEP, .ignore_merges = s->flags & WHOLE};
    return OK;
}

status gguf_pre_of(str name, tokenizer *t, gguf_pre *ret, error *err) {
    const split *s;
    TRY(split_of(name, &s, ret, err));
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

/* ---- as tokenizer.json writes it ---- */

static json_t *byte_level(bool use_regex) {
    return json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", (int)use_regex);
}

status gguf_pre_json(str name, gguf_pre *ret, json_t **ret_pre, json_t **ret_norm, error *err) {
    const split *s;
    TRY(split_of(name, &s, ret, err));
    *ret_norm = s->flags & NFC ? json_pack("{s:s}", "type", "NFC") : NULL;
    if (s->json) return js_parse(str_z(s->json), ret_pre, err);
    if (!s->patterns[1] && strcmp(s->patterns[0], PATTERN_GPT2) == 0) {
        *ret_pre = byte_level(true);
        return OK;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < PATTERNS_MAX && s->patterns[i]; i++)
        json_array_append_new(list, json_pack("{s:s,s:{s:s},s:s,s:b}", "type", "Split", "pattern",
                                              "Regex", s->patterns[i], "behavior", "Isolated",
                                              "invert", 0));
    json_array_append_new(list, byte_level(false));
    *ret_pre = json_pack("{s:s,s:o}", "type", "Sequence", "pretokenizers", list);
    return OK;
}

/* ---- and back ---- */

#define BYTES "(bytes)"

/* A line for each step, so that equal splits are equal texts: patterns as they are, what else
 * there is by its type. */
static void describe(const json_t *j, strbuf *out) {
    str type = js_get_str(j, "type"), regex = js_get_str(js_get(j, "pattern"), "Regex"),
        how = js_get_str(j, "behavior");
    json_t *list = js_get(j, "pretokenizers");
    for (size_t i = 0; i < json_array_size(list); i++) describe(json_array_get(list, i), out);
    if (!j || list) return;
    bool invert = js_get_bool(j, "invert", false);
    if (str_eqz(type, "Split") && regex.p && str_eqz(how, invert ? "Removed" : "Isolated")) {
        strbuf_add(out, regex);
    } else if (str_eqz(type, "Digits") && js_get_bool(j, "individual_digits", false)) {
        strbuf_addz(out, DIGIT);
    } else if (str_eqz(type, "ByteLevel") && !js_get_bool(j, "add_prefix_space", true)) {
        bool regexes = js_get_bool(j, "use_regex", true);
        strbuf_addz(out, regexes ? PATTERN_GPT2 "\n" BYTES : BYTES);
    } else {
        strbuf_addf(out, "(" STR_FMT STR_FMT ")", STR_ARG(type), STR_ARG(how));
    }
    strbuf_addc(out, '\n');
}

static void describe_split(const split *s, strbuf *out) {
    json_t *j = NULL;
    if (s->json && js_parse(str_z(s->json), &j, NULL) == OK) describe(j, out);
    for (size_t i = 0; i < PATTERNS_MAX && s->patterns[i]; i++)
        strbuf_addf(out, "%s\n", s->patterns[i]);
    if (!s->json) strbuf_addz(out, BYTES "\n");
    json_decref(j);
}

static const split *find_like(str want, unsigned flags) {
    const split *found = NULL;
    for (size_t i = 0; !found && i < ARRAY_LEN(splits); i++) {
        strbuf have = {0};
        describe_split(&splits[i], &have);
        if (str_eq(strbuf_str(&have), want) && (splits[i].flags & (NFC | WHOLE)) == flags)
            found = &splits[i];
        strbuf_done(&have);
    }
    return found;
}

status gguf_pre_name(const json_t *pre, const json_t *norm, bool ignore_merges, str *ret,
                     error *err) {
    strbuf want = {0};
    status st = OK;
    str type = js_get_str(norm, "type");
    bool nfc = str_eqz(type, "NFC"),
         none =
             !norm || (str_eqz(type, "Sequence") && !json_array_size(js_get(norm, "normalizers")));
    if (!nfc && !none)
        return error_set(err, ERR_UNSUPPORTED,
                         "GGUF has no word for normalizer \"" STR_FMT "\" of a byte-level BPE",
                         STR_ARG(type));
    describe(pre, &want);
    const split *s = find_like(strbuf_str(&want), (nfc ? NFC : 0) | (ignore_merges ? WHOLE : 0));
    if (s) {
        *ret = str_cut(str_z(s->names), 1, (size_t)str_find(str_z(s->names), STR(" "), 1));
    } else {
        strbuf quoted = {0};
        strbuf_add_json(&quoted, strbuf_str(&want));
        st = error_set(err, ERR_UNSUPPORTED,
                       "GGUF has no name for the split " STR_FMT "%s%s (steps are lines)",
                       STR_ARG(str_cut(strbuf_str(&quoted), 0, MIN(quoted.n, (size_t)300))),
                       nfc ? " with NFC" : "", ignore_merges ? " with ignore_merges" : "");
        strbuf_done(&quoted);
    }
    strbuf_done(&want);
    return st;
}
