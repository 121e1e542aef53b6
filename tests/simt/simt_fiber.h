/* Fibers: stacks that are switched between by the program itself. x86-64 has a switch of its own
 * (the registers that a call keeps); other processors use ucontext. AddressSanitizer is told of
 * every switch. */
#ifndef TESTS_SIMT_SIMT_FIBER_H
#define TESTS_SIMT_SIMT_FIBER_H

#include <stddef.h>
#include <stdint.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define FIBER_STACK ((size_t)256 << 10)
#else
#define FIBER_STACK ((size_t)128 << 10)
#endif
#define FIBER_GUARD ((size_t)64 << 10) /* inaccessible bytes below a stack */

struct fiber_stack {
    char *base; /* lowest byte */
    size_t size;
};

/* Where something stopped. */
struct fiber_context {
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t uc;
#endif
#ifdef __SANITIZE_ADDRESS__
    void *fake = nullptr;
    const void *bottom = nullptr;
    size_t size = 0;
#endif
};

/* Prepare to that switching to it calls entry() on the stack; entry never returns. */
void fiber_prepare(fiber_context *to, fiber_stack s, void (*entry)(void));
/* Stop here and go on where `to` stopped; returns when something switches back. With last the stack
 * is given up for good. */
void fiber_switch(fiber_context *from, fiber_context *to, bool last);
/* The first thing that entry does. */
void fiber_entered(void);

#endif
