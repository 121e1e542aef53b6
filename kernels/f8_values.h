/* The 8-bit floats by their definition, as initialisers of tables that the compiler evaluates:
 * `const float t[256] = {F8_E4M3_VALUES};`. For dtype.c and for tables in a device's memory. */
#ifndef KERNELS_F8_VALUES_H
#define KERNELS_F8_VALUES_H

#include <math.h>

#define F8_EXP2(e) ((float)(1u << (e)))
#define F8_SIGN(x) ((x) >= 128 ? -1.0f : 1.0f)
#define F8_E4M3_(x)                                                                                \
    ((x) / 8 % 16 ? (1 + (x) % 8 / 8.0f) * F8_EXP2((x) / 8 % 16) / 128 : (x) % 8 / 512.0f)
#define F8_E4M3(x) ((x) % 128 == 127 ? NAN : F8_SIGN(x) * F8_E4M3_(x))
#define F8_E5M2_(x)                                                                                \
    ((x) / 4 % 32 ? (1 + (x) % 4 / 4.0f) * F8_EXP2((x) / 4 % 32) / 32768 : (x) % 4 / 65536.0f)
#define F8_E5M2(x)                                                                                 \
    ((x) % 128 > 124 ? NAN : (x) % 128 == 124 ? F8_SIGN(x) * INFINITY : F8_SIGN(x) * F8_E5M2_(x))
#define F8_4(f, x)     f((x)), f((x) + 1), f((x) + 2), f((x) + 3)
#define F8_16(f, x)    F8_4(f, x), F8_4(f, (x) + 4), F8_4(f, (x) + 8), F8_4(f, (x) + 12)
#define F8_64(f, x)    F8_16(f, x), F8_16(f, (x) + 16), F8_16(f, (x) + 32), F8_16(f, (x) + 48)
#define F8_256(f)      F8_64(f, 0), F8_64(f, 64), F8_64(f, 128), F8_64(f, 192)
#define F8_E4M3_VALUES F8_256(F8_E4M3)
#define F8_E5M2_VALUES F8_256(F8_E5M2)

#endif
