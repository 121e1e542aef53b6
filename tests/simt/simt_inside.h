/* What the parts of the emulation share: not for kernels. */
#ifndef TESTS_SIMT_SIMT_INSIDE_H
#define TESTS_SIMT_SIMT_INSIDE_H

#include "tests/simt/simt.h"

/* ---- Device memory (simt_memory.cpp) ---- */

/* Kernels reach the device's memory between the two; the host never does. */
void memory_open(void);
void memory_close(void);
/* 256-byte aligned; NULL where the card is full. */
void *memory_alloc(size_t bytes);
bool memory_free(void *p); /* false: not the begin of an allocation */
size_t memory_total(void);
size_t memory_used(void);
/* The host's own way to n bytes of one allocation; NULL when they are not. */
void *memory_host_view(const void *p, size_t n);
/* Whether p lies in the range of device addresses at all. */
bool memory_is_device(const void *p);
/* Set bytes at p (as host_view takes it); zeros need no memory of the host. */
bool memory_fill(void *p, int byte, size_t n);
/* A sentence about an address for a report. */
void memory_describe(const void *p, char *out, size_t out_size);

/* ---- Kernels (simt_block.cpp) ---- */

void block_run_grid(simt_launch *l);
/* The running thread for messages, empty where none runs. */
void block_where(char *out, size_t out_size);
/* Of the running thread in its block; counts the blocks ever run. */
int block_thread_index(void);
uint64_t block_number(void);
bool block_is_shared(const void *p, size_t n);
/* Whether p is on the stack of a thread, or in the unmapped page below it. */
bool block_on_stack(const void *p);

/* ---- Settings (simt_runtime.cpp) ---- */

enum simt_order { ORDER_FORWARD, ORDER_REVERSE, ORDER_SHUFFLE };
struct simt_settings {
    simt_order order;
    unsigned long long seed;
    size_t device_bytes, smem_max;
    int n_sms, cc;
    bool eager, host_pointers;
};
const simt_settings *settings(void);

#endif
