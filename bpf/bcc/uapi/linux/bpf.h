/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Empty: BCC brings a linux/bpf.h of its own, included before this one. */
