/* Thin over POSIX; every failure says which path and why. */
#include "engine/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"

static status io_error(error *err, const char *path, const char *what) {
    status code = errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    return error_set(err, code, "%s: cannot %s: %s", path, what, strerror(errno));
}

bool is_lfs_pointer(const void *p, size_t n) {
    static const char mark[] = "version https://git-lfs.github.com/spec/";
    return n >= sizeof mark - 1 && memcmp(p, mark, sizeof mark - 1) == 0;
}

status file_check_pointer(const char *path, const void *p, size_t n, error *err) {
    static const char annex[] = "/annex/objects/";
    if (is_lfs_pointer(p, n))
        return error_set(err, ERR_FORMAT,
                         "%s: this is a Git LFS pointer, not the file itself (run `git lfs pull`)",
                         path);
    if (n >= sizeof annex - 1 && memcmp(p, annex, sizeof annex - 1) == 0)
        return error_set(err, ERR_FORMAT,
                         "%s: this is a git-annex pointer, not the file itself (run `git annex "
                         "get`)",
                         path);
    return OK;
}

static status open_regular(const char *path, int *ret_fd, size_t *ret_bytes, error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return io_error(err, path, "open");
    struct stat s;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        close(fd);
        return error_set(err, ERR_IO, "%s: not a regular file", path);
    }
    *ret_fd = fd;
    *ret_bytes = (size_t)s.st_size;
    return OK;
}

static status read_fd(int fd, const char *path, size_t n, strbuf *ret, error *err) {
    size_t start = ret->n, got = 0;
    if (!strbuf_reserve(ret, n))
        return error_set(err, ERR_TOO_LARGE, "%s: %zu bytes do not fit the buffer", path, n);
    while (got < n) {
        ssize_t r = read(fd, ret->p + start + got, n - got);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return io_error(err, path, "read");
        if (r == 0) break;
        got += (size_t)r;
    }
    ret->n = start + got;
    ret->p[ret->n] = 0;
    return file_check_pointer(path, ret->p + start, got, err);
}

status file_read(const char *path, size_t bytes_max, strbuf *ret, error *err) {
    int fd;
    size_t n;
    TRY(open_regular(path, &fd, &n, err));
    status st = n <= bytes_max ? read_fd(fd, path, n, ret, err)
                               : error_set(err, ERR_TOO_LARGE, "%s: %zu bytes, at most %zu allowed",
                                           path, n, bytes_max);
    close(fd);
    return st;
}

status file_write_atomic(const char *path, str data, error *err) {
    strbuf tmp = {0};
    strbuf_addf(&tmp, "%s.tmp.%d", path, (int)getpid());
    status st = OK;
    int fd = open(tmp.p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        st = io_error(err, path, "create");
        goto out;
    }
    for (size_t at = 0; at < data.n;) {
        ssize_t w = write(fd, data.p + at, data.n - at);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) {
            st = io_error(err, path, "write");
            break;
        }
        at += (size_t)w;
    }
    if (st == OK && fsync(fd) != 0) st = io_error(err, path, "flush");
    close(fd);
    if (st == OK && rename(tmp.p, path) != 0) st = io_error(err, path, "rename into place");
    if (st != OK) unlink(tmp.p);
out:
    strbuf_done(&tmp);
    return st;
}

status file_map_open(const char *path, file_map *ret, error *err) {
    int fd;
    size_t n;
    TRY(open_regular(path, &fd, &n, err));
    void *p = n ? mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    status st = p == MAP_FAILED ? io_error(err, path, "map") : OK;
    close(fd);
    if (st == OK) *ret = (file_map){p, n};
    return st;
}

void file_map_close(file_map *m) {
    if (m->p) munmap((void *)m->p, m->n);
    *m = (file_map){0};
}

bool file_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISREG(s.st_mode);
}

bool dir_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

char *path_join(const char *dir, const char *name) {
    strbuf b = {0};
    strbuf_addz(&b, dir);
    if (b.n && b.p[b.n - 1] != '/') strbuf_addc(&b, '/');
    strbuf_addz(&b, name);
    return strbuf_take(&b);
}

str path_base(const char *path) {
    str s = str_z(path);
    while (s.n > 1 && s.p[s.n - 1] == '/') s.n--;
    size_t at = s.n;
    while (at && s.p[at - 1] != '/') at--;
    return at == s.n ? s : str_cut(s, at, s.n);
}
