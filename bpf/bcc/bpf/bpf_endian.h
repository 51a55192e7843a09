/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* In the place of libbpf's. Macros: BCC's functions of these names are no constants for a case. */
#ifndef PODWIRE_BCC_BPF_ENDIAN_H
#define PODWIRE_BCC_BPF_ENDIAN_H

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define bpf_htons(value) __builtin_bswap16(value)
#define bpf_htonl(value) __builtin_bswap32(value)
#else
#define bpf_htons(value) (value)
#define bpf_htonl(value) (value)
#endif
#define bpf_ntohs(value) bpf_htons(value)
#define bpf_ntohl(value) bpf_htonl(value)

#endif
