// What execve does to users, groups and capabilities: set-user-ID copies of this program show what they became.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MASK (~(1ull << 24))

static void show(void) {
    uid_t r, e, s;
    gid_t gr, ge, gs;
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2];
    getresuid(&r, &e, &s);
    getresgid(&gr, &ge, &gs);
    syscall(SYS_capget, &h, d);
    printf("  uid %d %d %d gid %d %d %d e %llx p %llx i %llx ambient kill %d secure %lu auxv %lu %lu dumpable %d keepcaps %d\n", r,
           e, s, gr, ge, gs, (d[0].effective | (uint64_t)d[1].effective << 32) & MASK,
           (d[0].permitted | (uint64_t)d[1].permitted << 32) & MASK,
           (d[0].inheritable | (uint64_t)d[1].inheritable << 32) & MASK,
           prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0), getauxval(AT_SECURE), getauxval(AT_UID),
           getauxval(AT_EUID), prctl(PR_GET_DUMPABLE), prctl(PR_GET_KEEPCAPS));
}

static char copy[64];

static void make(int mode, int uid, int gid) {
    char buf[65536];
    int in = open("/proc/self/exe", O_RDONLY), out;
    ssize_t n;
    unlink(copy);
    out = open(copy, O_WRONLY | O_CREAT, 0755);
    while ((n = read(in, buf, sizeof buf)) > 0) write(out, buf, n);
    close(in);
    fchown(out, uid, gid);
    fchmod(out, mode);
    close(out);
}

static int set_caps(uint64_t e, uint64_t p, uint64_t i) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {{e, p, i}, {e >> 32, p >> 32, i >> 32}};
    return syscall(SYS_capset, &h, d);
}

#define RUN(name, ...)                               \
    do {                                             \
        printf("%s\n", name);                        \
        fflush(stdout);                              \
        if (fork() == 0) {                           \
            __VA_ARGS__;                             \
            execl(copy, "copy", "show", (char *)0);  \
            perror("execl");                         \
            _exit(1);                                \
        }                                            \
        wait(NULL);                                  \
    } while (0)

int main(int argc, char **argv) {
    if (argc > 1) {
        show();
        return 0;
    }
    snprintf(copy, sizeof copy, "/tmp/exec-cred-%d", getpid());
    make(0755, 0, 0);
    RUN("root runs an ordinary program", (void)0);
    RUN("a user runs an ordinary program", setresgid(5, 5, 5); setresuid(5, 5, 5));
    RUN("effective user 5", setresuid(0, 5, 0));
    RUN("real user 5", setresuid(5, 0, 0));
    RUN("kept capabilities are lost", prctl(PR_SET_KEEPCAPS, 1); setresuid(5, 5, 5));
    RUN("ambient capabilities stay", prctl(PR_SET_KEEPCAPS, 1); setresuid(5, 5, 5); set_caps(0xff, 0xff, 0xff);
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
    RUN("fewer in the bounding set", prctl(PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0));
    RUN("inheritable", set_caps(0xff, 0xff, 0xff));
    RUN("no root", prctl(PR_SET_SECUREBITS, 1, 0, 0, 0));
    make(04755, 0, 0);
    RUN("set-user-ID root for a user", setresgid(5, 5, 5); setresuid(5, 5, 5));
    RUN("without new privileges", setresgid(5, 5, 5); setresuid(5, 5, 5); prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    RUN("for root", (void)0);
    make(06755, 1000, 1001);
    RUN("set-user-ID and set-group-ID for root", (void)0);
    RUN("for a user", setresgid(5, 5, 5); setresuid(5, 5, 5));
    make(02745, 1000, 1001);
    RUN("set-group-ID without group execute", setresgid(5, 5, 5); setresuid(5, 5, 5));
    unlink(copy);
    return 0;
}
