/* Build-time tool: writes a C file that holds other files as byte arrays, so that one binary
 * carries its data anywhere.
 *
 *   embed_files SYMBOL OUT.c FILE...
 *
 * OUT.c defines `const embedded_file SYMBOL[]` (engine/base/embedded.h), ended by a NULL name. */
#include <stdio.h>
#include <string.h>

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int add_file(FILE *out, const char *path, int idx) {
    FILE *in = fopen(path, "rb");
    if (!in) {
        perror(path);
        return 1;
    }
    fprintf(out, "static const unsigned char file_%d[] = {", idx);
    int c, n = 0;
    for (; (c = getc(in)) != EOF; n++) fprintf(out, "%s%d,", n % 24 ? "" : "\n    ", c);
    fprintf(out, "0};\n");
    fclose(in);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    FILE *out = fopen(argv[2], "w");
    if (!out) {
        perror(argv[2]);
        return 1;
    }
    fprintf(out, "#include \"engine/base/embedded.h\"\n#include <stddef.h>\n");
    for (int i = 3; i < argc; i++)
        if (add_file(out, argv[i], i)) return 1;
    fprintf(out, "extern const embedded_file %s[];\nconst embedded_file %s[] = {\n", argv[1],
            argv[1]);
    for (int i = 3; i < argc; i++)
        fprintf(out, "    {\"%s\", file_%d, sizeof file_%d - 1},\n", base_name(argv[i]), i, i);
    fprintf(out, "    {NULL, NULL, 0},\n};\n");
    return fclose(out) ? 1 : 0;
}
