/* See simt_fiber.h. The x86-64 switch keeps what the System V ABI asks a function to keep, except
 * the control words of the floating-point units, which kernels do not change. */
#include "tests/simt/simt_fiber.h"

#include <string.h>

#ifdef __SANITIZE_ADDRESS__
static fiber_context *came_from;
static void asan_leave(fiber_context *from, fiber_context *to, bool last) {
    came_from = from;
    __sanitizer_start_switch_fiber(last ? nullptr : &from->fake, to->bottom, to->size);
}
static void asan_arrive(void *fake) {
    __sanitizer_finish_switch_fiber(fake, &came_from->bottom, &came_from->size);
}
#else
#define asan_leave(from, to, last) ((void)0)
#define asan_arrive(fake)          ((void)0)
#endif

void fiber_entered(void) {
    asan_arrive(nullptr);
}

#if defined(__x86_64__)

extern "C" void simt_switch_stack(void **save, void *to);
/* The first word of every stack's frame is the address to go on at. */
asm(".text\n"
    ".p2align 4\n"
    ".hidden simt_switch_stack\n"
    ".globl simt_switch_stack\n"
    ".type simt_switch_stack,@function\n"
    "simt_switch_stack:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size simt_switch_stack, .-simt_switch_stack\n");

void fiber_prepare(fiber_context *to, fiber_stack s, void (*entry)(void)) {
    /* entry begins as after a call: the stack is 16-byte aligned before the return address. */
    void **top = (void **)(s.base + s.size) - 2;
    *--top = nullptr; /* the return address of entry: ends backtraces */
    *--top = (void *)entry;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    to->sp = top;
#ifdef __SANITIZE_ADDRESS__
    to->bottom = s.base, to->size = s.size, to->fake = nullptr;
#endif
}

void fiber_switch(fiber_context *from, fiber_context *to, bool last) {
    asan_leave(from, to, last);
    simt_switch_stack(&from->sp, to->sp);
    asan_arrive(from->fake);
}

#else

void fiber_prepare(fiber_context *to, fiber_stack s, void (*entry)(void)) {
    getcontext(&to->uc);
    to->uc.uc_stack.ss_sp = s.base;
    to->uc.uc_stack.ss_size = s.size;
    to->uc.uc_link = nullptr;
    makecontext(&to->uc, entry, 0);
#ifdef __SANITIZE_ADDRESS__
    to->bottom = s.base, to->size = s.size, to->fake = nullptr;
#endif
}

void fiber_switch(fiber_context *from, fiber_context *to, bool last) {
    asan_leave(from, to, last);
    swapcontext(&from->uc, &to->uc);
    asan_arrive(from->fake);
}

#endif
