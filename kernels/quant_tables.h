/* Numbers that formats have tables of, as initialisers (`const float t[16] = {E2M1_VALUES};`): for
 * tables of the program and in a device's memory. */
#ifndef KERNELS_QUANT_TABLES_H
#define KERNELS_QUANT_TABLES_H

#define E2M1_VALUES 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6
#define IQ4_VALUES  -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
/* What brings digit i of a byte of five digits to its top: powers of three. */
#define POW3_VALUES 1, 3, 9, 27, 81

#endif
