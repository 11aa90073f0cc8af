/* lseek, truncate, ftruncate, fallocate. */
#include "../case.h"
static int abc(void) { int fd = make("f", "abcdefghij"); lseek(fd, 0, SEEK_SET); return fd; }
static long size(int fd) { struct stat s; return fstat(fd, &s) ? -errno : s.st_size; }

CASE(lseek, whences) { int fd = abc(); R(lseek, fd, 3, SEEK_SET); R(lseek, fd, 3, SEEK_CUR); R(lseek, fd, -1, SEEK_END); R(lseek, fd, 5, SEEK_END); R(lseek, fd, -6, SEEK_CUR); }
CASE(lseek, errnos) { int fd = abc(), p[2]; pipe(p); R(lseek, fd, -1l, SEEK_SET); R(lseek, fd, 0, 9); R(lseek, fd, 0, -1); R(lseek, -1, 0, 0); R(lseek, p[0], 0, 0); R(lseek, p[0], 0, 9); R(lseek, fd, -11, SEEK_END); R(lseek, fd, 0, SEEK_CUR); R(lseek, open("f", O_PATH), 0, 0); }
CASE(lseek, far) { int fd = abc(); R(lseek, fd, 1l << 40, SEEK_SET); R(lseek, fd, LONG_MAX, SEEK_CUR); R(lseek, fd, LONG_MAX, SEEK_END); R(lseek, fd, LONG_MIN, SEEK_CUR); }
CASE(lseek, data_and_hole) { int fd = abc(); R(lseek, fd, 0, SEEK_DATA); R(lseek, fd, 0, SEEK_HOLE); R(lseek, fd, 10, SEEK_DATA); R(lseek, fd, 10, SEEK_HOLE); R(lseek, fd, 11, SEEK_HOLE); R(lseek, fd, -1l, SEEK_DATA); R(lseek, fd, -1l, SEEK_HOLE); }
CASE(lseek, data_after_a_hole) { int fd = open("h", O_RDWR | O_CREAT, 0644); pwrite(fd, "x", 1, 1 << 20); R(lseek, fd, 0, SEEK_DATA); R(lseek, fd, 0, SEEK_HOLE); R(lseek, fd, 1 << 20, SEEK_HOLE); ftruncate(fd, 2 << 20); R(lseek, fd, (1 << 20) + 4096, SEEK_DATA); }
CASE(lseek, folder) { int d = open(".", O_RDONLY); R(lseek, d, 0, SEEK_SET); R(lseek, d, 0, SEEK_CUR); R(lseek, d, -1l, SEEK_SET); }
CASE(lseek, devices) { int n = open("/dev/null", O_RDWR), z = open("/dev/zero", O_RDWR); R(lseek, n, 100, SEEK_SET); R(lseek, n, 100, SEEK_END); R(lseek, z, 100, SEEK_SET); R(lseek, z, 5, SEEK_CUR); }
CASE(lseek, proc_file) { int fd = open("/proc/self/status", O_RDONLY); R(lseek, fd, 10, SEEK_SET); R(lseek, fd, 0, SEEK_END); R(lseek, fd, -1l, SEEK_SET); P(S(read, fd, buf, 5)); }
CASE(lseek, of_things_without_position) { int e = syscall(SYS_eventfd2, 0, 0), s = socket(AF_UNIX, SOCK_STREAM, 0), ep = syscall(SYS_epoll_create1, 0); R(lseek, e, 0, SEEK_SET); R(lseek, s, 0, SEEK_SET); R(lseek, ep, 0, SEEK_SET); }
CASE(lseek, memfd) { int m = syscall(SYS_memfd_create, "x", 0); R(lseek, m, 100, SEEK_END); R(lseek, m, 0, SEEK_DATA); ftruncate(m, 1 << 20); R(lseek, m, 0, SEEK_DATA); R(lseek, m, 0, SEEK_HOLE); pwrite(m, "x", 1, 8192); R(lseek, m, 0, SEEK_DATA); R(lseek, m, 8192, SEEK_HOLE); }

CASE(ftruncate, grows_and_shrinks) { int fd = abc(); R(ftruncate, fd, 4); P(size(fd)); R(ftruncate, fd, 8); show("f"); R(ftruncate, fd, 0); P(size(fd)); R(ftruncate, fd, 1l << 33); P(size(fd)); }
CASE(ftruncate, errnos) { int fd = abc(), p[2]; pipe(p); R(ftruncate, fd, -1l); R(ftruncate, -1, -1l); R(ftruncate, -1, 0); R(ftruncate, open("f", O_RDONLY), 0); R(ftruncate, p[1], 0); R(ftruncate, open(".", O_RDONLY), 0); R(ftruncate, open("/dev/null", O_RDWR), 0); R(ftruncate, open("f", O_PATH), 0); }
CASE(ftruncate, keeps_the_position) { int fd = abc(); lseek(fd, 7, 0); ftruncate(fd, 2); R(lseek, fd, 0, SEEK_CUR); R(write, fd, "x", 1); show("f"); }
CASE(ftruncate, of_append_only_descriptor) { abc(); int fd = open("f", O_RDWR | O_APPEND); R(ftruncate, fd, 2); show("f"); }
CASE(ftruncate, changes_times_only_when_told) { int fd = abc(); struct stat a, b; fstat(fd, &a); nap(20); ftruncate(fd, 10); fstat(fd, &b); P(a.st_mtim.tv_nsec == b.st_mtim.tv_nsec); }
CASE(ftruncate, mapped_page_beyond_is_sigbus) { int fd = abc(); ftruncate(fd, 8192); volatile char *m = mmap(0, 8192, PROT_READ, MAP_SHARED, fd, 0); P(m[5000]); ftruncate(fd, 10); CHILD(buf[0] = m[5000]); P(m[0]); P(m[100]); }
CASE(ftruncate, zeroes_the_rest_of_the_page) { int fd = abc(); ftruncate(fd, 3); ftruncate(fd, 6); show("f"); volatile char *m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); m[100] = 7; ftruncate(fd, 200); R(pread64, fd, buf, 200, 0); P(buf[100]); }
CASE(truncate, errnos) { abc(); mkdir("d", 0755); R(truncate, "f", 3); R(truncate, "f", -1l); R(truncate, "none", -1l); R(truncate, "none", 0); R(truncate, "d", 0); R(truncate, "", 0); R(truncate, BAD, 0); R(truncate, "f/x", 0); symlink("f", "l"); R(truncate, "l", 1); show("f"); }
CASE(truncate, permission) { int fd = abc(); fchmod(fd, 0444); CHILD(become(1000, 1000); R(truncate, "f", 3); R(truncate, "f", -1l)); fchmod(fd, 0666); CHILD(become(1000, 1000); R(truncate, "f", 3)); }
CASE(truncate, running_program) { R(truncate, "/proc/self/exe", 0); }
CASE(truncate, fifo) { mkfifo("p", 0644); R(truncate, "p", 0); R(truncate, "/dev/null", 0); }
CASE(truncate, clears_set_id_bits) { int fd = abc(); fchmod(fd, 06777); CHILD(become(1000, 1000); truncate("f", 3)); struct stat s; fstat(fd, &s); out("mode %o\n", s.st_mode); }

CASE(fallocate, grows) { int fd = abc(); R(fallocate, fd, 0, 0, 100); P(size(fd)); R(fallocate, fd, 0, 50, 10); P(size(fd)); R(fallocate, fd, 1, 0, 9999); P(size(fd)); }
CASE(fallocate, errnos) { int fd = abc(), p[2]; pipe(p); R(fallocate, fd, 0, -1l, 10); R(fallocate, fd, 0, 0, 0); R(fallocate, fd, 0, 0, -1l); R(fallocate, fd, 0, LONG_MAX, 10); R(fallocate, -1, 0, 0, 10); R(fallocate, open("f", O_RDONLY), 0, 0, 10); R(fallocate, p[1], 0, 0, 10); R(fallocate, open(".", O_RDONLY), 0, 0, 10); R(fallocate, open("/dev/null", O_RDWR), 0, 0, 10); R(fallocate, fd, 1 << 20, 0, 10); }
CASE(fallocate, punch_hole) { int fd = abc(); R(fallocate, fd, 3, 2, 3); show("f"); R(fallocate, fd, 2, 0, 3); R(fallocate, fd, 3, 8, 100); P(size(fd)); show("f"); }
CASE(fallocate, zero_range) { int fd = abc(); R(fallocate, fd, 0x10, 2, 3); show("f"); R(fallocate, fd, 0x11, 8, 100); P(size(fd)); R(fallocate, fd, 0x10, 8, 8); P(size(fd)); }
CASE(fallocate, mode_mixes) { int fd = abc(); R(fallocate, fd, 0x13, 0, 3); R(fallocate, fd, 0x9, 0, 4096); R(fallocate, fd, 0x40, 0, 4096); }
CASE(fallocate, size_limit) { int fd = abc(); struct rlimit l = {12, RLIM_INFINITY}; setrlimit(RLIMIT_FSIZE, &l); signal(SIGXFSZ, SIG_IGN); R(fallocate, fd, 0, 0, 20); R(fallocate, fd, 0, 0, 12); }
CASE(fallocate, memfd_holes) { int m = syscall(SYS_memfd_create, "x", 0); ftruncate(m, 16384); memset(buf, 'a', 16384); pwrite(m, buf, 16384, 0); R(fallocate, m, 3, 4096, 4096); R(lseek, m, 0, SEEK_HOLE); R(lseek, m, 4096, SEEK_DATA); }
CASE(fallocate, modes_of_memfds) { int m = syscall(SYS_memfd_create, "x", 0); ftruncate(m, 16384); R(fallocate, m, 0x10, 0, 4096); R(fallocate, m, 0x11, 0, 4096); R(fallocate, m, 8, 0, 4096); R(fallocate, m, 0x20, 0, 4096); R(fallocate, m, 1, 16384, 4096); R(fallocate, m, 2, 0, 4096); }
