// What memory costs a program: prints a line `row nanoseconds` for each kind of use, the least of some tries. Arguments
// name the rows to run; without them all run.
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static char *map(size_t len) {
    char *p = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("mmap");
    return p;
}

static void touch(volatile char *p, size_t len) {
    for (size_t at = 0; at < len; at += PAGE)
        p[at] = 1;
}

static void wait_for(pid_t pid) {
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        die("child");
}

// The nanoseconds of one operation.

static double touch_once(size_t len, int advice) {
    char *p = map(len);
    if (advice && madvise(p, len, advice))
        die("madvise");
    double start = now();
    touch(p, len);
    double ns = (now() - start) / (len / PAGE);
    munmap(p, len);
    return ns;
}

static double touch_64m(void) { return touch_once(64 * MIB, 0); }
static double touch_64m_huge(void) { return touch_once(64 * MIB, MADV_HUGEPAGE); }
static double touch_16m(void) { return touch_once(16 * MIB, 0); }
static double touch_1m(void) { return touch_once(MIB, 0); }

// From the top down, as stacks and some allocators grow.
static double touch_down_16m(void) {
    char *p = map(16 * MIB);
    double start = now();
    for (size_t at = 16 * MIB; at > 0; at -= PAGE)
        *(volatile char *)(p + at - PAGE) = 1;
    double ns = (now() - start) / (16 * MIB / PAGE);
    munmap(p, 16 * MIB);
    return ns;
}

// A page here and there.
static double touch_sparse(void) {
    size_t len = 4096 * MIB;
    char *p = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        die("mmap");
    double start = now();
    for (size_t i = 0; i < 256; i++)
        *(volatile char *)(p + (i * 2654435761u) % (len / PAGE) * PAGE) = 1;
    double ns = (now() - start) / 256;
    munmap(p, len);
    return ns;
}

// Memory that was used and given back, and is used again.
static double touch_again_4m(void) {
    char *p = map(4 * MIB);
    touch(p, 4 * MIB);
    madvise(p, 4 * MIB, MADV_DONTNEED);
    double start = now();
    touch(p, 4 * MIB);
    double ns = (now() - start) / (4 * MIB / PAGE);
    munmap(p, 4 * MIB);
    return ns;
}

static double mmap_touch_munmap(void) {
    double start = now();
    for (int i = 0; i < 20; i++) {
        char *p = map(PAGE);
        *(volatile char *)p = 1;
        munmap(p, PAGE);
    }
    return (now() - start) / 20;
}

static double mprotect_page(void) {
    char *p = map(PAGE);
    *(volatile char *)p = 1;
    double start = now();
    for (int i = 0; i < 20; i++)
        mprotect(p, PAGE, i % 2 ? PROT_READ | PROT_WRITE : PROT_READ);
    double ns = (now() - start) / 20;
    munmap(p, PAGE);
    return ns;
}

static double brk_growth(void) {
    char *start_of = sbrk(0);
    double start = now();
    for (int i = 0; i < 32; i++) {
        volatile char *p = sbrk(132 << 10);
        if (p == (char *)-1)
            die("sbrk");
        for (int at = 0; at < 132 << 10; at += PAGE)
            p[at] = 1;
    }
    double ns = (now() - start) / 32;
    brk(start_of);
    return ns;
}

static void deeper(int depth) {
    volatile char frame[PAGE];
    frame[0] = depth;
    if (depth > 0)
        deeper(depth - 1);
    frame[1] = frame[0];
}

// In a child, whose stack grows for the first time.
static double stack_growth(void) {
    double *ns = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();
    if (pid == 0) {
        double start = now();
        deeper(1000);
        *ns = (now() - start) / 1000;
        _exit(0);
    }
    wait_for(pid);
    double result = *ns;
    munmap(ns, PAGE);
    return result;
}

static char path[] = "/tmp/ringfence-bench-XXXXXX";

static int scratch(size_t len) {
    static int fd = -1;
    if (fd < 0) {
        fd = mkstemp(path);
        unlink(path);
        char *page = malloc(MIB);
        memset(page, 7, MIB);
        for (size_t at = 0; at < len; at += MIB)
            if (write(fd, page, MIB) != (ssize_t)MIB)
                die("write");
        free(page);
    }
    return fd;
}

static double file_touch(int flags, int prot) {
    size_t len = 16 * MIB;
    char *p = mmap(0, len, prot, flags, scratch(len), 0);
    if (p == MAP_FAILED)
        die("mmap");
    double start = now();
    for (size_t at = 0; at < len; at += PAGE) {
        if (prot & PROT_WRITE)
            *(volatile char *)(p + at) = 1;
        else
            (void)*(volatile char *)(p + at);
    }
    double ns = (now() - start) / (len / PAGE);
    munmap(p, len);
    return ns;
}

static double file_read_16m(void) { return file_touch(MAP_PRIVATE, PROT_READ); }
static double file_write_shared_16m(void) { return file_touch(MAP_SHARED, PROT_READ | PROT_WRITE); }
static double file_write_private_16m(void) { return file_touch(MAP_PRIVATE, PROT_READ | PROT_WRITE); }

// A file of the host that nobody has read in this sandbox.
static double host_file_read(void) {
    int fd = open("/usr/bin/python3", O_RDONLY);
    if (fd < 0)
        die("/usr/bin/python3");
    size_t len = lseek(fd, 0, SEEK_END) & ~(PAGE - 1);
    char *p = mmap(0, len, PROT_READ, MAP_PRIVATE, fd, 0);
    double start = now();
    for (size_t at = 0; at < len; at += PAGE)
        (void)*(volatile char *)(p + at);
    double ns = (now() - start) / (len / PAGE);
    munmap(p, len);
    close(fd);
    return ns;
}

static double fork_with(size_t len) {
    char *p = map(len);
    touch(p, len);
    double start = now();
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    wait_for(pid);
    double ns = now() - start;
    munmap(p, len);
    return ns;
}

static double fork_small(void) { return fork_with(PAGE); }
static double fork_10m(void) { return fork_with(10 * MIB); }
static double fork_100m(void) { return fork_with(100 * MIB); }
static double fork_1g(void) { return fork_with(1024 * MIB); }

// What the parent pays to write its pages again after a fork.
static double write_after_fork_4m(void) {
    char *p = map(4 * MIB);
    touch(p, 4 * MIB);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    wait_for(pid);
    double start = now();
    touch(p, 4 * MIB);
    double ns = (now() - start) / (4 * MIB / PAGE);
    munmap(p, 4 * MIB);
    return ns;
}

// What a child pays to write pages that its parent has too.
static double copy_after_fork_4m(void) {
    char *p = map(4 * MIB);
    double *ns = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    touch(p, 4 * MIB);
    *ns = 0;
    pid_t pid = fork();
    if (pid == 0) {
        double start = now();
        touch(p, 4 * MIB);
        *ns = (now() - start) / (4 * MIB / PAGE);
        _exit(0);
    }
    wait_for(pid);
    double result = *ns;
    munmap(p, 4 * MIB);
    munmap(ns, PAGE);
    return result;
}

static char *const argv_true[] = {"true", 0};
static char *const no_environment[] = {0};

static double fork_exec(void) {
    double start = now();
    pid_t pid = fork();
    if (pid == 0) {
        execve("/bin/true", argv_true, no_environment);
        _exit(1);
    }
    wait_for(pid);
    return now() - start;
}

static double vfork_exec(void) {
    double start = now();
    pid_t pid = vfork();
    if (pid == 0) {
        execve("/bin/true", argv_true, no_environment);
        _exit(1);
    }
    wait_for(pid);
    return now() - start;
}

static const struct {
    const char *name;
    double (*run)(void);
    int tries;
} rows[] = {
    {"touch_64m", touch_64m, 5},
    {"touch_64m_huge", touch_64m_huge, 5},
    {"touch_16m", touch_16m, 9},
    {"touch_1m", touch_1m, 20},
    {"touch_down_16m", touch_down_16m, 9},
    {"touch_again_4m", touch_again_4m, 9},
    {"touch_sparse", touch_sparse, 5},
    {"mmap_touch_munmap", mmap_touch_munmap, 9},
    {"mprotect", mprotect_page, 9},
    {"brk_132k", brk_growth, 5},
    {"stack_page", stack_growth, 5},
    {"file_read_16m", file_read_16m, 5},
    {"file_write_shared_16m", file_write_shared_16m, 5},
    {"file_write_private_16m", file_write_private_16m, 5},
    {"host_file_read", host_file_read, 5},
    {"fork_small", fork_small, 20},
    {"fork_10m", fork_10m, 5},
    {"fork_100m", fork_100m, 3},
    {"fork_1g", fork_1g, 1},
    {"write_after_fork_4m", write_after_fork_4m, 5},
    {"copy_after_fork_4m", copy_after_fork_4m, 5},
    {"fork_exec", fork_exec, 9},
    {"vfork_exec", vfork_exec, 9},
};

static int is_wanted(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return 1;
    return argc == 1;
}

int main(int argc, char **argv) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!is_wanted(rows[i].name, argc, argv))
            continue;
        double least = 1e300;
        for (int n = 0; n < rows[i].tries; n++) {
            double ns = rows[i].run();
            if (ns < least)
                least = ns;
        }
        printf("%s %.0f\n", rows[i].name, least);
        fflush(stdout);
    }
    return 0;
}
