/* Call sites of several forms, called so often that the sandbox patches them: results, registers, flags, the red zone, GS,
 * code that is rewritten, unmapped, jumped into, forked. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 12

typedef long (*call_t)(void);

static uint8_t *code;

/* One page of code: `bytes` at offset `at`, the rest int3. */
static call_t make(const uint8_t *bytes, size_t len, size_t at)
{
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(code, 0xcc, 4096);
    memcpy(code + at, bytes, len);
    mprotect(code, 4096, PROT_READ | PROT_EXEC);
    return (call_t)(uintptr_t)(code + at);
}

static void check(const char *what, int ok)
{
    printf("%s: %s\n", what, ok ? "ok" : "WRONG");
}

static int all_are(call_t call, long want)
{
    for (int i = 0; i < ROUNDS; i++)
        if (call() != want)
            return 0;
    return 1;
}

/* mov $nr,%eax; syscall; ret */
static const uint8_t mov_eax[] = {0xb8, SYS_getpid, 0, 0, 0, 0x0f, 0x05, 0xc3};
static const uint8_t mov_eax_ppid[] = {0xb8, SYS_getppid, 0, 0, 0, 0x0f, 0x05, 0xc3};
/* mov $nr,%rax; syscall; ret */
static const uint8_t mov_rax[] = {0x48, 0xc7, 0xc0, SYS_getpid, 0, 0, 0, 0x0f, 0x05, 0xc3};
/* push $nr; pop %rax; syscall; ret: only padding helps */
static const uint8_t push_pop[] = {0x6a, SYS_getppid, 0x58, 0x0f, 0x05, 0xc3};

static void forms(void)
{
    check("mov eax", all_are(make(mov_eax, sizeof mov_eax, 64), getpid()));
    check("mov rax", all_are(make(mov_rax, sizeof mov_rax, 64), getpid()));
    check("push pop", all_are(make(push_pop, sizeof push_pop, 64), getppid()));
    check("at the end of a page", all_are(make(mov_eax, sizeof mov_eax, 4096 - sizeof mov_eax), getpid()));
    check("at its start", all_are(make(mov_eax, sizeof mov_eax, 0), getpid()));
    int ok = 1;
    for (int i = 0; i < ROUNDS; i++)
        ok &= syscall(SYS_getpid) == getpid() && syscall(SYS_gettid) == gettid() &&
              syscall(SYS_getuid) == getuid() && syscall(SYS_getppid) == getppid() &&
              syscall(12345) == -1;
    check("libc's syscall", ok);
}

/* Sets registers, flags and the red zone, calls from a site of this function's own, and looks at them. */
static int state_stays(void)
{
    uint64_t before[16], after[16], flags_before, flags_after, red = 0;
    long result;
    memset(before, 0, sizeof before);
    for (int i = 0; i < 16; i++)
        before[i] = 0x1111111111111111ull * i + i;
    asm volatile(
        "push %%rbx\n push %%rbp\n push %%r12\n push %%r13\n push %%r14\n push %%r15\n"
        "push %[after]\n push %[fa]\n push %[fb]\n"
        "mov %[before],%%rax\n"
        "mov 8(%%rax),%%rbx\n mov 16(%%rax),%%rdx\n mov 24(%%rax),%%rsi\n mov 32(%%rax),%%rdi\n mov 40(%%rax),%%rbp\n"
        "mov 48(%%rax),%%r8\n mov 56(%%rax),%%r9\n mov 64(%%rax),%%r10\n"
        "mov 72(%%rax),%%r12\n mov 80(%%rax),%%r13\n mov 88(%%rax),%%r14\n mov 96(%%rax),%%r15\n"
        "movq $0x5a5a,-8(%%rsp)\n movq $0x6b6b,-128(%%rsp)\n"
        "mov $0x7fffffff,%%eax\n add $1,%%eax\n stc\n std\n"
        "mov $110,%%eax\n syscall\n"
        "mov -8(%%rsp),%%rcx\n add -128(%%rsp),%%rcx\n" /* changes flags: taken below from a second call */
        "mov 16(%%rsp),%%r11\n"
        "mov %%rbx,8(%%r11)\n mov %%rdx,16(%%r11)\n mov %%rsi,24(%%r11)\n mov %%rdi,32(%%r11)\n mov %%rbp,40(%%r11)\n"
        "mov %%r8,48(%%r11)\n mov %%r9,56(%%r11)\n mov %%r10,64(%%r11)\n"
        "mov %%r12,72(%%r11)\n mov %%r13,80(%%r11)\n mov %%r14,88(%%r11)\n mov %%r15,96(%%r11)\n"
        "mov %%rcx,104(%%r11)\n"
        "mov $0x7fffffff,%%eax\n add $1,%%eax\n stc\n std\n pushf\n pop %%rcx\n mov 0(%%rsp),%%rdx\n mov %%rcx,(%%rdx)\n"
        "mov $0x7fffffff,%%eax\n add $1,%%eax\n stc\n std\n"
        "mov $110,%%eax\n syscall\n"
        "pushf\n pop %%rcx\n cld\n mov 8(%%rsp),%%rdx\n mov %%rcx,(%%rdx)\n"
        "add $24,%%rsp\n pop %%r15\n pop %%r14\n pop %%r13\n pop %%r12\n pop %%rbp\n pop %%rbx\n"
        : "=a"(result)
        : [before] "S"(before), [after] "D"(after), [fa] "r"(&flags_after), [fb] "r"(&flags_before)
        : "rcx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
    red = after[13];
    return result == getppid() && memcmp(before + 1, after + 1, 12 * 8) == 0 && flags_before == flags_after &&
           red == 0x5a5a + 0x6b6b;
}

static void state(void)
{
    int ok = 1;
    for (int i = 0; i < 3 * ROUNDS; i++)
        ok &= state_stays();
    check("registers, flags, red zone", ok);
}

static void gs(void)
{
    static uint64_t own[2] = {0x1234, 0};
    unsigned long base = 1;
    call_t call = make(mov_eax, sizeof mov_eax, 64);
    int ok = all_are(call, getpid());
    syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
    check("gs base before", base == 0);
    syscall(SYS_arch_prctl, ARCH_SET_GS, own);
    uint64_t seen = 0;
    for (int i = 0; i < ROUNDS; i++) {
        ok &= call() == getpid();
        asm volatile("mov %%gs:0,%0" : "=r"(seen));
        ok &= seen == 0x1234;
    }
    syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
    ok &= base == (unsigned long)own;
    syscall(SYS_arch_prctl, ARCH_SET_GS, 0);
    ok &= all_are(call, getpid());
    check("calls with a gs of one's own", ok);
}

static void bytes(void)
{
    call_t call = make(mov_eax, sizeof mov_eax, 64);
    int ok = all_are(call, getpid());
    uint8_t seen[sizeof mov_eax];
    int fd = open("/proc/self/mem", O_RDWR);
    pread(fd, seen, sizeof seen, (off_t)(uintptr_t)(code + 64));
    check("/proc/self/mem shows the program's bytes", memcmp(seen, mov_eax, sizeof seen) == 0);
    memset(seen, 0, sizeof seen);
    struct iovec to = {seen, sizeof seen}, from = {code + 64, sizeof seen};
    if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) >= 0)
        ok &= memcmp(seen, mov_eax, sizeof seen) == 0;
    memset(seen, 0, sizeof seen);
    int ends[2];
    pipe(ends);
    write(ends[1], code + 64, sizeof seen);
    read(ends[0], seen, sizeof seen);
    check("so does write", memcmp(seen, mov_eax, sizeof seen) == 0);
    uint8_t other = SYS_getppid;
    pwrite(fd, &other, 1, (off_t)(uintptr_t)(code + 65));
    check("a number poked into a site", all_are(call, getppid()) && ok);
    mprotect(code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    check("bytes of a page that may be written",
          code[64] == 0xb8 && code[65] == SYS_getppid && code[69] == 0x0f && code[70] == 0x05);
    code[65] = SYS_getpid;
    check("a number stored into a site", all_are(call, getpid()));
    mprotect(code, 4096, PROT_READ | PROT_EXEC);
    check("and again", all_are(call, getpid()));
    munmap(code, 4096);
    uint8_t *again = mmap(code, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(again, 0xcc, 4096);
    memcpy(again + 64, mov_eax_ppid, sizeof mov_eax_ppid);
    mprotect(again, 4096, PROT_READ | PROT_EXEC);
    check("another site at the same address", all_are(call, getppid()));
    uint8_t *moved = mremap(again, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, again + (1 << 24));
    check("a site that moves", all_are((call_t)(uintptr_t)(moved + 64), getppid()));
    close(fd);
}

static void middle(void)
{
    call_t call = make(mov_eax, sizeof mov_eax, 64);
    int ok = all_are(call, getpid());
    uint8_t *behind = code + 69;
    for (int i = 0; i < ROUNDS; i++) {
        long result;
        asm volatile("call *%1" : "=a"(result) : "r"(behind), "a"(SYS_getppid) : "rcx", "r11", "memory");
        ok &= result == getppid();
    }
    check("a jump to the syscall of a site", ok);
}

static void processes(void)
{
    call_t call = make(mov_eax, sizeof mov_eax, 64);
    call_t late = (call_t)(uintptr_t)(code + 64);
    int ok = all_are(call, getpid());
    fflush(stdout);
    for (int i = 0; i < 5; i++) {
        pid_t parent = getpid(), child = fork();
        if (child == 0) {
            int fine = call() == getpid() && getpid() != parent && syscall(SYS_getppid) == parent;
            call_t own = make(mov_rax, sizeof mov_rax, 128 + 16 * i);
            fine &= all_are(own, getpid()) && all_are(late, getpid());
            pid_t grandchild = fork();
            if (grandchild == 0)
                _exit(own() == getpid() && late() == getpid() ? 0 : 1);
            int status = 1;
            waitpid(grandchild, &status, 0);
            _exit(fine && status == 0 ? 0 : 1);
        }
        /* A site of the parent's that the child has not. */
        call_t own = make(mov_eax_ppid, sizeof mov_eax_ppid, 256 + 16 * i);
        ok &= all_are(own, getppid());
        int status = 1;
        waitpid(child, &status, 0);
        ok &= status == 0 && call() == getpid();
    }
    check("forks", ok);
    for (int i = 0; i < 5; i++) {
        pid_t child = vfork();
        if (child == 0) {
            if (syscall(SYS_getpid) == syscall(SYS_getppid))
                _exit(1);
            execl("/bin/true", "true", NULL);
            _exit(2);
        }
        int status = 1;
        waitpid(child, &status, 0);
        ok &= status == 0 && syscall(SYS_getpid) == getpid();
    }
    check("vforks", ok);
    if (getuid() == 0) {
        pid_t child = fork();
        if (child == 0) {
            int fine = 1;
            for (int i = 0; i < ROUNDS; i++)
                fine &= syscall(SYS_getuid) == 0 && syscall(SYS_geteuid) == 0 && syscall(SYS_getgid) == 0;
            setresgid(5, 6, 0);
            setresuid(7, 8, 0);
            for (int i = 0; i < ROUNDS; i++)
                fine &= syscall(SYS_getuid) == 7 && syscall(SYS_geteuid) == 8 && syscall(SYS_getgid) == 5 &&
                        syscall(SYS_getegid) == 6;
            _exit(fine ? 0 : 1);
        }
        int status = 1;
        waitpid(child, &status, 0);
        ok &= status == 0;
    }
    check("ids that change", ok);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    forms();
    state();
    gs();
    bytes();
    middle();
    processes();
    return 0;
}
