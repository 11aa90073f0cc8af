/* write, writev, pwrite64, pwritev, pwritev2. */
#include "../case.h"
static struct iovec io[1100];
static int abc(void) { int fd = make("f", "abcdefghij"); lseek(fd, 0, SEEK_SET); return fd; }
static int rdonly(void) { touch("r"); return open("r", O_RDONLY); }
static void limit(long size) { struct rlimit l = {size, RLIM_INFINITY}; setrlimit(RLIMIT_FSIZE, &l); }

CASE(write, in_place) { int fd = abc(); lseek(fd, 3, 0); R(write, fd, "XY", 2); R(lseek, fd, 0, SEEK_CUR); show("f"); }
CASE(write, append) { abc(); int fd = open("f", O_WRONLY | O_APPEND); lseek(fd, 2, 0); R(write, fd, "!", 1); R(lseek, fd, 0, SEEK_CUR); show("f"); }
CASE(write, append_set_by_fcntl) { int fd = abc(); fcntl(fd, F_SETFL, O_APPEND); R(write, fd, "!", 1); fcntl(fd, F_SETFL, 0); lseek(fd, 0, 0); R(write, fd, "?", 1); show("f"); }
CASE(write, beyond_the_end_makes_a_hole) { int fd = abc(); lseek(fd, 14, 0); R(write, fd, "z", 1); show("f"); }
CASE(write, of_nothing) { int fd = abc(); R(write, fd, buf, 0); R(write, fd, BAD, 0); lseek(fd, 50, 0); R(write, fd, buf, 0); show("f"); }
CASE(write, bad_fd) { R(write, -1, buf, 1); R(write, 99, BAD, 1); int r = rdonly(); R(write, r, buf, 1); R(write, r, BAD, 0); R(write, open("r", O_PATH), buf, 1); }
CASE(write, folder) { int d = open(".", O_RDONLY); R(write, d, buf, 1); }
CASE(write, bad_buffer) { int fd = abc(); R(write, fd, BAD, 1); R(write, fd, KERNEL, 1); show("f"); }
CASE(write, buffer_ends_early) { int fd = abc(); char *e = edge(); memcpy(e - 3, "123", 3); R(write, fd, e - 3, 10); R(lseek, fd, 0, SEEK_CUR); show("f"); }
CASE(write, size_limit) { int fd = abc(); limit(12); signal(SIGXFSZ, SIG_IGN); lseek(fd, 10, 0); R(write, fd, "12345", 5); R(write, fd, "12345", 5); R(pwrite64, fd, "x", 1, 0); R(pwrite64, fd, "x", 1, 12); R(pwrite64, fd, "x", 0, 12); R(ftruncate, fd, 13); R(ftruncate, fd, 11); show("f"); }
CASE(write, size_limit_signal) { int fd = abc(); limit(4); CHILD(lseek(fd, 4, 0); write(fd, "x", 1)); catch_signal(SIGXFSZ, 0); R(pwrite64, fd, "x", 1, 9); P(caught); R(ftruncate, fd, 30); P(caught); }
CASE(write, closed_pipe) { int p[2]; pipe(p); close(p[0]); CHILD(write(p[1], "x", 1)); signal(SIGPIPE, SIG_IGN); R(write, p[1], "x", 1); R(write, p[1], "x", 0); R(write, p[1], BAD, 1); }
CASE(write, full_pipe_without_waiting) { int p[2]; pipe2(p, O_NONBLOCK); long n = 0, r; while ((r = S(write, p[1], buf, 4096)) > 0) n += r; P(n); R(write, p[1], buf, 1); S(read, p[0], buf, 4096); R(write, p[1], buf, 8192); R(write, p[1], buf, 1); }
CASE(write, partial_page_pipe) { int p[2]; pipe2(p, O_NONBLOCK); R(write, p[1], buf, 65535); R(write, p[1], buf, 2); R(write, p[1], buf, 1); R(write, p[1], buf, 1); }
CASE(write, read_only_file_system) { int fd = open("/proc/version", O_WRONLY); V("open", fd < 0 ? -errno : 0); R(write, fd, "x", 1); }
CASE(write, changes_times) { int fd = abc(); struct stat a, b; fstat(fd, &a); nap(20); write(fd, "x", 1); fstat(fd, &b); P(b.st_mtim.tv_nsec != a.st_mtim.tv_nsec || b.st_mtim.tv_sec != a.st_mtim.tv_sec); P(b.st_ctim.tv_nsec == b.st_mtim.tv_nsec); P(b.st_atim.tv_nsec == a.st_atim.tv_nsec); }
CASE(write, of_zero_bytes_keeps_times) { int fd = abc(); struct stat a, b; fstat(fd, &a); nap(20); write(fd, "x", 0); fstat(fd, &b); P(b.st_mtim.tv_nsec == a.st_mtim.tv_nsec); }
CASE(write, clears_set_id_bits) { int fd = abc(); fchmod(fd, 06777); CHILD(become(1000, 1000); int w = open("f", O_WRONLY); R(write, w, "x", 1)); struct stat s; fstat(fd, &s); out("mode %o\n", s.st_mode); }
CASE(write, atomic_append_of_two) { touch("f"); pid_t c[2]; for (int k = 0; k < 2; k++) c[k] = SPAWN(int fd = open("f", O_WRONLY | O_APPEND); for (int i = 0; i < 50; i++) write(fd, "0123456789abcdef", 16)); WAIT(c[0]); WAIT(c[1]); struct stat s; stat("f", &s); P(s.st_size); }
CASE(writev, gathers) { int fd = abc(); io[0] = (struct iovec){"12", 2}; io[1] = (struct iovec){BAD, 0}; io[2] = (struct iovec){"345", 3}; R(writev, fd, io, 3); show("f"); }
CASE(writev, counts) { int fd = abc(); R(writev, fd, io, 0); R(writev, fd, io, 1024); R(writev, fd, io, 1025); R(writev, fd, BAD, 1); R(writev, -1, io, 1025); R(writev, rdonly(), io, 0); }
CASE(writev, bad_buffers) { int fd = abc(); io[0] = (struct iovec){"12", 2}; io[1] = (struct iovec){BAD, 2}; R(writev, fd, io, 2); show("f"); io[0] = (struct iovec){BAD, 2}; R(writev, fd, io, 2); io[0] = (struct iovec){"12", -1}; R(writev, fd, io, 1); }
CASE(writev, to_a_pipe_in_one_piece) { int p[2]; pipe(p); io[0] = (struct iovec){"12", 2}; io[1] = (struct iovec){"345", 3}; R(writev, p[1], io, 2); R(read, p[0], buf, 10); }
CASE(pwrite64, leaves_the_position) { int fd = abc(); R(pwrite64, fd, "ZZ", 2, 5); R(lseek, fd, 0, SEEK_CUR); show("f"); }
CASE(pwrite64, ignores_its_offset_with_append) { abc(); int fd = open("f", O_RDWR | O_APPEND); R(pwrite64, fd, "ZZ", 2, 0); show("f"); }
CASE(pwrite64, offsets) { int fd = abc(); R(pwrite64, fd, "x", 1, -1l); R(pwrite64, fd, "x", 1, LONG_MAX); R(pwrite64, fd, "x", 0, LONG_MAX); R(pwrite64, fd, BAD, 1, -1l); R(pwrite64, -1, BAD, 1, -1l); R(pwrite64, rdonly(), BAD, 1, -1l); R(pwrite64, rdonly(), BAD, 1, 0); }
CASE(pwritev, positions) { int fd = abc(); io[0] = (struct iovec){"12", 2}; io[1] = (struct iovec){"3", 1}; R(pwritev, fd, io, 2, 4, 0); show("f"); R(lseek, fd, 0, SEEK_CUR); R(pwritev, fd, io, 2, -1l, -1l); int p[2]; pipe(p); R(pwritev, p[1], io, 1, 0, 0); R(pwritev, -1, BAD, 1, 0, 0); R(pwritev, fd, BAD, 1, 0, 0); }
CASE(pwritev2, append_flag) { int fd = abc(); io[0] = (struct iovec){"12", 2}; R(pwritev2, fd, io, 1, 0, 0, RWF_APPEND); show("f"); R(lseek, fd, 0, SEEK_CUR); R(pwritev2, fd, io, 1, -1l, -1l, RWF_APPEND); R(lseek, fd, 0, SEEK_CUR); }
CASE(pwritev2, flags) { int fd = abc(); io[0] = (struct iovec){"12", 2}; R(pwritev2, fd, io, 1, 0, 0, RWF_DSYNC); R(pwritev2, fd, io, 1, 0, 0, RWF_SYNC); R(pwritev2, fd, io, 1, 0, 0, 1 << 29); R(pwritev2, fd, io, 1, -2l, -1l, 0); R(pwritev2, fd, io, 1, -1l, -1l, 0); R(lseek, fd, 0, SEEK_CUR); }
CASE(pwritev2, noappend_flag) { abc(); int fd = open("f", O_RDWR | O_APPEND); io[0] = (struct iovec){"12", 2}; R(pwritev2, fd, io, 1, 0, 0, 0x20); show("f"); }
CASE(fsync, kinds) { int fd = abc(), p[2]; pipe(p); R(fsync, fd); R(fsync, open(".", O_RDONLY)); R(fsync, p[0]); R(fsync, -1); R(fsync, open("/dev/null", O_RDWR)); R(fsync, open("f", O_PATH)); R(fsync, rdonly()); R(fsync, open("/proc/self/stat", O_RDONLY)); }
CASE(fdatasync, kinds) { int fd = abc(), p[2]; pipe(p); R(fdatasync, fd); R(fdatasync, open(".", O_RDONLY)); R(fdatasync, p[0]); R(fdatasync, -1); R(fdatasync, socket(AF_UNIX, SOCK_STREAM, 0)); }
CASE(sync, returns) { R(sync); }
CASE(syncfs, kinds) { int fd = abc(); R(syncfs, fd); R(syncfs, -1); R(syncfs, open(".", O_RDONLY)); R(syncfs, open(".", O_PATH)); }
CASE(sync_file_range, arguments) { int fd = abc(), p[2]; pipe(p); R(sync_file_range, fd, 0, 0, 7); R(sync_file_range, fd, 0, 0, 0); R(sync_file_range, fd, 0, 0, 8); R(sync_file_range, fd, -1l, 0, 7); R(sync_file_range, fd, 0, -1l, 7); R(sync_file_range, fd, LONG_MAX, 1, 7); R(sync_file_range, p[0], 0, 0, 7); R(sync_file_range, -1, 0, 0, 8); R(sync_file_range, open("/dev/null", 2), 0, 0, 7); R(sync_file_range, open(".", 0), 0, 0, 7); }
