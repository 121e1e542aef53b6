/* Design: ASCII from a table; the rest from utf8proc's category (Unicode 15.0) corrected by what
 * later versions assigned and by the reference's older punctuation table. The exceptions were found
 * by asking the reference about every code point. */
#include "tokenizer/uclass.h"

#include <stddef.h>
#include <utf8proc.h>

#include "engine/base/mem.h"

const uint16_t uclass_ascii[128] = {
    0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x820, 0x820, 0x820, 0x820,
    0x820, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800,
    0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x020, 0x204, 0x204, 0x204, 0x208, 0x204, 0x204,
    0x204, 0x204, 0x204, 0x204, 0x208, 0x204, 0x204, 0x204, 0x204, 0x502, 0x502, 0x502, 0x502,
    0x502, 0x502, 0x502, 0x502, 0x502, 0x502, 0x204, 0x204, 0x208, 0x208, 0x208, 0x204, 0x204,
    0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441,
    0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441, 0x441,
    0x204, 0x204, 0x204, 0x208, 0x604, 0x208, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481,
    0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x481,
    0x481, 0x481, 0x481, 0x481, 0x481, 0x481, 0x204, 0x208, 0x204, 0x208, 0x800,
};

typedef struct range {
    uint32_t lo, hi;
    uint16_t bits;
} range;

/* Assigned since Unicode 15.0. */
static const range newer[] = {
    {0x00897, 0x00897, UC_M | UC_WORD},
    {0x01B4E, 0x01B4F, UC_P},
    {0x01B7F, 0x01B7F, UC_P},
    {0x01C89, 0x01C89, UC_L | UC_UP | UC_WORD},
    {0x01C8A, 0x01C8A, UC_L | UC_LOW | UC_WORD},
    {0x02427, 0x02429, UC_S},
    {0x02FFC, 0x02FFF, UC_S},
    {0x031E4, 0x031E5, UC_S},
    {0x031EF, 0x031EF, UC_S},
    {0x0A7CB, 0x0A7CC, UC_L | UC_UP | UC_WORD},
    {0x0A7CD, 0x0A7CD, UC_L | UC_LOW | UC_WORD},
    {0x0A7DA, 0x0A7DA, UC_L | UC_UP | UC_WORD},
    {0x0A7DB, 0x0A7DB, UC_L | UC_LOW | UC_WORD},
    {0x0A7DC, 0x0A7DC, UC_L | UC_UP | UC_WORD},
    {0x105C0, 0x105F3, UC_L | UC_WORD},
    {0x10D40, 0x10D49, UC_N | UC_NUM | UC_WORD},
    {0x10D4A, 0x10D4D, UC_L | UC_WORD},
    {0x10D4E, 0x10D4E, UC_L | UC_WORD},
    {0x10D4F, 0x10D4F, UC_L | UC_WORD},
    {0x10D50, 0x10D65, UC_L | UC_UP | UC_WORD},
    {0x10D69, 0x10D6D, UC_M | UC_WORD},
    {0x10D6E, 0x10D6E, UC_P},
    {0x10D6F, 0x10D6F, UC_L | UC_WORD},
    {0x10D70, 0x10D85, UC_L | UC_LOW | UC_WORD},
    {0x10D8E, 0x10D8F, UC_S},
    {0x10EC2, 0x10EC4, UC_L | UC_WORD},
    {0x10EFC, 0x10EFC, UC_M | UC_WORD},
    {0x11380, 0x11389, UC_L | UC_WORD},
    {0x1138B, 0x1138B, UC_L | UC_WORD},
    {0x1138E, 0x1138E, UC_L | UC_WORD},
    {0x11390, 0x113B5, UC_L | UC_WORD},
    {0x113B7, 0x113B7, UC_L | UC_WORD},
    {0x113B8, 0x113C0, UC_M | UC_WORD},
    {0x113C2, 0x113C2, UC_M | UC_WORD},
    {0x113C5, 0x113C5, UC_M | UC_WORD},
    {0x113C7, 0x113CA, UC_M | UC_WORD},
    {0x113CC, 0x113D0, UC_M | UC_WORD},
    {0x113D1, 0x113D1, UC_L | UC_WORD},
    {0x113D2, 0x113D2, UC_M | UC_WORD},
    {0x113D3, 0x113D3, UC_L | UC_WORD},
    {0x113D4, 0x113D5, UC_P},
    {0x113D7, 0x113D8, UC_P},
    {0x113E1, 0x113E2, UC_M | UC_WORD},
    {0x116D0, 0x116E3, UC_N | UC_NUM | UC_WORD},
    {0x11BC0, 0x11BE0, UC_L | UC_WORD},
    {0x11BE1, 0x11BE1, UC_P},
    {0x11BF0, 0x11BF9, UC_N | UC_NUM | UC_WORD},
    {0x11DE0, 0x11DE9, UC_NUM},
    {0x11F5A, 0x11F5A, UC_M | UC_WORD},
    {0x13460, 0x143FA, UC_L | UC_WORD},
    {0x16100, 0x1611D, UC_L | UC_WORD},
    {0x1611E, 0x1612F, UC_M | UC_WORD},
    {0x16130, 0x16139, UC_N | UC_NUM | UC_WORD},
    {0x16D40, 0x16D42, UC_L | UC_WORD},
    {0x16D43, 0x16D6A, UC_L | UC_WORD},
    {0x16D6B, 0x16D6C, UC_L | UC_WORD},
    {0x16D6D, 0x16D6F, UC_P},
    {0x16D70, 0x16D79, UC_N | UC_NUM | UC_WORD},
    {0x16FF4, 0x16FF6, UC_NUM},
    {0x18CFF, 0x18CFF, UC_L | UC_WORD},
    {0x1CC00, 0x1CCEF, UC_S},
    {0x1CCF0, 0x1CCF9, UC_N | UC_NUM | UC_WORD},
    {0x1CD00, 0x1CEB3, UC_S},
    {0x1E5D0, 0x1E5ED, UC_L | UC_WORD},
    {0x1E5EE, 0x1E5EF, UC_M | UC_WORD},
    {0x1E5F0, 0x1E5F0, UC_L | UC_WORD},
    {0x1E5F1, 0x1E5FA, UC_N | UC_NUM | UC_WORD},
    {0x1E5FF, 0x1E5FF, UC_P},
    {0x1F8B2, 0x1F8BB, UC_S},
    {0x1F8C0, 0x1F8C1, UC_S},
    {0x1FA89, 0x1FA89, UC_S},
    {0x1FA8F, 0x1FA8F, UC_S},
    {0x1FABE, 0x1FABE, UC_S},
    {0x1FAC6, 0x1FAC6, UC_S},
    {0x1FADC, 0x1FADC, UC_S},
    {0x1FADF, 0x1FADF, UC_S},
    {0x1FAE9, 0x1FAE9, UC_S},
    {0x1FBCB, 0x1FBEF, UC_S},
    {0x2EBF0, 0x2EE5D, UC_L | UC_WORD},
};

/* P today, but not in the punctuation table (bits 0), or the other way round (bits 1). */
static const range punct_differs[] = {
    {0x0061D, 0x0061D, 0}, {0x009FD, 0x009FD, 0}, {0x00A76, 0x00A76, 0}, {0x00C77, 0x00C77, 0},
    {0x00C84, 0x00C84, 0}, {0x0166D, 0x0166D, 1}, {0x01B7D, 0x01B7E, 0}, {0x02E43, 0x02E4F, 0},
    {0x02E52, 0x02E5D, 0}, {0x10EAD, 0x10EAD, 0}, {0x10F55, 0x10F59, 0}, {0x10F86, 0x10F89, 0},
    {0x111C9, 0x111C9, 1}, {0x1144B, 0x1144F, 0}, {0x1145A, 0x1145B, 0}, {0x1145D, 0x1145D, 0},
    {0x11660, 0x1166C, 0}, {0x116B9, 0x116B9, 0}, {0x1183B, 0x1183B, 0}, {0x11944, 0x11946, 0},
    {0x119E2, 0x119E2, 0}, {0x11A3F, 0x11A46, 0}, {0x11A9A, 0x11A9C, 0}, {0x11A9E, 0x11AA2, 0},
    {0x11B00, 0x11B09, 0}, {0x11C41, 0x11C45, 0}, {0x11C70, 0x11C71, 0}, {0x11EF7, 0x11EF8, 0},
    {0x11F43, 0x11F4F, 0}, {0x11FFF, 0x11FFF, 0}, {0x12FF1, 0x12FF2, 0}, {0x16E97, 0x16E9A, 0},
    {0x16FE2, 0x16FE2, 0}, {0x1E95E, 0x1E95F, 0},
};

/* Symbols and format characters that \w takes: circled letters, the joiners. */
static const range word_more[] = {
    {0x0200C, 0x0200D, 1}, {0x024B6, 0x024E9, 1}, {0x1F130, 0x1F149, 1},
    {0x1F150, 0x1F169, 1}, {0x1F170, 0x1F189, 1},
};

/* Format characters that the Bert normaliser does not know. */
static const range format_newer[] = {
    {0x00890, 0x00891, 1},
    {0x008E2, 0x008E2, 1},
    {0x110CD, 0x110CD, 1},
    {0x13430, 0x1343F, 1},
};

static const range *find(const range *r, size_t n, uint32_t cp) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (r[mid].hi < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && r[lo].lo <= cp ? &r[lo] : NULL;
}
#define FIND(table, cp) find(table, ARRAY_LEN(table), cp)

static unsigned of_category(utf8proc_category_t c) {
    switch (c) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT: return UC_L | UC_UP | UC_WORD;
    case UTF8PROC_CATEGORY_LL: return UC_L | UC_LOW | UC_WORD;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return UC_L | UC_WORD;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return UC_M | UC_WORD;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL: return UC_N | UC_NUM | UC_WORD;
    case UTF8PROC_CATEGORY_NO: return UC_N | UC_NUM;
    case UTF8PROC_CATEGORY_PC: return UC_P | UC_PUNCT | UC_WORD;
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return UC_P | UC_PUNCT;
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO: return UC_S;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return UC_SPACE;
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO: return UC_CTRL;
    default: return UC_OTHER;
    }
}

unsigned uclass_slow(uint32_t cp) {
    const range *r;
    if (cp == 0x85) return UC_SPACE | UC_CTRL;
    utf8proc_category_t c = utf8proc_get_property((utf8proc_int32_t)cp)->category;
    if (c == UTF8PROC_CATEGORY_CN && (r = FIND(newer, cp))) return r->bits;
    unsigned bits = of_category(c);
    if (!(bits & UC_L) && cp >= 0x61D && (r = FIND(punct_differs, cp)))
        bits = r->bits ? bits | UC_PUNCT : bits & ~(unsigned)UC_PUNCT;
    if (!(bits & UC_WORD) && FIND(word_more, cp)) bits |= UC_WORD;
    if (c == UTF8PROC_CATEGORY_CF && FIND(format_newer, cp)) bits = UC_OTHER;
    return bits;
}
