// How areas are split and joined, as /proc/self/maps shows them, and what /proc/self/smaps says of them.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define AT ((char *)0x500000000000)
#define PAGES 64ul

// Not here: touched areas that Linux keeps apart because each has an `anon_vma` of its own; we join them. And how many
// pages of a private file mapping are copied at a store.

// The areas between AT and AT + PAGES, as page numbers.
static void show(const char *what) {
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    printf("%s:", what);
    while (fgets(line, sizeof line, f)) {
        unsigned long from, to, offset;
        char perms[8], name[256] = "";
        sscanf(line, "%lx-%lx %7s %lx %*s %*s %255[^\n]", &from, &to, perms, &offset, name);
        if (from < (uintptr_t)AT || from >= (uintptr_t)AT + PAGES * PAGE)
            continue;
        printf(" %lu-%lu %s %lx", (from - (uintptr_t)AT) / PAGE, (to - (uintptr_t)AT) / PAGE, perms, offset / PAGE);
        if (name[0] == '[')
            printf(" %s", name);
        printf(",");
    }
    printf("\n");
    fclose(f);
    fflush(stdout);
}

static char *map(size_t first, size_t pages, int prot, int flags, int fd, size_t offset) {
    char *p = mmap(AT + first * PAGE, pages * PAGE, prot, flags | MAP_FIXED, fd, offset * PAGE);
    if (p == MAP_FAILED)
        perror("mmap"), exit(1);
    return p;
}

static void clear(void) {
    munmap(AT, PAGES * PAGE);
}

static void touch(size_t first, size_t pages) {
    for (size_t i = first; i < first + pages; i++)
        AT[i * PAGE] = 1;
}

// The fields of smaps for the area at AT.
static void smaps(const char *what, const char *const *fields) {
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    int inside = 0;
    printf("%s:", what);
    while (fgets(line, sizeof line, f)) {
        unsigned long from, to;
        char dash;
        if (sscanf(line, "%lx%c%lx", &from, &dash, &to) == 3 && dash == '-')
            inside = from == (uintptr_t)AT;
        else if (inside)
            for (int i = 0; fields[i]; i++)
                if (strncmp(line, fields[i], strlen(fields[i])) == 0 && line[strlen(fields[i])] == ':') {
                    char *text = line + strlen(fields[i]) + 1;
                    text += strspn(text, " ");
                    text[strcspn(text, "\n")] = 0;
                    printf(" %s=%s", fields[i], text);
                }
    }
    printf("\n");
    fclose(f);
    fflush(stdout);
}

static const char *const counts[] = {"Size", "KernelPageSize", "MMUPageSize", "Rss", "Pss", "Shared_Clean", "Shared_Dirty",
                                     "Private_Clean", "Private_Dirty", "Anonymous", "LazyFree", "AnonHugePages",
                                     "ShmemPmdMapped", "Swap", "Locked", 0};
static const char *const flags[] = {"VmFlags", "Locked", 0};

int main(void) {
    int fd = memfd_create("maps", 0);
    ftruncate(fd, PAGES * PAGE);

    map(0, 2, RW, PRIVATE, -1, 0), map(2, 2, RW, PRIVATE, -1, 0);
    show("two untouched neighbours");
    clear();
    map(0, 2, RW, PRIVATE, -1, 0), touch(0, 2), map(2, 2, RW, PRIVATE, -1, 0);
    show("the lower touched");
    touch(2, 2);
    show("and the upper");
    clear();
    map(0, 8, RW, PRIVATE, -1, 0);
    mprotect(AT + 2 * PAGE, 2 * PAGE, PROT_READ);
    show("split by mprotect");
    mprotect(AT + 2 * PAGE, 2 * PAGE, RW);
    show("joined again");
    touch(0, 8);
    mprotect(AT + 2 * PAGE, 2 * PAGE, PROT_READ), mprotect(AT + 2 * PAGE, 2 * PAGE, RW);
    show("joined again after touching");
    munmap(AT + 3 * PAGE, PAGE);
    show("a hole");
    map(3, 1, RW, PRIVATE, -1, 0);
    show("the hole filled");
    clear();
    map(0, 2, RW, MAP_PRIVATE, fd, 0), map(2, 2, RW, MAP_PRIVATE, fd, 2);
    show("a file's pages in order");
    clear();
    map(0, 2, RW, MAP_PRIVATE, fd, 0), map(2, 2, RW, MAP_PRIVATE, fd, 3);
    show("a file's pages with a gap");
    clear();
    map(0, 2, RW, MAP_SHARED, fd, 0), map(2, 2, RW, MAP_SHARED, fd, 2), map(4, 2, PROT_READ, MAP_SHARED, fd, 4);
    show("a shared file");
    clear();
    map(0, 2, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0), map(2, 2, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    show("shared memory twice");
    clear();
    map(0, 8, RW, PRIVATE, -1, 0), touch(0, 8);
    mremap(AT + 2 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT + 20 * PAGE);
    show("moved after touching");
    mremap(AT + 20 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT + 2 * PAGE);
    show("and back");
    clear();
    map(0, 8, RW, PRIVATE, -1, 0);
    mremap(AT + 2 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT + 20 * PAGE);
    show("moved untouched");
    map(22, 2, RW, PRIVATE, -1, 0);
    show("with a neighbour");
    clear();
    map(0, 8, RW, PRIVATE, -1, 0);
    madvise(AT + 2 * PAGE, 2 * PAGE, MADV_DONTFORK);
    show("dontfork splits");
    madvise(AT + 2 * PAGE, 2 * PAGE, MADV_DOFORK);
    show("dofork joins");
    madvise(AT + 2 * PAGE, 2 * PAGE, MADV_SEQUENTIAL);
    show("sequential splits");
    madvise(AT, 8 * PAGE, MADV_SEQUENTIAL);
    show("all sequential");
    madvise(AT, 8 * PAGE, MADV_NORMAL);
    mlock(AT + 2 * PAGE, 2 * PAGE);
    show("mlock splits");
    munlock(AT, 8 * PAGE);
    show("munlock joins");
    madvise(AT, PAGE, MADV_HUGEPAGE), madvise(AT + PAGE, PAGE, MADV_NOHUGEPAGE);
    show("huge and not huge");
    madvise(AT + 4 * PAGE, PAGE, MADV_DONTDUMP), madvise(AT + 5 * PAGE, PAGE, MADV_WIPEONFORK);
    show("dump and wipe");
    clear();
    map(0, 4, RW, PRIVATE | MAP_NORESERVE, -1, 0), map(4, 4, RW, PRIVATE, -1, 0), map(8, 4, RW, PRIVATE | MAP_STACK, -1, 0);
    show("noreserve");
    clear();
    map(0, 4, RW, PRIVATE | MAP_GROWSDOWN, -1, 0), map(4, 4, RW, PRIVATE, -1, 0);
    show("grows down");
    clear();
    map(0, 4, PROT_NONE, PRIVATE, -1, 0), map(4, 4, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0);
    show("no access");
    mprotect(AT, 4 * PAGE, RW);
    show("made accessible");
    mprotect(AT, 4 * PAGE, PROT_NONE);
    show("and not again");
    clear();

    // smaps.
    map(0, 8, RW, PRIVATE, -1, 0);
    smaps("untouched", flags);
    touch(0, 8);
    smaps("touched", counts);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        smaps("in a child", (const char *const[]){"Size", "Rss", "Anonymous", "Locked", 0});
        _exit(0);
    }
    waitpid(pid, 0, 0);
    touch(0, 8);
    smaps("alone again", counts);
    mlock(AT, 8 * PAGE);
    smaps("locked", counts);
    smaps("locked", flags);
    clear();
    map(0, 8, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    smaps("file", flags);
    clear();
    map(0, 8, RW, MAP_PRIVATE, fd, 0);
    touch(0, 2);
    smaps("private file", (const char *const[]){"Size", "VmFlags", 0});
    clear();
    map(0, 8, RW, MAP_SHARED, fd, 0);
    smaps("shared file", flags);
    clear();
    map(0, 8, PROT_READ, MAP_SHARED, fd, 0);
    smaps("shared file to read", flags);
    clear();
    map(0, 8, RW, PRIVATE | MAP_NORESERVE, -1, 0);
    smaps("noreserve", flags);
    madvise(AT, 8 * PAGE, MADV_SEQUENTIAL), madvise(AT, 8 * PAGE, MADV_DONTFORK), madvise(AT, 8 * PAGE, MADV_DONTDUMP);
    smaps("advised", flags);
    madvise(AT, 8 * PAGE, MADV_RANDOM), madvise(AT, 8 * PAGE, MADV_DOFORK), madvise(AT, 8 * PAGE, MADV_DODUMP);
    madvise(AT, 8 * PAGE, MADV_WIPEONFORK), madvise(AT, 8 * PAGE, MADV_HUGEPAGE);
    smaps("advised otherwise", flags);
    madvise(AT, 8 * PAGE, MADV_NOHUGEPAGE);
    smaps("not huge", flags);
    clear();
    map(0, 8, PROT_NONE, PRIVATE, -1, 0);
    smaps("no access", flags);
    clear();
    map(0, 8, RW, PRIVATE | MAP_GROWSDOWN, -1, 0);
    smaps("grows down", flags);
    return 0;
}
