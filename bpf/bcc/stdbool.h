/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef PODWIRE_BCC_STDBOOL_H
#define PODWIRE_BCC_STDBOOL_H

#define bool _Bool
#define true 1
#define false 0

#endif
