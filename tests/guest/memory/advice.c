// madvise, mincore, mlock, msync and the calls that need hardware or a kernel option: what each returns, and what it does.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul

static void show(const char *what, long result) {
    printf("%s: %ld %s\n", what, result < 0 ? -1 : result, result < 0 ? strerrorname_np(errno) : "");
}

static char *map(size_t pages, int prot, int flags, int fd) {
    char *p = mmap(0, pages * PAGE, prot, flags, fd, 0);
    if (p == MAP_FAILED)
        perror("mmap"), exit(1);
    return p;
}

#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)

static void in_core(const char *what, char *p, size_t pages) {
    unsigned char vec[32];
    memset(vec, 9, sizeof vec);
    int r = mincore(p, pages * PAGE, vec);
    printf("%s: mincore %d", what, r);
    for (size_t i = 0; i < pages; i++)
        printf(" %d", r == 0 ? vec[i] & 1 : -1);
    printf("\n");
}

static void every_advice(const char *what, char *p, size_t len) {
    // Without those that depend on the kernel's options and version: KSM (12, 13), COLLAPSE, guard pages.
    static const int list[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
                               24, 26, 99, -1};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char text[80];
        snprintf(text, sizeof text, "%s: advice %d", what, list[i]);
        errno = 0;
        show(text, madvise(p, len, list[i]));
    }
}

int main(void) {
    char file[] = "/tmp/advice-XXXXXX";
    int fd = mkstemp(file);
    unlink(file);
    char block[PAGE];
    memset(block, 'f', PAGE);
    for (int i = 0; i < 8; i++)
        write(fd, block, PAGE);

    // Each advice on each kind of area.
    every_advice("private", map(4, RW, PRIVATE, -1), 4 * PAGE);
    every_advice("read-only", map(4, PROT_READ, PRIVATE, -1), 4 * PAGE);
    every_advice("no access", map(4, PROT_NONE, PRIVATE, -1), 4 * PAGE);
    every_advice("shared", map(4, RW, SHARED, -1), 4 * PAGE);
    every_advice("private file", map(4, RW, MAP_PRIVATE, fd), 4 * PAGE);
    every_advice("shared file", map(4, RW, MAP_SHARED, fd), 4 * PAGE);
    every_advice("unaligned", map(4, RW, PRIVATE, -1) + 1, 4 * PAGE);
    every_advice("zero", map(4, RW, PRIVATE, -1), 0);
    char *hole = map(4, RW, PRIVATE, -1);
    munmap(hole + PAGE, PAGE);
    every_advice("hole", hole, 4 * PAGE);
    every_advice("wraps", hole, -PAGE);
    char *locked = map(4, RW, PRIVATE, -1);
    mlock(locked, 4 * PAGE);
    every_advice("locked", locked, 4 * PAGE);

    // What they do.
    char *p = map(4, RW, PRIVATE, -1);
    memset(p, 1, 4 * PAGE);
    madvise(p, 2 * PAGE, MADV_DONTNEED);
    printf("dontneed: %d %d\n", p[0], p[2 * PAGE]);
    p = map(4, RW, MAP_PRIVATE, fd);
    memset(p, 1, 4 * PAGE);
    madvise(p, 2 * PAGE, MADV_DONTNEED);
    printf("dontneed of a file: %c %d\n", p[0], p[2 * PAGE]);
    p = map(4, RW, SHARED, -1);
    memset(p, 1, 4 * PAGE);
    madvise(p, 2 * PAGE, MADV_DONTNEED);
    printf("dontneed of shared memory: %d\n", p[0]);
    madvise(p, 2 * PAGE, MADV_REMOVE);
    printf("remove: %d %d\n", p[0], p[2 * PAGE]);
    p = map(4, RW, PRIVATE, -1);
    memset(p, 1, 4 * PAGE);
    show("pageout", madvise(p, 4 * PAGE, 21));
    show("cold", madvise(p, 4 * PAGE, 20));
    printf("after pageout: %d\n", p[0]);
    p = map(4, RW, PRIVATE, -1);
    show("populate read", madvise(p, 2 * PAGE, 22));
    show("populate write", madvise(p + 3 * PAGE, PAGE, 23));
    in_core("populated", p, 2), in_core("populated", p + 3 * PAGE, 1);
    p = map(4, PROT_READ, PRIVATE, -1);
    show("populate write read-only", madvise(p, PAGE, 23));
    p = map(4, PROT_NONE, PRIVATE, -1);
    show("populate read no access", madvise(p, PAGE, 22));
    p = mmap(0, 4 * PAGE, RW, MAP_SHARED, fd, 6 * PAGE);
    show("populate beyond the end", madvise(p, 4 * PAGE, 22));
    p = map(4, RW, PRIVATE, -1);
    memset(p, 1, 4 * PAGE);
    madvise(p, PAGE, MADV_WIPEONFORK);
    madvise(p + PAGE, PAGE, MADV_DONTFORK);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        in_core("in the child", p + 2 * PAGE, 2);
        unsigned char vec;
        printf("wiped %d, left out %d, kept %d\n", p[0], mincore(p + PAGE, PAGE, &vec), p[2 * PAGE]);
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, 0, 0);

    // mincore.
    p = map(8, RW, PRIVATE, -1);
    p[2 * PAGE] = 1;
    in_core("one touched", p + 2 * PAGE, 1);
    unsigned char vec[64];
    show("mincore unaligned", mincore(p + 1, PAGE, vec));
    show("mincore nothing", mincore(p, 0, vec));
    show("mincore bad vector", mincore(p, PAGE, (void *)8));
    munmap(p + 4 * PAGE, PAGE);
    show("mincore hole", mincore(p, 8 * PAGE, vec));
    show("mincore wraps", mincore(p, -PAGE, vec));
    p = map(8, PROT_READ, MAP_SHARED, fd);
    in_core("file", p, 8);

    // mlock.
    p = map(8, RW, PRIVATE, -1);
    show("mlock", mlock(p, 3 * PAGE));
    in_core("mlocked", p, 3);
    show("mlock unaligned", mlock(p + 5, 1));
    show("mlock nothing", mlock(p, 0));
    show("munlock", munlock(p, 8 * PAGE));
    munmap(p + 4 * PAGE, PAGE);
    show("mlock hole", mlock(p, 8 * PAGE));
    show("munlock hole", munlock(p, 8 * PAGE));
    show("mlock wraps", mlock(p, -PAGE));
    show("mlock2 onfault", syscall(SYS_mlock2, p, PAGE, 1));
    show("mlock2 flags", syscall(SYS_mlock2, p, PAGE, 2));
    show("mlockall 0", mlockall(0));
    show("mlockall onfault alone", mlockall(4));
    show("mlockall bad", mlockall(8));
    show("munlockall", munlockall());
    show("mlock no access", mlock(map(1, PROT_NONE, PRIVATE, -1), PAGE));

    // msync.
    p = map(4, RW, MAP_SHARED, fd);
    for (int flags = 0; flags < 9; flags++) {
        char text[40];
        snprintf(text, sizeof text, "msync %d", flags);
        show(text, msync(p, PAGE, flags));
    }
    show("msync unaligned", msync(p + 1, PAGE, MS_SYNC));
    mlock(p, PAGE);
    show("msync invalidate locked", msync(p, PAGE, MS_INVALIDATE));
    munmap(p + PAGE, PAGE);
    show("msync hole", msync(p, 4 * PAGE, MS_SYNC));
    show("msync wraps", msync(p, -PAGE, MS_SYNC));
    show("msync nothing", msync(p, 0, MS_SYNC));

    // What needs more.
    p = map(4, RW, PRIVATE, -1);
    show("pkey_alloc", syscall(SYS_pkey_alloc, 0, 0));
    show("pkey_alloc flags", syscall(SYS_pkey_alloc, 1, 0));
    show("pkey_alloc rights", syscall(SYS_pkey_alloc, 0, 9));
    show("pkey_free", syscall(SYS_pkey_free, 1));
    show("pkey_mprotect -1", syscall(SYS_pkey_mprotect, p, PAGE, PROT_READ, -1));
    show("pkey_mprotect 0", syscall(SYS_pkey_mprotect, p, PAGE, PROT_READ, 0));
    show("pkey_mprotect 1", syscall(SYS_pkey_mprotect, p, PAGE, PROT_READ, 1));
    show("hugetlb", (long)mmap(0, 2 << 20, RW, PRIVATE | MAP_HUGETLB, -1, 0));
    show("hugetlb of a file", (long)mmap(0, 2 << 20, RW, MAP_PRIVATE | MAP_HUGETLB, fd, 0));
    show("hugetlb odd size", (long)mmap(0, 2 << 20, RW, PRIVATE | MAP_HUGETLB | 13 << 26, -1, 0));
    show("sync", (long)mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0));
    show("sync anonymous", (long)mmap(0, PAGE, RW, SHARED | MAP_SYNC, -1, 0) > 0);
    show("validate unknown", (long)mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | 1 << 25, fd, 0));
    show("type 0", (long)mmap(0, PAGE, RW, MAP_ANONYMOUS, -1, 0));
    show("length 0", (long)mmap(0, 0, RW, PRIVATE, -1, 0));
    show("odd offset", (long)mmap(0, PAGE, RW, MAP_PRIVATE, fd, 5));
    show("far offset", (long)mmap(0, PAGE, RW, MAP_PRIVATE, fd, 0x7ffffffffffff000));
    show("bad fd", (long)mmap(0, PAGE, RW, MAP_PRIVATE, 99, 0));
    show("huge length", (long)mmap(0, 1ul << 47, PROT_NONE, PRIVATE, -1, 0));
    show("noreplace", (long)mmap(p, PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0));
    show("fixed odd", (long)mmap(p + 1, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0));
    show("growsdown shared", (long)mmap(0, PAGE, RW, SHARED | MAP_GROWSDOWN, -1, 0));
    show("stack", (long)mmap(0, PAGE, RW, PRIVATE | MAP_STACK | MAP_NORESERVE, -1, 0) > 0);
    show("munmap odd", munmap(p + 1, PAGE));
    show("munmap nothing", munmap(p, 0));
    show("munmap unmapped", munmap((void *)0x10000000, PAGE));
    show("munmap wraps", munmap(p, -PAGE));
    show("mprotect odd", mprotect(p + 1, PAGE, RW));
    show("mprotect nothing", mprotect(p, 0, RW));
    show("mprotect bits", mprotect(p, PAGE, 0x100));
    show("mprotect grows", mprotect(p, PAGE, RW | PROT_GROWSDOWN));
    show("mprotect both", mprotect(p, PAGE, RW | PROT_GROWSDOWN | PROT_GROWSUP));
    show("mprotect unmapped", mprotect((void *)0x10000000, PAGE, RW));
    int ro = open("/proc/self/exe", O_RDONLY);
    char *text = mmap(0, PAGE, PROT_READ, MAP_SHARED, ro, 0);
    show("mprotect a read-only file", mprotect(text, PAGE, RW));

    // remap_file_pages: the kernel maps anew.
    p = map(4, RW, MAP_SHARED, fd);
    pwrite(fd, "A", 1, 0), pwrite(fd, "D", 1, 3 * PAGE);
    show("remap_file_pages", remap_file_pages(p, PAGE, 0, 3, 0));
    printf("remapped: %c\n", p[0]);
    show("remap_file_pages prot", remap_file_pages(p, PAGE, PROT_READ, 3, 0));
    show("remap_file_pages private", remap_file_pages(map(4, RW, PRIVATE, -1), PAGE, 0, 3, 0));
    return 0;
}
