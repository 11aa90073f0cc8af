/* What random programs of calls found: bytes moved between files, sockets and counters, and what is looked at first. */
#include "../case.h"
#include <sys/eventfd.h>
#include <sys/sendfile.h>

/* A pipe that does not wait; `reads` and `writes` say which ends stay open. */
static void two_ends(int p[2], int reads, int writes) {
  pipe2(p, O_NONBLOCK);
  if (!reads) close(p[0]);
  if (!writes) close(p[1]);
}

CASE(fallocate, a_file_open_for_appending) { int fd = open("f", O_RDWR | O_CREAT | O_APPEND, 0600); write(fd, buf, 9000); R(fallocate, fd, 16, 4096, 100); R(fallocate, fd, 17, 100000, 100); R(fallocate, fd, 3, 0, 4096); struct stat s; fstat(fd, &s); P(s.st_size); }
CASE(fallocate, streams_open_for_appending) { int p[2], s[2]; two_ends(p, 1, 1); socketpair(AF_UNIX, SOCK_STREAM, 0, s); fcntl(p[1], F_SETFL, O_APPEND); fcntl(s[0], F_SETFL, O_APPEND); R(fallocate, p[1], 17, 0, 100); R(fallocate, s[0], 16, 0, 100); }
CASE(writev, a_counter_takes_each_buffer) { u64 a = 3, b = 4; int e = eventfd(0, EFD_NONBLOCK); struct iovec v[3] = {{&a, 8}, {buf, 0}, {&b, 8}}; R(writev, e, v, 3); R(read, e, &a, 8); P(a); v[0].iov_len = 4; v[1].iov_len = 4; R(writev, e, v, 2); R(writev, e, v + 1, 2); v[0].iov_len = 8; R(writev, e, v, 3); R(read, e, &a, 8); P(a); }
CASE(splice, counters_are_refused) { int e = eventfd(1, EFD_NONBLOCK), p[2]; two_ends(p, 1, 1); R(splice, e, 0, p[1], 0, 8, 0); R(splice, p[0], 0, e, 0, 8, 0); write(p[1], buf, 8); R(splice, p[0], 0, e, 0, 8, 0); int n; ioctl(p[0], FIONREAD, &n); P(n); }
CASE(splice, what_is_looked_at_first) { int a[2], b[2]; signal(SIGPIPE, SIG_IGN); two_ends(a, 1, 1); two_ends(b, 0, 1); R(splice, a[0], 0, b[1], 0, 10, SPLICE_F_NONBLOCK); two_ends(a, 1, 0); R(splice, a[0], 0, b[1], 0, 10, SPLICE_F_NONBLOCK); two_ends(b, 1, 1); R(splice, a[0], 0, b[1], 0, 10, SPLICE_F_NONBLOCK); R(splice, a[0], 0, b[1], 0, 0, 0); }
CASE(splice, a_page_with_a_byte_is_full) { int a[2], b[2]; two_ends(a, 1, 1); two_ends(b, 1, 1); P(fcntl(b[1], F_SETPIPE_SZ, 4096)); write(b[1], "x", 1); write(a[1], "yz", 2); R(splice, a[0], 0, b[1], 0, 10, SPLICE_F_NONBLOCK); struct pollfd f = {b[1], POLLOUT, 0}; P(poll(&f, 1, 0)); R(write, b[1], "w", 1); }
CASE(splice, a_folder_into_a_pipe) { int p[2], d = open(".", O_RDONLY); two_ends(p, 1, 1); R(splice, d, 0, p[1], 0, 10, 0); R(splice, d, 0, p[1], 0, 0, 0); }
CASE(tee, what_is_looked_at_first) { int a[2], b[2]; two_ends(a, 1, 1); two_ends(b, 0, 1); signal(SIGPIPE, SIG_IGN); R(tee, a[0], b[1], 10, SPLICE_F_NONBLOCK); two_ends(a, 1, 0); R(tee, a[0], b[1], 10, SPLICE_F_NONBLOCK); signal(SIGPIPE, SIG_DFL); CHILD(tee(a[0], b[1], 10, SPLICE_F_NONBLOCK)); two_ends(b, 1, 1); R(tee, a[0], b[1], 10, SPLICE_F_NONBLOCK); }
CASE(sendfile, a_socket_into_a_pipe) { int p[2], s[2]; two_ends(p, 1, 1); socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s); R(sendfile, p[1], s[0], 0, 10); write(s[1], "hello", 5); R(sendfile, p[1], s[0], 0, 10); R(read, p[0], buf, 10); socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s); write(s[1], "hello", 5); R(sendfile, p[1], s[0], 0, 3); R(sendfile, p[1], s[0], 0, 3); off_t o = 0; R(sendfile, p[1], s[0], &o, 3); }
CASE(sendfile, nothing_from_anything) { int p[2], d = open(".", O_RDONLY), e = eventfd(0, 0), f = make("f", ""); two_ends(p, 1, 1); R(sendfile, p[1], d, 0, 0); R(sendfile, p[1], e, 0, 0); R(sendfile, p[1], d, 0, 1); R(sendfile, p[1], e, 0, 1); R(sendfile, f, d, 0, 0); R(sendfile, f, d, 0, 1); R(sendfile, f, e, 0, 0); R(sendfile, f, p[0], 0, 0); }
CASE(sendfile, a_file_to_nowhere) { int f = make("f", ""), n = open("/dev/null", O_WRONLY); ftruncate(f, 300000); R(sendfile, n, f, 0, 1000000); lseek(f, 0, SEEK_SET); R(sendfile, n, f, 0, 70000); off_t o = 299999; R(sendfile, n, f, &o, 10); P(o); }
CASE(sendfile, a_pipe_into_a_pipe) { int a[2], b[2]; two_ends(a, 1, 1); two_ends(b, 1, 1); write(a[1], "x", 1); R(sendfile, b[1], a[0], 0, 1); R(sendfile, b[1], a[0], 0, 0); }
CASE(sendfile, a_packet_socket_raises_no_signal) { int s[2], f = make("f", "text"); socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s); close(s[1]); lseek(f, 0, SEEK_SET); R(sendfile, s[0], f, 0, 4); socketpair(AF_UNIX, SOCK_STREAM, 0, s); close(s[1]); CHILD(sendfile(s[0], f, 0, 4)); }
CASE(poll, a_full_pipe_that_nobody_reads) { int p[2]; two_ends(p, 1, 1); P(fcntl(p[1], F_SETPIPE_SZ, 4096)); write(p[1], buf, 100); close(p[0]); struct pollfd f = {p[1], POLLOUT, 0}; P(poll(&f, 1, 0)); X(f.revents); int n = -1; R(ioctl, p[1], FIONREAD, &n); P(n); }
CASE(write, nothing_to_a_file_open_for_appending) { int fd = open("f", O_RDWR | O_CREAT | O_APPEND, 0600); write(fd, "0123456789", 10); lseek(fd, 3, SEEK_SET); R(write, fd, buf, 0); R(lseek, fd, 0, SEEK_CUR); R(read, fd, buf, 4); R(write, fd, buf, 1); R(lseek, fd, 0, SEEK_CUR); }
CASE(write, a_peer_that_is_gone_is_forgotten) { int s[2]; socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s); write(s[1], "left", 4); close(s[1]); struct pollfd f = {s[0], POLLIN | POLLOUT, 0}; P(poll(&f, 1, 0)); X(f.revents); R(write, s[0], "x", 1); P(poll(&f, 1, 0)); X(f.revents); R(read, s[0], buf, 10); R(write, s[0], "x", 1); }
CASE(munmap, part_of_the_vdso) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[400];
  while (fgets(line, sizeof line, maps)) {
    unsigned long from, to;
    if (!strstr(line, "[vdso]") || sscanf(line, "%lx-%lx", &from, &to) != 2) continue;
    P(to - from > 4096);
    out("%.4s\n", strchr(line, ' ') + 1);
    V("munmap of a part", S(munmap, from, 4096));
    V("munmap across its start", S(munmap, from - 4096, 8192));
    V("mprotect of a part", S(mprotect, from, 4096, PROT_READ));
    V("a fixed mapping on a part", S(mmap, from, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    V("mprotect of all", S(mprotect, from, to - from, PROT_READ));
    V("munmap of all", S(munmap, from, to - from));
    return;
  }
}
