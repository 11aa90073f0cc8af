/* Packet sockets that send from a ring, and groups of them that share packets. */
#include "../case.h"
#include "net.h"
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
static struct sockaddr_ll on_lo(int protocol) { return (struct sockaddr_ll){.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = 1, .sll_halen = 6}; }
#define BINDLL(s, protocol) ({ struct sockaddr_ll l_ = on_lo(protocol); R(bind, s, &l_, sizeof l_); })
/* A socket for frames of a protocol of our own: nobody else uses it. */
static int packet(int kind, int protocol) { int s = socket(AF_PACKET, kind, htons(protocol)); struct sockaddr_ll l = on_lo(protocol); bind(s, (SA *)&l, sizeof l); return s; }
static int read_all(int s) { int n = 0; while (recv(s, buf, sizeof buf, MSG_DONTWAIT) >= 0) n++; return n; }
#define OUR 0x88b5
CASE(tx_ring, checks) {
  own_net(); int s = packet(SOCK_RAW, OUR); struct tpacket_req q = {4096, 2, 2048, 4}, bad; struct tpacket_req3 q3 = {4096, 2, 2048, 4, 0, 0, 0};
  bad = q; bad.tp_block_size = 5000; R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &bad, sizeof bad); bad = q; bad.tp_frame_nr = 5; R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &bad, sizeof bad); bad = q; bad.tp_frame_size = 40; R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &bad, sizeof bad); R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &q, 12);
  R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &q, sizeof q); R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &q, sizeof q); P(on(s, SOL_PACKET, PACKET_VERSION, TPACKET_V2)); P(on(s, SOL_PACKET, PACKET_RESERVE, 16)); P(on(s, SOL_PACKET, PACKET_LOSS, 1)); P(on(s, SOL_PACKET, PACKET_TX_HAS_OFF, 1)); P(get(s, SOL_PACKET, PACKET_TX_HAS_OFF));
  V("short", S(mmap, 0, 4096, 3, MAP_SHARED, s, 0) < 0); void *p = mmap(0, 8192, 3, MAP_SHARED, s, 0); P(p != MAP_FAILED); bad = (struct tpacket_req){0}; R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &bad, sizeof bad); munmap(p, 8192); R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &bad, sizeof bad); P(on(s, SOL_PACKET, PACKET_LOSS, 1)); P(get(s, SOL_PACKET, PACKET_LOSS));
  P(on(s, SOL_PACKET, PACKET_VERSION, TPACKET_V3)); q3.tp_retire_blk_tov = 9; R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &q3, sizeof q3); q3.tp_retire_blk_tov = 0; q3.tp_sizeof_priv = 8; R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &q3, sizeof q3); q3.tp_sizeof_priv = 0; R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &q3, sizeof q3);
}
/* A frame's header in the three versions: where its status, its length and its places are. */
static unsigned *status_of(char *f, int v) { return (unsigned *)(f + (v == 2 ? 20 : 0)); }
static void fill(char *f, int v, const char *text, int kind) {
  int head = v == 2 ? 48 : 32, at = head, n = strlen(text); if (v == 2) *(unsigned *)f = 0;
  if (kind == SOCK_RAW) { memset(f + at, 0, 12); f[at + 12] = (char)(OUR >> 8); f[at + 13] = (char)OUR; at += 14; n += 14; }
  memcpy(f + at, text, strlen(text)); *(unsigned *)(f + (v == 0 ? 8 : v == 1 ? 4 : 16)) = n; *status_of(f, v) = TP_STATUS_SEND_REQUEST;
}
CASE(tx_ring, sends) {
  own_net();
  for (int v = 0; v < 3; v++) for (int k = 0; k < 2; k++) {
    int kind = k ? SOCK_DGRAM : SOCK_RAW, s = packet(kind, OUR), r = packet(SOCK_DGRAM, OUR); out("version %d kind %d\n", v, kind); on(s, SOL_PACKET, PACKET_VERSION, v); struct tpacket_req3 q = {4096, 1, 1024, 4, 0, 0, 0};
    R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &q, v == 2 ? sizeof q : sizeof(struct tpacket_req)); char *ring = mmap(0, 4096, 3, MAP_SHARED, s, 0); R(sendto, s, 0, 0, 0, 0, 0); X(events(s));
    fill(ring, v, "first", kind); fill(ring + 1024, v, "second", kind); R(sendto, s, 0, 0, 0, 0, 0); for (int i = 0; i < 1000 && *status_of(ring + 1024, v); i++) poll(0, 0, 1); P(*status_of(ring, v)); P(*status_of(ring + 1024, v));
    for (int i = 0; i < 2; i++) { memset(buf, 0, 99); wait_for(r, POLLIN); R(recvfrom, r, buf, 99, MSG_DONTWAIT, 0, 0); out("%s\n", (char *)buf); } P(read_all(r));
    /* The third is wrong: the second call stops there. A frame that is not next in turn waits. */
    fill(ring + 2048, v, "third", kind); *(unsigned *)(ring + 2048 + (v == 0 ? 8 : v == 1 ? 4 : 16)) = 5000; fill(ring + 3072, v, "fourth", kind); R(sendto, s, "ignored", 7, 0, 0, 0); P(*status_of(ring + 2048, v)); P(*status_of(ring + 3072, v)); *status_of(ring + 2048, v) = 0; R(sendto, s, 0, 0, 0, 0, 0);
    fill(ring + 2048, v, "again", kind); struct sockaddr_ll l = on_lo(OUR); R(sendto, s, 0, 0, 0, &l, sizeof l); memset(buf, 0, 99); wait_for(r, POLLIN); R(recvfrom, r, buf, 99, MSG_DONTWAIT, 0, 0); out("%s\n", (char *)buf); R(sendto, s, 0, 0, 0, &l, 11); l.sll_ifindex = 77; R(sendto, s, 0, 0, 0, &l, sizeof l);
    close(s); close(r); munmap(ring, 4096);
  }
}
CASE(tx_ring, skips_what_is_wrong) {
  own_net(); int s = packet(SOCK_DGRAM, OUR), r = packet(SOCK_DGRAM, OUR); on(s, SOL_PACKET, PACKET_LOSS, 1); on(s, SOL_PACKET, PACKET_TX_HAS_OFF, 1); on(s, SOL_PACKET, PACKET_VERSION, 1); struct tpacket_req q = {4096, 1, 1024, 4}; setsockopt(s, SOL_PACKET, PACKET_TX_RING, &q, sizeof q); char *ring = mmap(0, 4096, 3, MAP_SHARED, s, 0);
  fill(ring, 1, "no", SOCK_DGRAM); ((struct tpacket2_hdr *)ring)->tp_net = 31; fill(ring + 1024, 1, "placed", SOCK_DGRAM); ((struct tpacket2_hdr *)(ring + 1024))->tp_net = 100; memcpy(ring + 1124, "PLACED", 6); R(sendto, s, 0, 0, 0, 0, 0); P(*status_of(ring, 1)); memset(buf, 0, 99); wait_for(r, POLLIN); R(recvfrom, r, buf, 99, MSG_DONTWAIT, 0, 0); out("%s\n", (char *)buf);
}
CASE(tx_ring, beside_one_that_receives) {
  own_net(); int s = packet(SOCK_DGRAM, OUR); struct tpacket_req q = {4096, 1, 2048, 2}, none = {0}; R(setsockopt, s, SOL_PACKET, PACKET_RX_RING, &q, sizeof q); R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &q, sizeof q); P(mmap(0, 4096, 3, MAP_SHARED, s, 0) == MAP_FAILED); char *p = mmap(0, 8192, 3, MAP_SHARED, s, 0); fill(p + 4096, 0, "around", SOCK_DGRAM);
  R(sendto, s, 0, 0, 0, 0, 0); X(wait_for(s, POLLIN)); struct tpacket_hdr *h = (void *)p; P(h->tp_len); P(h->tp_status & TP_STATUS_USER); out("%.6s\n", p + h->tp_net); R(setsockopt, s, SOL_PACKET, PACKET_RX_RING, &none, sizeof none); munmap(p, 8192); R(setsockopt, s, SOL_PACKET, PACKET_RX_RING, &none, sizeof none); R(setsockopt, s, SOL_PACKET, PACKET_TX_RING, &none, sizeof none); R(sendto, s, "x", 1, 0, 0, 0);
}
CASE(ring, copies_what_it_cuts) {
  own_net(); int s = packet(SOCK_DGRAM, OUR), c = packet(SOCK_DGRAM, 0); struct tpacket_req q = {4096, 1, 256, 16}; P(on(s, SOL_PACKET, PACKET_COPY_THRESH, 1)); P(get(s, SOL_PACKET, PACKET_COPY_THRESH)); setsockopt(s, SOL_PACKET, PACKET_RX_RING, &q, sizeof q); char *p = mmap(0, 4096, 3, MAP_SHARED, s, 0); struct sockaddr_ll l = on_lo(OUR);
  memset(buf, 'x', 1000); P(sendto(c, buf, 1000, 0, (SA *)&l, sizeof l)); P(sendto(c, buf, 10, 0, (SA *)&l, sizeof l)); X(wait_for(s, POLLIN)); struct tpacket_hdr *h = (void *)p; P(h->tp_len); P(h->tp_snaplen + h->tp_mac); X(h->tp_status & (TP_STATUS_USER | TP_STATUS_COPY)); R(recvfrom, s, buf, 2000, MSG_DONTWAIT, 0, 0); R(recvfrom, s, buf, 2000, MSG_DONTWAIT, 0, 0); h = (void *)(p + 256); P(h->tp_len); X(h->tp_status & (TP_STATUS_USER | TP_STATUS_COPY));
}
static int join(int s, int id, int way) { return on(s, SOL_PACKET, PACKET_FANOUT, id | way << 16); }
#define JOIN(s, id, way) report_result("join " #s " " #id " " #way, join(s, id, way) < 0 ? -errno : 0, 0)
CASE(fanout, checks) {
  own_net(); int a = packet(SOCK_DGRAM, OUR), b = packet(SOCK_DGRAM, OUR), c = packet(SOCK_DGRAM, ETH_P_ALL), d = socket(AF_PACKET, SOCK_DGRAM, 0), e = socket(AF_PACKET, SOCK_DGRAM, htons(OUR)), zero = 0;
  P(get(a, SOL_PACKET, PACKET_FANOUT)); R(setsockopt, a, SOL_PACKET, PACKET_FANOUT, &zero, 3); JOIN(a, 1, 8); JOIN(a, 1, 3 | 0x1000); JOIN(d, 1, 0); JOIN(a, 1, PACKET_FANOUT_LB); JOIN(a, 1, PACKET_FANOUT_LB); X(get(a, SOL_PACKET, PACKET_FANOUT)); JOIN(b, 1, PACKET_FANOUT_HASH); JOIN(b, 1, PACKET_FANOUT_LB | 0x1000); JOIN(c, 1, PACKET_FANOUT_LB); JOIN(e, 1, PACKET_FANOUT_LB); JOIN(b, 1, PACKET_FANOUT_LB); BINDLL(b, OUR);
  JOIN(c, 5, PACKET_FANOUT_CPU | PACKET_FANOUT_FLAG_UNIQUEID); JOIN(c, 0, PACKET_FANOUT_CPU | PACKET_FANOUT_FLAG_UNIQUEID); int v = get(c, SOL_PACKET, PACKET_FANOUT); X(v & ~0xffff);
  struct fanout_args args = {.id = v ^ 0x8000, .type_flags = 0, .max_num_members = 1}; R(setsockopt, e, SOL_PACKET, PACKET_FANOUT, &args, sizeof args); int f = socket(AF_PACKET, SOCK_DGRAM, htons(OUR)); R(setsockopt, f, SOL_PACKET, PACKET_FANOUT, &args, sizeof args); args.max_num_members = 2; R(setsockopt, f, SOL_PACKET, PACKET_FANOUT, &args, sizeof args); args.id ^= 1; args.max_num_members = 65537; R(setsockopt, f, SOL_PACKET, PACKET_FANOUT, &args, sizeof args);
  uint64_t stats[3]; socklen_t n = sizeof stats; R(getsockopt, a, SOL_PACKET, PACKET_ROLLOVER_STATS, stats, &n); R(setsockopt, a, SOL_PACKET, PACKET_FANOUT_DATA, &zero, 4); R(setsockopt, f, SOL_PACKET, PACKET_FANOUT_DATA, &zero, 4);
}
/* What was sent has arrived once a socket beside the group has all of it, or a moment later. */
static void send_some(int n) { int c = packet(SOCK_DGRAM, 0), w = packet(SOCK_DGRAM, OUR); struct sockaddr_ll l = on_lo(OUR); for (int i = 0; i < n; i++) { char t = '0' + i; sendto(c, &t, 1, 0, (SA *)&l, sizeof l); } for (int i = 0; i < n; i++) { wait_for(w, POLLIN); recv(w, buf, 9, MSG_DONTWAIT); } poll(0, 0, 5); close(c); close(w); }
CASE(fanout, takes_turns) {
  own_net(); int s[3], n[3]; for (int i = 0; i < 3; i++) JOIN(s[i] = packet(SOCK_DGRAM, OUR), 7, PACKET_FANOUT_LB); send_some(9); int sum = 0; for (int i = 0; i < 3; i++) sum += n[i] = read_all(s[i]); P(sum); P(n[0] == 3 && n[1] == 3);
  close(s[0]); send_some(8); P(read_all(s[1])); P(read_all(s[2])); close(s[1]); close(s[2]); int again = packet(SOCK_DGRAM, OUR); JOIN(again, 7, PACKET_FANOUT_HASH);
}
CASE(fanout, one_flow_goes_one_way) {
  own_net(); int s[4]; for (int i = 0; i < 4; i++) JOIN(s[i] = packet(SOCK_DGRAM, ETH_P_IP), 7, PACKET_FANOUT_HASH); int a = udp(), b = udp(), full = 0, sum = 0; BIND4(a, "127.0.0.1", 4000); BIND4(b, "127.0.0.1", 4001); CONNECT4(a, "127.0.0.1", 4001); CONNECT4(b, "127.0.0.1", 4000); for (int i = 0; i < 5; i++) send(a, "x", 1, 0), send(b, "y", 1, 0); poll(0, 0, 20); for (int i = 0; i < 4; i++) { int n = read_all(s[i]); full += n > 0; sum += n; } P(full); P(sum);
}
CASE(fanout, a_program_chooses) {
  own_net(); int s[3]; for (int i = 0; i < 3; i++) JOIN(s[i] = packet(SOCK_DGRAM, OUR), 7, PACKET_FANOUT_CBPF); send_some(3); P(read_all(s[0])); P(read_all(s[1])); P(read_all(s[2]));
  struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, '0'), BPF_STMT(BPF_RET | BPF_A, 0)}, g[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, SKF_NET_OFF), BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, '0'), BPF_STMT(BPF_RET | BPF_A, 0)}; struct sock_fprog p = {3, f}, q = {3, g}; R(setsockopt, s[1], SOL_PACKET, PACKET_FANOUT_DATA, &p, 15); R(setsockopt, s[1], SOL_PACKET, PACKET_FANOUT_DATA, &q, sizeof q); send_some(5); P(read_all(s[0])); P(read_all(s[1])); P(read_all(s[2]));
}
CASE(fanout, rolls_over_when_full) {
  own_net(); int s[2]; for (int i = 0; i < 2; i++) { s[i] = packet(SOCK_DGRAM, OUR); struct tpacket_req q = {4096, 1, 1024, 4}; setsockopt(s[i], SOL_PACKET, PACKET_RX_RING, &q, sizeof q); JOIN(s[i], 7, PACKET_FANOUT_ROLLOVER); } send_some(9); uint64_t stats[3]; socklen_t n = sizeof stats; struct tpacket_stats t[2]; for (int i = 0; i < 2; i++) { n = sizeof *t; R(getsockopt, s[i], SOL_PACKET, PACKET_STATISTICS, t + i, &n); out("%u packets, %u lost\n", t[i].tp_packets, t[i].tp_drops); } n = sizeof stats; R(getsockopt, s[0], SOL_PACKET, PACKET_ROLLOVER_STATS, stats, &n); P(n); out("%lu %lu %lu\n", stats[0], stats[1], stats[2]);
}
CASE(fanout, members_do_not_hear_each_other_send) {
  own_net(); int s[2]; for (int i = 0; i < 2; i++) JOIN(s[i] = packet(SOCK_DGRAM, ETH_P_ALL), 7, PACKET_FANOUT_LB); struct sockaddr_ll l = on_lo(OUR); R(sendto, s[0], "x", 1, 0, &l, sizeof l); poll(0, 0, 20); P(read_all(s[0]) + read_all(s[1])); int o = packet(SOCK_DGRAM, 0); sendto(o, "y", 1, 0, (SA *)&l, sizeof l); poll(0, 0, 20); P(read_all(s[0]) + read_all(s[1]));
  int t[2]; for (int i = 0; i < 2; i++) JOIN(t[i] = packet(SOCK_DGRAM, ETH_P_ALL), 8, PACKET_FANOUT_LB | 0x4000); sendto(o, "y", 1, 0, (SA *)&l, sizeof l); poll(0, 0, 20); P(read_all(t[0]) + read_all(t[1]));
}
