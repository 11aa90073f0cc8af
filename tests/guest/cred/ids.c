// Users, groups and capabilities: every step in its own process, which prints what it became.
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SYS(...) ({ long r_ = syscall(__VA_ARGS__); r_ < 0 ? -errno : r_; })

// CAP_SYS_RESOURCE may be missing on the machine that runs the test natively.
#define MASK (~(1ull << 24))

static void caps(uint64_t out[3]) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2];
    syscall(SYS_capget, &h, d);
    out[0] = (d[0].effective | (uint64_t)d[1].effective << 32) & MASK;
    out[1] = (d[0].permitted | (uint64_t)d[1].permitted << 32) & MASK;
    out[2] = (d[0].inheritable | (uint64_t)d[1].inheritable << 32) & MASK;
}

static void show(const char *what) {
    uid_t r, e, s;
    gid_t gr, ge, gs;
    uint64_t c[3];
    getresuid(&r, &e, &s);
    getresgid(&gr, &ge, &gs);
    caps(c);
    printf("  %s: uid %d %d %d fs %ld gid %d %d %d fs %ld caps %llx %llx %llx dumpable %d\n", what, r, e, s,
           SYS(SYS_setfsuid, -1), gr, ge, gs, SYS(SYS_setfsgid, -1), (unsigned long long)c[0],
           (unsigned long long)c[1], (unsigned long long)c[2], prctl(PR_GET_DUMPABLE));
}

#define STEP(name, ...)                     \
    do {                                    \
        printf("%s\n", name);               \
        fflush(stdout);                     \
        if (fork() == 0) {                  \
            __VA_ARGS__;                    \
            show("end");                    \
            fflush(stdout);                 \
            _exit(0);                       \
        }                                   \
        wait(NULL);                         \
    } while (0)
#define R(call) printf("  %s = %ld\n", #call, (long)(call))

static int set_caps(uint64_t e, uint64_t p, uint64_t i) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {{e, p, i}, {e >> 32, p >> 32, i >> 32}};
    return SYS(SYS_capset, &h, d);
}

int main(void) {
    gid_t none[1];
    show("start");
    STEP("setuid", R(SYS(SYS_setuid, 1000)); R(SYS(SYS_setuid, 0)); R(SYS(SYS_setuid, 1000)); R(SYS(SYS_setuid, 1001)));
    STEP("setuid -1", R(SYS(SYS_setuid, -1)); R(SYS(SYS_setgid, -1)));
    STEP("setgid", R(SYS(SYS_setgid, 7)); R(SYS(SYS_setuid, 5)); R(SYS(SYS_setgid, 8)); R(SYS(SYS_setgid, 7)));
    STEP("seteuid and back", R(SYS(SYS_setresuid, -1, 33, -1)); show("as 33"); R(SYS(SYS_setresuid, -1, 0, -1)));
    STEP("setreuid swap", R(SYS(SYS_setreuid, 1, 2)); show("1 2"); R(SYS(SYS_setreuid, 2, 1)); R(SYS(SYS_setreuid, 3, -1)));
    STEP("setreuid -1 euid", R(SYS(SYS_setreuid, -1, 9)));
    STEP("setregid", R(SYS(SYS_setregid, 1, 2)); R(SYS(SYS_setuid, 6)); R(SYS(SYS_setregid, 2, 1)); R(SYS(SYS_setregid, -1, 9)));
    STEP("setresuid", R(SYS(SYS_setresuid, 1, 2, 3)); R(SYS(SYS_setresuid, 3, 1, 2)); R(SYS(SYS_setresuid, 4, -1, -1)); R(SYS(SYS_setresuid, -1, -1, -1)));
    STEP("setresgid", R(SYS(SYS_setresgid, 1, 2, 3)); R(SYS(SYS_setuid, 6)); R(SYS(SYS_setresgid, 3, 1, 2)); R(SYS(SYS_setresgid, 4, -1, -1)));
    STEP("setfsuid", R(SYS(SYS_setfsuid, 12)); show("fs 12"); R(SYS(SYS_setfsuid, 0)); R(SYS(SYS_setfsgid, 3)); R(SYS(SYS_setfsgid, 4)));
    STEP("keepcaps", R(SYS(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)); R(SYS(SYS_setuid, 77)); R(SYS(SYS_prctl, PR_GET_KEEPCAPS, 0, 0, 0, 0));
         R(set_caps(1 << CAP_CHOWN, 1 << CAP_CHOWN, 0)); R(set_caps(1 << CAP_CHOWN | 1 << CAP_KILL, 1 << CAP_CHOWN, 0)));
    STEP("no fixup", R(SYS(SYS_prctl, PR_SET_SECUREBITS, 4, 0, 0, 0)); R(SYS(SYS_setuid, 77)));
    STEP("securebits", R(SYS(SYS_prctl, PR_SET_SECUREBITS, 0x20, 0, 0, 0)); R(SYS(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0));
         R(SYS(SYS_prctl, PR_SET_SECUREBITS, 0, 0, 0, 0)); R(SYS(SYS_prctl, PR_SET_SECUREBITS, 0x400, 0, 0, 0)); R(SYS(SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0)));
    STEP("groups", gid_t g[3] = {30, 10, 20}; gid_t out[4] = {0}; R(SYS(SYS_setgroups, 3, g)); R(SYS(SYS_getgroups, 0, out)); R(SYS(SYS_getgroups, 2, out));
         R(SYS(SYS_getgroups, 4, out)); printf("  %d %d %d\n", out[0], out[1], out[2]); R(SYS(SYS_getgroups, -1, out)); R(SYS(SYS_setgroups, 65537, g));
         R(SYS(SYS_setgroups, -1, g)); R(SYS(SYS_setgroups, 2, (void *)8)); R(SYS(SYS_setuid, 3)); R(SYS(SYS_setgroups, 0, none)));
    STEP("capset", R(set_caps(0x1f, 0x3f, 0)); R(set_caps(0x3f, 0x3f, 0)); R(set_caps(0, 0xff, 0)); R(set_caps(1, 0, 0)); R(set_caps(0, 0, 0x7f)); R(set_caps(0, 0, 0)));
    STEP("cap inheritable", R(set_caps(0, 0x7, 0x7)); R(set_caps(0, 0x3, 0x3)); R(set_caps(0, 0x3, 0xf)));
    STEP("bounding", R(SYS(SYS_prctl, PR_CAPBSET_READ, CAP_KILL, 0, 0, 0)); R(SYS(SYS_prctl, PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0));
         R(SYS(SYS_prctl, PR_CAPBSET_READ, CAP_KILL, 0, 0, 0)); R(SYS(SYS_prctl, PR_CAPBSET_READ, 41, 0, 0, 0)); R(SYS(SYS_prctl, PR_CAPBSET_DROP, 64, 0, 0, 0));
         R(set_caps(0, 0xff, 1 << CAP_KILL)); R(SYS(SYS_prctl, PR_CAPBSET_DROP, CAP_CHOWN, 0, 0, 0)));
    STEP("ambient", R(SYS(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0)); R(set_caps(0, 0xff, 0xff));
         R(SYS(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0)); R(SYS(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
         R(SYS(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, CAP_KILL, 0, 0)); R(SYS(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
         R(SYS(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)); R(SYS(SYS_prctl, PR_CAP_AMBIENT, 9, 0, 0, 0)); R(SYS(SYS_prctl, PR_CAP_AMBIENT, 2, 99, 0, 0)));
    STEP("dumpable", R(SYS(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)); R(SYS(SYS_prctl, PR_SET_DUMPABLE, 2, 0, 0, 0)); R(SYS(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)));
    STEP("no new privs", R(SYS(SYS_prctl, PR_SET_NO_NEW_PRIVS, 2, 0, 0, 0)); R(SYS(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0)); R(SYS(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
         R(SYS(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); R(SYS(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)); R(SYS(SYS_prctl, PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0)));
    STEP("timer slack", R(SYS(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)); R(SYS(SYS_prctl, PR_SET_TIMERSLACK, 123, 0, 0, 0)); R(SYS(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0));
         R(SYS(SYS_prctl, PR_SET_TIMERSLACK, 0, 0, 0, 0)); R(SYS(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)));
    STEP("timing", R(SYS(SYS_prctl, PR_GET_TIMING, 0, 0, 0, 0)); R(SYS(SYS_prctl, PR_SET_TIMING, 0, 0, 0, 0)); R(SYS(SYS_prctl, PR_SET_TIMING, 1, 0, 0, 0)));
    STEP("unknown option", R(SYS(SYS_prctl, 12345, 0, 0, 0, 0)));
    STEP("capget", struct __user_cap_header_struct h = {1, 0}; struct __user_cap_data_struct d[2]; R(SYS(SYS_capget, &h, NULL)); printf("  version %x\n", h.version);
         h.version = 1; R(SYS(SYS_capget, &h, d)); h.pid = -1; R(SYS(SYS_capget, &h, d)); h.pid = 999999; R(SYS(SYS_capget, &h, d)); h.pid = getppid(); R(SYS(SYS_capget, &h, d));
         h.pid = 1; R(SYS(SYS_capset, &h, d)); R(SYS(SYS_capget, (void *)8, d)); h.pid = 0; R(SYS(SYS_capget, &h, (void *)8)); h.version = 5; R(SYS(SYS_capset, &h, d)));
    STEP("inherited", R(SYS(SYS_setresuid, 1, 2, 3)); fflush(stdout); if (fork() == 0) { show("child"); fflush(stdout); _exit(0); } wait(NULL));
    return 0;
}
