/* A quantised module: two bytes that give its rows and columns, a quantization_config, a NUL, the
 * header of a safetensors file. Whatever binds is read, as codes and as floats, over 64 KB of
 * bytes: the JSON of a bitsandbytes state, zeros, then a pattern. */
#include <stdint.h>
#include <sys/mman.h>

#include "engine/base/mem.h"
#include "engine/quant_module.h"
#include "engine/safetensors.h"

#define DATA_BYTES ((size_t)1 << 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static checkpoint make_checkpoint(void) {
    static const char state[] = "{\"shape\":[16,64],\"blocksize\":64}  "; /* of bitsandbytes */
    checkpoint c = {0};
    size_t all = DATA_BYTES + 8;
    uint8_t *p =
        mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* unmapped by
                                                                       checkpoint_done */
    for (size_t i = DATA_BYTES / 2; i < DATA_BYTES; i++) p[i] = (uint8_t)(i * 37 >> 3);
    memcpy(p + 8, state, sizeof state - 1);
    c.files = mem_calloc(1, sizeof *c.files);
    c.files[c.n_files++] = mem_strdup("fuzz.safetensors");
    c.maps = mem_calloc(1, sizeof *c.maps);
    c.maps[0] = (file_map){p, all};
    return c;
}

static void read_all(const row_source *s) {
    if (!s) return;
    void *out = mem_alloc((size_t)s->rows * row_source_bytes(s) + 1);
    s->read(s, 0, s->rows, out);
    mem_free(out);
}

static void bind(checkpoint *c, const char *name, int32_t n, int32_t k, bool floats, int kind) {
    char text[32];
    row_source *s = NULL;
    const st_tensor *first;
    error err;
    memcpy(text, name, strlen(name) + 1);
    arch_tensor t = {
        .name = text, .slot = W_UP, .rows = n, .cols = k, .src_rows = n, .view = {0, n, n}};
    if (kind == 1) t.view = (row_view){n / 4, n / 4, n / 2}, t.rows = n / 2;
    if (kind == 2) {
        t.transpose_view = true;
        t.rows = k;
        t.cols = n;
    }
    if (kind == 3) t.n_stack = 2, t.stack = 1;
    if (quant_module_bind(c, &t, floats, NULL, &s, &first, &err) == OK) read_all(s);
    row_source_free(s);
}

/* Where the last tensor ends: the file is said to be as long. */
static uint64_t data_end(str header) {
    json_t *root = NULL, *v;
    const char *name;
    json_int_t end = 0;
    if (js_parse(header, &root, NULL) != OK) return 0;
    json_object_foreach(root, name, v) {
        json_int_t to = json_integer_value(json_array_get(js_get(v, "data_offsets"), 1));
        end = MAX(end, to);
    }
    json_decref(root);
    return end > (json_int_t)DATA_BYTES ? 0 : (uint64_t)end;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const char *text = (const char *)data + 2;
    const char *cut = n > 2 ? memchr(text, 0, n - 2) : NULL;
    json_t *config = NULL;
    error err;
    if (!cut || js_parse(str_n(text, (size_t)(cut - text)), &config, &err) != OK) return 0;
    checkpoint c = make_checkpoint();
    str header = str_n(cut + 1, n - 2 - (size_t)(cut - text) - 1);
    status st = quant_config_parse("config.json", config, &c.quant, &err);
    if (st == OK)
        st = safetensors_add(&c, header, "fuzz.safetensors", 0, 8, data_end(header), &err);
    for (int32_t i = 0; st == OK && i < c.n_tensors; i++)
        map_put(&c.by_name, str_z(c.tensors[i].name), (uint64_t)i);
    for (int kind = 0; kind < 4 && st == OK; kind++) {
        int32_t rows = (data[0] % 16 + 1) * 4, cols = data[1] % 128 + 1;
        bind(&c, "x.weight", rows, cols, kind == 0, kind);
        bind(&c, "x", rows, cols, kind == 0, kind);
    }
    for (int32_t i = 0; st == OK && i < c.n_tensors; i++) quant_module_spare(&c, &c.tensors[i]);
    checkpoint_done(&c);
    json_decref(config);
    return 0;
}
