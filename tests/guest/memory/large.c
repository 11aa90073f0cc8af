// Much memory, touched from end to end so that it may come in large pages; then odd pieces of it are protected, unmapped,
// discarded, moved, replaced, copied by the kernel and shared over forks, and after each step every page is compared with
// a model. The random numbers are the same in every run.
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 4096 // 16 MiB
#define ABSENT 0xffff

static char *base;
// What each page holds: ABSENT, or a seed (0: zeros), and whether it may be written.
static uint16_t model[PAGES];
static char readable[PAGES], writable[PAGES];
static uint64_t state = 88172645463325252ull;
static unsigned long faults;

static unsigned rnd(unsigned n) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (state >> 16) % n;
}

static sigjmp_buf jump;
static void on_signal(int sig, siginfo_t *info, void *context) {
    (void)info, (void)context;
    siglongjmp(jump, sig);
}

static void fail(const char *what, unsigned page) {
    printf("wrong: %s at page %u\n", what, page);
    exit(1);
}

static uint64_t word(unsigned page, unsigned seed, unsigned i) {
    return seed ? (page * 1000003ull + seed * 7919ull) ^ (i * 0x9e3779b97f4a7c15ull) : 0;
}

static void fill(unsigned page, unsigned seed) {
    uint64_t *p = (uint64_t *)(base + page * PAGE);
    for (unsigned i = 0; i < 512; i += 73)
        p[i] = word(page, seed, i);
    model[page] = seed;
}

static void check(unsigned page) {
    volatile uint64_t *p = (uint64_t *)(base + page * PAGE);
    if (sigsetjmp(jump, 1)) {
        if (readable[page])
            fail("a fault", page);
        faults++;
        return;
    }
    uint64_t first = p[0];
    if (!readable[page])
        fail("no fault", page);
    for (unsigned i = 0; i < 512; i += 73)
        if ((i ? p[i] : first) != word(page, model[page], i))
            fail("a word", page);
}

static void check_write(unsigned page, unsigned seed) {
    if (sigsetjmp(jump, 1)) {
        if (writable[page])
            fail("a fault of a store", page);
        faults++;
        return;
    }
    *(volatile char *)(base + page * PAGE) = *(volatile char *)(base + page * PAGE);
    if (!writable[page])
        fail("no fault of a store", page);
    fill(page, seed);
}

// Faults take long, so not every page that gives one is tried.
static void check_all(void) {
    for (unsigned i = 0; i < PAGES; i++)
        if (readable[i] || i % 128 == 0)
            check(i);
}

static void set(unsigned from, unsigned to, int seed, char r, char w) {
    for (unsigned i = from; i < to; i++) {
        if (seed >= 0)
            model[i] = seed;
        readable[i] = r, writable[i] = w;
    }
}

static int is_mapped(unsigned from, unsigned to) {
    for (unsigned i = from; i < to; i++)
        if (model[i] == ABSENT)
            return 0;
    return 1;
}

static void map(unsigned from, unsigned to) {
    void *p = mmap(base + from * PAGE, (to - from) * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (p == MAP_FAILED)
        fail("mmap", from);
    set(from, to, 0, 1, 1);
}

static void touch_all(unsigned seed) {
    for (unsigned i = 0; i < PAGES; i++)
        if (writable[i])
            fill(i, seed);
}

// A piece with odd ends; often a page or two, sometimes whole large pages and more.
static void piece(unsigned *from, unsigned *to) {
    static const unsigned longest[] = {2, 20, 200, 600, 1500};
    *from = rnd(PAGES);
    *to = *from + 1 + rnd(longest[rnd(5)]);
    if (rnd(6) == 0)
        *from &= ~511u, *to = (*to + 511) & ~511u;
    if (*to > PAGES)
        *to = PAGES;
}

static void step(int depth);

static void do_fork(int depth) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        state ^= 0x5555;
        for (int i = 0; i < 40; i++)
            check_write(rnd(PAGES), 5000 + i);
        for (int i = 0; i < 6; i++)
            step(depth + 1);
        check_all();
        fflush(stdout);
        _exit(faults % 200);
    }
    for (int i = 0; i < 40; i++)
        check_write(rnd(PAGES), 6000 + i);
    check_all();
    int status;
    waitpid(pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 1)
        fail("the child", 0);
    faults += WEXITSTATUS(status);
}

static void step(int depth) {
    unsigned from, to;
    piece(&from, &to);
    char *at = base + from * PAGE;
    size_t len = (to - from) * PAGE;
    switch (rnd(13)) {
    case 0:
        if (munmap(at, len))
            fail("munmap", from);
        set(from, to, ABSENT, 0, 0);
        break;
    case 1:
    case 2:
        if (is_mapped(from, to)) {
            int prot = rnd(3);
            if (mprotect(at, len, prot == 0 ? PROT_NONE : prot == 1 ? PROT_READ : PROT_READ | PROT_WRITE))
                fail("mprotect", from);
            set(from, to, -1, prot > 0, prot > 1);
        }
        break;
    case 3:
    case 4:
        if (is_mapped(from, to)) {
            if (madvise(at, len, MADV_DONTNEED))
                fail("madvise", from);
            for (unsigned i = from; i < to; i++)
                model[i] = 0;
        }
        break;
    case 5:
        map(from, to);
        break;
    case 6:
        // Dense use, by the kernel as well.
        for (unsigned i = from; i < to; i++)
            if (writable[i])
                fill(i, 100 + rnd(1000));
        break;
    case 7: {
        // One page through a pipe into another.
        int fd[2];
        unsigned to_page = rnd(PAGES);
        if (readable[from] && writable[to_page] && pipe(fd) == 0) {
            if (write(fd[1], at, PAGE) != (long)PAGE ||
                read(fd[0], base + to_page * PAGE, PAGE) != (long)PAGE)
                fail("pipe", from);
            for (unsigned i = 0; i < 512; i += 73)
                if (((uint64_t *)(base + to_page * PAGE))[i] != word(from, model[from], i))
                    fail("a piped word", from);
            fill(to_page, 77);
            close(fd[0]), close(fd[1]);
        }
        break;
    }
    case 8:
        // Away and back: what was there is still there.
        if (is_mapped(from, to)) {
            char protection = readable[from] + writable[from];
            for (unsigned i = from; i < to; i++)
                if (readable[i] + writable[i] != protection)
                    return;
            char *other = mmap(0, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (mremap(at, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, other) == other) {
                if (mremap(other, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at)
                    fail("mremap back", from);
            } else {
                // The piece is several areas, which older kernels do not move at once.
                munmap(other, len);
            }
        }
        break;
    case 9:
        if (depth < 1 && rnd(2) == 0)
            do_fork(depth);
        break;
    case 10:
        madvise(at, len, rnd(2) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        break;
    case 11:
        if (is_mapped(from, to))
            madvise(at, len, 23 /* MADV_POPULATE_WRITE */);
        break;
    }
    check(from);
    check(to - 1);
    check_write(rnd(PAGES), 1 + rnd(4000));
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    base = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return 2;
    setvbuf(stdout, 0, _IOLBF, 0);
    for (int round = 0; round < 2; round++) {
        map(0, PAGES);
        if (round % 2)
            madvise(base, PAGES * PAGE, MADV_HUGEPAGE);
        touch_all(round + 1);
        check_all();
        do_fork(1);
        for (int i = 0; i < 40; i++) {
            step(0);
            if (i % 20 == 0)
                check_all();
        }
        check_all();
        madvise(base, PAGES * PAGE, MADV_DONTNEED);
        printf("round %d: %lu faults, state %llx\n", round, faults, (unsigned long long)state);
    }
    return 0;
}
