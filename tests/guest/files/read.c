/* read, readv, pread64, preadv, preadv2: results, errnos in check order, positions. */
#include "../case.h"
static struct iovec io[1100];
static int abc(void) { int fd = make("f", "abcdefghij"); lseek(fd, 0, SEEK_SET); return fd; }
static int wronly(void) { touch("w"); return open("w", O_WRONLY); }

CASE(read, advances_the_position) { int fd = abc(); R(read, fd, buf, 4); show_bytes("got", buf, 4); R(lseek, fd, 0, SEEK_CUR); R(read, fd, buf, 10); R(read, fd, buf, 10); }
CASE(read, of_nothing) { int fd = abc(); R(read, fd, buf, 0); R(read, fd, BAD, 0); R(read, fd, KERNEL, 0); R(lseek, fd, 0, SEEK_CUR); }
CASE(read, bad_fd) { R(read, -1, buf, 1); R(read, 99, buf, 1); R(read, -1, BAD, 1); R(read, 1 << 30, buf, 0); }
CASE(read, not_open_for_reading) { int fd = wronly(); R(read, fd, buf, 1); R(read, fd, buf, 0); R(read, fd, BAD, 1); }
CASE(read, path_descriptor) { touch("f"); int fd = open("f", O_PATH); R(read, fd, buf, 1); }
CASE(read, folder) { int fd = open(".", O_RDONLY); R(read, fd, buf, 1); R(read, fd, buf, 0); R(read, fd, BAD, 1); }
CASE(read, bad_buffer) { int fd = abc(); R(read, fd, BAD, 1); R(read, fd, KERNEL, 1); R(read, fd, HIGH, 10); R(lseek, fd, 0, SEEK_CUR); }
CASE(read, buffer_ends_early) { int fd = abc(); char *e = edge(); R(read, fd, e - 3, 10); R(lseek, fd, 0, SEEK_CUR); show_bytes("got", e - 3, 3); }
CASE(read, read_only_buffer) { int fd = abc(); char *p = pages(1); mprotect(p, 4096, PROT_READ); R(read, fd, p, 4); R(lseek, fd, 0, SEEK_CUR); }
CASE(read, huge_count) { int fd = abc(); R(read, fd, buf, 1ul << 40); lseek(fd, 0, 0); R(read, fd, buf, -1l); R(read, fd, buf, 1ul << 63); }
CASE(read, beyond_the_end) { int fd = abc(); lseek(fd, 100, SEEK_SET); R(read, fd, buf, 10); R(lseek, fd, 0, SEEK_CUR); }
CASE(read, hole_is_zero) { int fd = abc(); S(pwrite64, fd, "x", 1, 100000); R(pread64, fd, buf, 10, 5000); P(buf[0] | buf[9]); R(pread64, fd, buf, 10, 99995); P(buf[5]); }
CASE(read, dev_null_and_zero) { int n = open("/dev/null", O_RDWR), z = open("/dev/zero", O_RDWR); R(read, n, buf, 9); R(write, n, BAD, 9); buf[3] = 1; R(read, z, buf, 9); P(buf[3]); R(write, z, buf, 9); }
CASE(read, dev_full) { int f = open("/dev/full", O_RDWR); R(read, f, buf, 9); R(write, f, buf, 9); R(write, f, buf, 0); }
CASE(read, position_is_shared_by_dup) { int fd = abc(), d = dup(fd); R(read, fd, buf, 3); R(read, d, buf, 3); show_bytes("got", buf, 3); }
CASE(read, position_is_shared_by_fork) { int fd = abc(); CHILD(R(read, fd, buf, 4)); R(lseek, fd, 0, SEEK_CUR); }
CASE(read, position_is_not_shared_by_open) { abc(); int a = open("f", O_RDONLY), b = open("f", O_RDONLY); R(read, a, buf, 3); R(lseek, b, 0, SEEK_CUR); }
CASE(read, after_unlink) { int fd = abc(); unlink("f"); R(read, fd, buf, 4); }
CASE(read, after_truncate) { int fd = abc(); lseek(fd, 8, 0); truncate("f", 4); R(read, fd, buf, 4); truncate("f", 9); R(read, fd, buf, 4); P(buf[0]); }
CASE(read, proc_file_by_pieces) { int fd = open("/proc/self/stat", O_RDONLY); R(read, fd, buf, 1); R(lseek, fd, 0, SEEK_CUR); P(S(read, fd, buf, 4096) > 20); R(read, fd, buf, 10); }

CASE(readv, fills_in_order) { int fd = abc(); io[0] = (struct iovec){buf, 2}; io[1] = (struct iovec){buf + 10, 0}; io[2] = (struct iovec){buf + 20, 5}; R(readv, fd, io, 3); show_bytes("a", buf, 2); show_bytes("b", buf + 20, 5); }
CASE(readv, counts) { int fd = abc(); R(readv, fd, io, 0); R(readv, fd, BAD, 0); R(readv, fd, io, 1024); R(readv, fd, io, 1025); R(readv, fd, io, -1); R(readv, -1, io, 1025); }
CASE(readv, negative_length) { int fd = abc(); io[0] = (struct iovec){buf, -1}; R(readv, fd, io, 1); io[0].iov_len = 1; io[1] = (struct iovec){buf, 1ul << 63}; R(readv, fd, io, 2); R(lseek, fd, 0, SEEK_CUR); }
CASE(readv, length_overflow) { int fd = abc(); io[0] = (struct iovec){buf, LONG_MAX}; io[1] = (struct iovec){buf, LONG_MAX}; R(readv, fd, io, 2); }
CASE(readv, bad_vector) { int fd = abc(); R(readv, fd, BAD, 1); char *e = edge(); R(readv, fd, e - 16, 2); R(readv, -1, BAD, 1); }
CASE(readv, bad_second_buffer) { int fd = abc(); io[0] = (struct iovec){buf, 4}; io[1] = (struct iovec){BAD, 4}; R(readv, fd, io, 2); R(lseek, fd, 0, SEEK_CUR); }
CASE(readv, bad_first_buffer) { int fd = abc(); io[0] = (struct iovec){BAD, 4}; io[1] = (struct iovec){buf, 4}; R(readv, fd, io, 2); R(lseek, fd, 0, SEEK_CUR); }
CASE(readv, kernel_buffer) { int fd = abc(); io[0] = (struct iovec){buf, 4}; io[1] = (struct iovec){KERNEL, 4}; R(readv, fd, io, 2); R(lseek, fd, 0, SEEK_CUR); }
CASE(readv, not_open_for_reading) { int fd = wronly(); R(readv, fd, io, 0); R(readv, fd, BAD, 1); }

CASE(pread64, leaves_the_position) { int fd = abc(); R(pread64, fd, buf, 4, 3); show_bytes("got", buf, 4); R(lseek, fd, 0, SEEK_CUR); }
CASE(pread64, offsets) { int fd = abc(); R(pread64, fd, buf, 4, 8); R(pread64, fd, buf, 4, 10); R(pread64, fd, buf, 4, 1000); R(pread64, fd, buf, 4, -1l); R(pread64, fd, buf, 4, LONG_MAX); R(pread64, fd, buf, 4, LONG_MAX - 2); }
CASE(pread64, errno_order) { R(pread64, -1, BAD, 4, -1l); int w = wronly(); R(pread64, w, BAD, 4, -1l); R(pread64, w, BAD, 4, 0); int d = open(".", O_RDONLY); R(pread64, d, BAD, 4, -1l); R(pread64, d, buf, 4, 0); }
CASE(pread64, pipe) { int p[2]; pipe(p); R(pread64, p[0], buf, 1, 0); R(pread64, p[1], buf, 1, 0); R(pread64, p[0], buf, 1, -1l); R(pwrite64, p[1], buf, 1, 0); }
CASE(pread64, of_nothing) { int fd = abc(); R(pread64, fd, BAD, 0, 0); R(pread64, fd, BAD, 0, -1l); }

CASE(preadv, offsets) { int fd = abc(); io[0] = (struct iovec){buf, 2}; io[1] = (struct iovec){buf + 4, 2}; R(preadv, fd, io, 2, 3, 0); show_bytes("got", buf + 4, 2); R(lseek, fd, 0, SEEK_CUR); R(preadv, fd, io, 2, -1l, -1l); R(preadv, fd, io, 2, 9, 0); R(preadv, fd, io, 2, 0, 1); }
CASE(preadv, errno_order) { int p[2]; pipe(p); io[0] = (struct iovec){buf, 2}; R(preadv, p[0], io, 1, 0, 0); R(preadv, -1, BAD, 1, 0, 0); R(preadv, -1, BAD, 1, -1l, -1l); int fd = abc(); R(preadv, fd, BAD, 1, 0, 0); R(preadv, fd, io, 1025, 0, 0); R(preadv, fd, io, 0, 0, 0); }
CASE(preadv2, minus_one_uses_the_position) { int fd = abc(); io[0] = (struct iovec){buf, 3}; R(preadv2, fd, io, 1, -1l, -1l, 0); R(lseek, fd, 0, SEEK_CUR); R(preadv2, fd, io, 1, 0, 0, 0); R(lseek, fd, 0, SEEK_CUR); }
CASE(preadv2, flags) { int fd = abc(); io[0] = (struct iovec){buf, 3}; R(preadv2, fd, io, 1, 0, 0, RWF_HIPRI); R(preadv2, fd, io, 1, 0, 0, RWF_DSYNC); R(preadv2, fd, io, 1, 0, 0, RWF_SYNC); R(preadv2, fd, io, 1, 0, 0, 1 << 30); R(preadv2, fd, io, 1, -2l, -1l, 0); }
CASE(preadv2, nowait_on_an_empty_pipe) { int p[2]; pipe(p); io[0] = (struct iovec){buf, 3}; R(preadv2, p[0], io, 1, -1l, -1l, RWF_NOWAIT); write(p[1], "x", 1); R(preadv2, p[0], io, 1, -1l, -1l, RWF_NOWAIT); }
CASE(readahead, errnos) { int fd = abc(); R(readahead, fd, 0, 10); R(readahead, fd, 100000, 10); R(readahead, -1, 0, 10); int w = wronly(); R(readahead, w, 0, 10); int p[2]; pipe(p); R(readahead, p[0], 0, 1); R(readahead, fd, -1l, 10); int d = open(".", O_RDONLY); R(readahead, d, 0, 1); }
CASE(fadvise64, errnos) { int fd = abc(); for (int i = 0; i < 7; i++) R(fadvise64, fd, 0, 0, i); R(fadvise64, fd, -1l, 0, 0); R(fadvise64, fd, 0, -1l, 0); R(fadvise64, -1, 0, 0, 0); int p[2]; pipe(p); R(fadvise64, p[0], 0, 0, 0); R(fadvise64, p[0], 0, 0, 9); R(fadvise64, open("f", O_PATH), 0, 0, 0); }
