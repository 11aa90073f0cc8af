// RLIMIT_FSIZE, file handles, quotas, statx's mount id, devices that do not move.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int hits;
static void xfsz(int s) { hits++; }
#define SHOW(call) do { long r_ = (call); int e_ = errno; printf("%s: %ld %s signals %d\n", #call, r_, r_ < 0 ? strerrorname_np(e_) : "", hits); hits = 0; } while (0)

int main(void) {
    signal(SIGXFSZ, xfsz);
    char dir[] = "/tmp/limits-XXXXXX";
    if (!mkdtemp(dir) || chdir(dir)) return 1;
    static char buf[20000];
    int fd = open("f", O_CREAT | O_RDWR, 0600);
    SHOW(write(fd, buf, 3000));
    struct rlimit rl = {8192, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &rl);
    SHOW(write(fd, buf, 3000));
    SHOW(write(fd, buf, 3000));
    SHOW(write(fd, buf, 3000));
    SHOW(write(fd, buf, 0));
    SHOW(pwrite(fd, buf, 10, 8190));
    SHOW(pwrite(fd, buf, 10, 8192));
    SHOW(pwrite(fd, buf, 10, 100));
    struct iovec v[3] = {{buf, 5000}, {buf, 0}, {buf, 6000}};
    lseek(fd, 0, SEEK_SET);
    SHOW(writev(fd, v, 3));
    SHOW(pwritev(fd, v, 3, 100));
    SHOW(ftruncate(fd, 8192));
    SHOW(ftruncate(fd, 10));
    SHOW(fallocate(fd, 0, 8000, 1000));
    SHOW(fallocate(fd, 0, 8000, 192));
    rl.rlim_cur = 100;
    setrlimit(RLIMIT_FSIZE, &rl);
    SHOW(lseek(fd, 0, SEEK_SET));
    int ap = open("f", O_WRONLY | O_APPEND);
    SHOW(write(ap, buf, 1));
    int p[2];
    if (pipe(p)) return 1;
    SHOW(write(p[1], buf, 3000));
    int null = open("/dev/null", O_RDWR);
    SHOW(write(null, buf, 3000));
    rl.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &rl);

    SHOW(lseek(null, 77, SEEK_SET));
    SHOW(lseek(null, -5, SEEK_SET));
    int full = open("/dev/full", O_RDWR), zero = open("/dev/zero", O_RDWR);
    SHOW(lseek(full, -4023481963509937558, SEEK_SET));
    SHOW(lseek(zero, 5, SEEK_END));
    SHOW(write(full, buf, 1));

    // Handles, on a file system that has them on both sides.
    unshare(0x20000);
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    mkdir("m", 0755);
    SHOW(mount("t", "m", "tmpfs", 0, NULL));
    int file = open("m/file", O_CREAT | O_RDWR, 0600);
    SHOW(write(file, "content", 7));
    struct { struct file_handle h; char bytes[128]; } h, small;
    int id = 0, id2 = 0;
    small.h.handle_bytes = 0;
    SHOW(name_to_handle_at(AT_FDCWD, "m/file", &small.h, &id, 0));
    printf("wants some: %d\n", small.h.handle_bytes > 0);
    h.h.handle_bytes = 128;
    SHOW(name_to_handle_at(AT_FDCWD, "m/file", &h.h, &id, 0));
    SHOW(name_to_handle_at(file, "", &h.h, &id2, AT_EMPTY_PATH));
    printf("one mount: %d\n", id == id2);
    h.h.handle_bytes = 129;
    SHOW(name_to_handle_at(AT_FDCWD, "m/file", &h.h, &id, 0));
    h.h.handle_bytes = 128;
    SHOW(name_to_handle_at(AT_FDCWD, "m/none", &h.h, &id, 0));
    SHOW(name_to_handle_at(AT_FDCWD, "m/file", &h.h, &id, 0x8000));
    SHOW(name_to_handle_at(AT_FDCWD, "/proc/self/stat", &h.h, &id, 0));
    SHOW(name_to_handle_at(AT_FDCWD, "m/file", &h.h, &id, 0));
    int dir_fd = open("m", O_RDONLY | O_DIRECTORY);
    int again = open_by_handle_at(dir_fd, &h.h, O_RDONLY);
    printf("opened %d read %zd\n", again >= 0, pread(again, buf, 100, 0));
    struct stat a, b;
    fstat(file, &a), fstat(again, &b);
    printf("same %d\n", a.st_ino == b.st_ino && a.st_dev == b.st_dev);
    SHOW(open_by_handle_at(999, &h.h, O_RDONLY));
    SHOW(rename("m/file", "m/other"));
    SHOW(close(open_by_handle_at(dir_fd, &h.h, O_RDONLY)));
    unlink("m/other"), close(file), close(again), close(ap);
    SHOW(open_by_handle_at(dir_fd, &h.h, O_RDONLY));

    struct statx x;
    statx(AT_FDCWD, "m", 0, STATX_BASIC_STATS | STATX_MNT_ID, &x);
    printf("mount id %d root %d known %d\n", (x.stx_mask & STATX_MNT_ID) && (int)x.stx_mnt_id == id,
           !!(x.stx_attributes & STATX_ATTR_MOUNT_ROOT), !!(x.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT));
    statx(AT_FDCWD, "m/..", 0, STATX_BASIC_STATS | STATX_MNT_ID, &x);
    printf("elsewhere %d root %d\n", (int)x.stx_mnt_id != id, !!(x.stx_attributes & STATX_ATTR_MOUNT_ROOT));

    SHOW(syscall(SYS_quotactl, 0x800007 << 8, "/tmp", 0, NULL));
    SHOW(syscall(SYS_quotactl, 0x800007 << 8 | 9, "/tmp", 0, NULL));
    SHOW(syscall(SYS_quotactl, 0x800007 << 8, "/none", 0, NULL));
    SHOW(syscall(SYS_quotactl, 0x800007 << 8, NULL, 0, NULL));
    SHOW(syscall(443, 999, 0x800007 << 8, 0, NULL));
    umount2("m", MNT_DETACH);
    if (setgid(1000) || setuid(1000)) return 1;
    SHOW(open_by_handle_at(dir_fd, &h.h, O_RDONLY));
    return 0;
}
