// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sender INTERFACE FRAMES FLOWS ID [FRAMES_A_SECOND [DESTINATION_MAC]]
 *
 * Sends FRAMES UDP frames of 100 bytes over FLOWS flows, in turn, as fast as it can (or as told): flow f has
 * source 10.ID.f/256.f%256, destination 10.200.0.1, ports 4000 and 5000. Prints how many went out.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_BYTES = 100, BURST = 64 };

struct __attribute__((packed)) frame {
	struct ether_header ethernet;
	struct iphdr ip;
	struct udphdr udp;
	uint8_t payload[FRAME_BYTES - sizeof(struct ether_header) - sizeof(struct iphdr) - sizeof(struct udphdr)];
};

static uint16_t ip_checksum(const void *header)
{
	uint16_t words[sizeof(struct iphdr) / 2];
	uint32_t sum = 0;

	memcpy(words, header, sizeof(words));
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static void fill(struct frame *frame, uint32_t flow, uint32_t id, const struct ether_addr *destination)
{
	memset(frame, 0, sizeof(*frame));
	memcpy(frame->ethernet.ether_dhost, destination, ETH_ALEN);
	memset(frame->ethernet.ether_shost, 0x04, ETH_ALEN);
	frame->ethernet.ether_type = htons(ETHERTYPE_IP);
	frame->ip.version = 4;
	frame->ip.ihl = 5;
	frame->ip.ttl = 64;
	frame->ip.protocol = IPPROTO_UDP;
	frame->ip.tot_len = htons(FRAME_BYTES - sizeof(frame->ethernet));
	frame->ip.saddr = htonl(10u << 24 | id << 16 | flow);
	frame->ip.daddr = htonl(10u << 24 | 200u << 16 | 1);
	frame->ip.check = ip_checksum((const uint8_t *)frame + sizeof(frame->ethernet));
	frame->udp.source = htons(4000);
	frame->udp.dest = htons(5000);
	frame->udp.len = htons(FRAME_BYTES - sizeof(frame->ethernet) - sizeof(frame->ip));
}

static void pace(uint64_t sent, uint64_t rate, const struct timespec *start)
{
	struct timespec now, rest;
	int64_t ahead_ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ahead_ns = (int64_t)(sent * 1000000000ull / rate) -
		   ((now.tv_sec - start->tv_sec) * 1000000000ll + now.tv_nsec - start->tv_nsec);
	if (ahead_ns <= 0)
		return;
	rest.tv_sec = ahead_ns / 1000000000;
	rest.tv_nsec = ahead_ns % 1000000000;
	nanosleep(&rest, NULL);
}

int main(int argc, char **argv)
{
	static struct frame frames[BURST];
	static struct iovec vectors[BURST];
	static struct mmsghdr messages[BURST];
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
	uint64_t total, flows, rate, sent = 0;
	struct ether_addr destination;
	struct timespec start;
	uint32_t id;
	int fd;

	if (argc < 5) {
		fprintf(stderr, "usage: sender INTERFACE FRAMES FLOWS ID [FRAMES_A_SECOND [DESTINATION_MAC]]\n");
		return 2;
	}
	total = strtoull(argv[2], NULL, 10);
	flows = strtoull(argv[3], NULL, 10);
	id = strtoul(argv[4], NULL, 10);
	rate = argc > 5 ? strtoull(argv[5], NULL, 10) : 0;
	if (!ether_aton_r(argc > 6 ? argv[6] : "02:02:02:02:02:02", &destination)) {
		fprintf(stderr, "%s: not a MAC address\n", argv[6]);
		return 2;
	}
	address.sll_ifindex = if_nametoindex(argv[1]);
	fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address))) {
		perror(argv[1]);
		return 1;
	}
	for (int i = 0; i < BURST; i++) {
		vectors[i] = (struct iovec){.iov_base = &frames[i], .iov_len = FRAME_BYTES};
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (sent < total) {
		unsigned int burst = total - sent < BURST ? total - sent : BURST;
		unsigned int done = 0;

		for (unsigned int i = 0; i < burst; i++)
			fill(&frames[i], (sent + i) % flows, id, &destination);
		while (done < burst) {
			int n = sendmmsg(fd, messages + done, burst - done, 0);

			if (n < 0 && errno != ENOBUFS && errno != EAGAIN) {
				perror("sendmmsg");
				return 1;
			}
			done += n > 0 ? n : 0;
		}
		sent += burst;
		if (rate)
			pace(sent, rate, &start);
	}
	printf("%llu\n", (unsigned long long)sent);
	return 0;
}
