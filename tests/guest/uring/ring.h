/* A ring for cases: no library, so that what the kernel does can be seen. */
#ifndef RING_H
#define RING_H
#include "../case.h"
#include <linux/time_types.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

/* Own declarations: the headers of a machine may be older than the cases. */
struct sqe {
  u8 opcode, flags;
  uint16_t ioprio;
  int32_t fd;
  u64 off, addr;
  u32 len, op_flags;
  u64 user_data;
  uint16_t buf_index, personality;
  u32 file_index;
  u64 addr3, pad2;
};
struct cqe { u64 user_data; int32_t res; u32 flags; };
struct offsets { u32 head, tail, mask, entries, flags, dropped, array, resv1; u64 user_addr; };
struct params {
  u32 sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
  struct offsets sq, cq; /* of the second: flags is overflow, dropped is cqes, array is flags */
};
enum { NOP, READV, WRITEV, FSYNC, READ_FIXED, WRITE_FIXED, POLL_ADD, POLL_REMOVE, SYNC_FILE_RANGE, SENDMSG, RECVMSG, TIMEOUT,
       TIMEOUT_REMOVE, ACCEPT, ASYNC_CANCEL, LINK_TIMEOUT, CONNECT, FALLOCATE, OPENAT, CLOSE, FILES_UPDATE, STATX, READ, WRITE,
       FADVISE, MADVISE, SEND, RECV, OPENAT2, EPOLL_CTL, SPLICE, PROVIDE_BUFFERS, REMOVE_BUFFERS, TEE, SHUTDOWN, RENAMEAT,
       UNLINKAT, MKDIRAT, SYMLINKAT, LINKAT, MSG_RING, FSETXATTR, SETXATTR, FGETXATTR, GETXATTR, SOCKET_ };
enum { FIXED_FILE = 1, IO_DRAIN = 2, IO_LINK = 4, IO_HARDLINK = 8, IO_ASYNC = 16, BUFFER_SELECT = 32, CQE_SKIP = 64 };

struct ring {
  int fd;
  struct params p;
  char *rings;
  struct sqe *sqes;
  u32 tail;
};

static struct ring the_ring;

__attribute__((unused)) static int ring_open(struct ring *r, u32 entries, u32 flags) {
  memset(r, 0, sizeof *r);
  r->p.flags = flags;
  r->fd = S(io_uring_setup, entries, &r->p);
  if (r->fd < 0) return r->fd;
  u64 size = r->p.sq.array + r->p.sq_entries * 4, cq = r->p.cq.dropped + r->p.cq_entries * (flags & 1 << 11 ? 32 : 16);
  r->rings = mmap(0, cq > size ? cq : size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
  r->sqes = mmap(0, r->p.sq_entries * (flags & 1 << 10 ? 128ul : 64ul), PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0x10000000);
  return r->fd;
}
#define AT(r, what) (*(volatile u32 *)((r)->rings + (r)->p.what))

/* The next entry, zeroed. Call `go` when some are filled. */
__attribute__((unused)) static struct sqe *next(struct ring *r, int opcode, int fd, const void *addr, u32 len, u64 off, u64 data) {
  u32 slot = r->tail & (r->p.sq_entries - 1);
  struct sqe *e = (struct sqe *)((char *)r->sqes + slot * (r->p.flags & 1 << 10 ? 128ul : 64ul));
  memset(e, 0, 64);
  e->opcode = opcode;
  e->fd = fd;
  e->addr = (u64)addr;
  e->len = len;
  e->off = off;
  e->user_data = data;
  if (!(r->p.flags & 1 << 16)) ((volatile u32 *)(r->rings + r->p.sq.array))[slot] = slot;
  r->tail++;
  __atomic_store_n((u32 *)(r->rings + r->p.sq.tail), r->tail, __ATOMIC_RELEASE);
  return e;
}
/* Submits so many and waits for so many answers. */
__attribute__((unused)) static long go(struct ring *r, u32 submit, u32 wait) {
  return S(io_uring_enter, r->fd, submit, wait, wait ? 1 : 0, 0, 0);
}
/* The next answer, or 0. */
__attribute__((unused)) static int fetch(struct ring *r, struct cqe *c) {
  u32 head = AT(r, cq.head);
  if (head == __atomic_load_n((u32 *)(r->rings + r->p.cq.tail), __ATOMIC_ACQUIRE)) return 0;
  *c = *(struct cqe *)(r->rings + r->p.cq.dropped + (head & (r->p.cq_entries - 1)) * (r->p.flags & 1 << 11 ? 32ul : 16ul));
  __atomic_store_n((u32 *)(r->rings + r->p.cq.head), head + 1, __ATOMIC_RELEASE);
  return 1;
}
__attribute__((unused)) static void tell(const struct cqe *c) {
  char flags[32] = "";
  if (c->flags) snprintf(flags, sizeof flags, " flags %#x", c->flags);
  if (c->res < 0) out("  %llu: -%s%s\n", (unsigned long long)c->user_data, error_name(-c->res), flags);
  else out("  %llu: %d%s\n", (unsigned long long)c->user_data, c->res, flags);
}
/* Prints the answers that are there. */
__attribute__((unused)) static void answers(struct ring *r) {
  struct cqe c;
  while (fetch(r, &c)) tell(&c);
}
/* The same in the order of their names: for those that may end in any order. */
__attribute__((unused)) static void sorted(struct ring *r, int count) {
  struct cqe all[64];
  int n = 0;
  while (n < count && n < 64) {
    if (fetch(r, &all[n])) n++;
    else if (S(io_uring_enter, r->fd, 0, 1, 1, 0, 0) < 0) break;
  }
  for (int i = 0; i < n; i++)
    for (int j = i + 1; j < n; j++)
      if (all[j].user_data < all[i].user_data) { struct cqe c = all[i]; all[i] = all[j]; all[j] = c; }
  for (int i = 0; i < n; i++) tell(&all[i]);
}
/* Submits what was filled, waits for so many answers, prints them. */
#define GO(n, wait) do { V("submit", go(&the_ring, n, wait)); answers(&the_ring); } while (0)
#define RING(n, flags) NEED(ring_open(&the_ring, n, flags) >= 0)
#define PUT(...) next(&the_ring, __VA_ARGS__)
/* A pair of connected sockets, and a pipe. */
__attribute__((unused)) static int ends[2];
#endif
