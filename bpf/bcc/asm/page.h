/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* BCC's headers include it for what nothing here calls. */
