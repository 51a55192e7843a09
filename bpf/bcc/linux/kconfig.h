/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What BCC's own headers expect of a kernel's: it includes this file before all others. */
#ifndef PODWIRE_BCC_KCONFIG_H
#define PODWIRE_BCC_KCONFIG_H

#include <linux/types.h>

#define CONFIG_BPF_SYSCALL 1
#define __always_inline inline __attribute__((always_inline))

typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#endif
