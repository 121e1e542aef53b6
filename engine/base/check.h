/* CHECK: a programmer error stops the process with file, line and the condition; on in release.
 * One condition each. Never on request data, never on file content. */
#ifndef ENGINE_BASE_CHECK_H
#define ENGINE_BASE_CHECK_H

__attribute__((noreturn, cold)) void check_failed(const char *file, int line, const char *cond);

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0)) check_failed(__FILE__, __LINE__, #cond);                 \
    } while (0)

#endif
