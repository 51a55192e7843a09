/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* In the place of libbpf's: BCC declares the helpers itself. */
#ifndef PODWIRE_BCC_BPF_HELPERS_H
#define PODWIRE_BCC_BPF_HELPERS_H

#if __clang_major__ < 11 /* Debian 11's, the first with Linux 5.10 */
#error "the LLVM of this BCC is too old: 11 or newer is needed"
#endif

#ifndef NULL
#define NULL ((void *)0)
#endif

#define SEC(name) /* BCC takes each function for a program and chooses its section; the license is GPL to it */

#endif
