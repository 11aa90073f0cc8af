// Trees of mounts that are mounted nowhere, mounts beneath others, groups that are handed on, and what a less privileged
// namespace may not take away.
#define _GNU_SOURCE
#include <linux/mount.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "mounts.h"

#define OPEN_TREE(dir, path, flags) syscall(SYS_open_tree, dir, path, flags)
#define MOVE(fd, p, tofd, q, flags) syscall(SYS_move_mount, fd, p, tofd, q, flags)
#define CLONE 1
#define FROM_EMPTY 4
#define TO_EMPTY 0x40
#define SET_GROUP 0x100
#define BENEATH 0x200

static void tmpfs(const char *at, const char *mark) {
    char path[200];
    if (mount("t", in(at), "tmpfs", 0, NULL)) printf("no tmpfs at %s: %s\n", at, strerrorname_np(errno));
    sprintf(path, "%s/%s", in(at), mark);
    close(open(path, O_CREAT | O_WRONLY, 0600));
}

static int made(const char *size) {
    int fd = syscall(SYS_fsopen, "tmpfs", 0);
    if (size) SHOW(syscall(SYS_fsconfig, fd, 1, "size", size, 0));
    SHOW(syscall(SYS_fsmount, fd, 0, 0));
    SHOW(syscall(SYS_fsconfig, fd, 6, 0, 0, 0));
    SHOW(syscall(SYS_fsconfig, fd, 6, 0, 0, 0));
    int m = syscall(SYS_fsmount, fd, 0, 0);
    SHOW(syscall(SYS_fsmount, fd, 0, 0));
    // The context goes on as one of a mounted file system.
    SHOW(syscall(SYS_fsconfig, fd, 0, "ro", 0, 0));
    SHOW(syscall(SYS_fsconfig, fd, 7, 0, 0, 0));
    SHOW(mkdirat(m, "d", 0755));
    SHOW(syscall(SYS_fsconfig, fd, 0, "rw", 0, 0));
    SHOW(syscall(SYS_fsconfig, fd, 1, "size", "bad", 0));
    SHOW(syscall(SYS_fsconfig, fd, 7, 0, 0, 0));
    SHOW(mkdirat(m, "d", 0755));
    SHOW(syscall(SYS_fsconfig, fd, 1, "mode", "700", 0));
    SHOW(syscall(SYS_fsconfig, fd, 6, 0, 0, 0));
    close(fd);
    return m;
}

static void detached(void) {
    puts("detached");
    int a = made("64k"), b = made(NULL);
    SHOW(MOVE(b, "", a, "d", FROM_EMPTY));
    SHOW(mkdirat(a, "d/inner", 0755));
    SHOW(MOVE(a, "d", AT_FDCWD, in("/a"), 0));
    SHOW(MOVE(b, "", AT_FDCWD, in("/a"), FROM_EMPTY));
    SHOW(MOVE(a, "", b, "d", FROM_EMPTY));
    int c = OPEN_TREE(a, "", AT_EMPTY_PATH | CLONE);
    SHOW(c);
    SHOW(faccessat(c, "d/inner", F_OK, 0));
    int d = OPEN_TREE(a, "d", CLONE | AT_RECURSIVE);
    SHOW(d);
    SHOW(faccessat(d, "inner", F_OK, 0));
    int e = OPEN_TREE(a, "", AT_EMPTY_PATH | CLONE | AT_RECURSIVE);
    SHOW(faccessat(e, "d/inner", F_OK, 0));
    SHOW(mount("x", "/proc/self/fd/x", "tmpfs", 0, NULL));
    char path[64];
    sprintf(path, "/proc/self/fd/%d/d", c);
    SHOW(mount("x", path, "tmpfs", 0, NULL));
    SHOW(mount(in("/c"), path, NULL, MS_BIND, NULL));
    SHOW(mount(path, in("/c"), NULL, MS_BIND, NULL));
    SHOW(umount2(in("/c"), 0));
    sprintf(path, "/proc/self/fd/%d/d", e);
    SHOW(umount2(path, 0));
    SHOW(MOVE(AT_FDCWD, in("/a"), e, "d", 0));
    SHOW(MOVE(a, "", AT_FDCWD, in("/a"), FROM_EMPTY));
    SHOW(MOVE(a, "", AT_FDCWD, in("/c"), FROM_EMPTY));
    info("mounted with what was in it");
    SHOW(is("/a/d/inner"));
    close(a), close(b);
    info("and stays");
    SHOW(MOVE(d, "", AT_FDCWD, in("/a/d"), FROM_EMPTY));
    SHOW(umount2(in("/a"), 0));
    SHOW(umount2(in("/a"), MNT_DETACH));
    info("gone");
    // What is open of a tree that goes still shows its mounts.
    int dir = openat(e, "d", O_PATH);
    close(e);
    SHOW(faccessat(dir, "inner", F_OK, 0));
    SHOW(openat(dir, "..", O_PATH) >= 0 ? 1 : -1);
    SHOW(OPEN_TREE(dir, "", AT_EMPTY_PATH | CLONE));
    close(dir), close(c), close(d);
    SHOW(OPEN_TREE(-1, "", AT_EMPTY_PATH | CLONE));
    SHOW(OPEN_TREE(AT_FDCWD, top, AT_RECURSIVE));
    SHOW(OPEN_TREE(AT_FDCWD, top, 2));
}

static void beneath(void) {
    puts("beneath");
    tmpfs("/a", "first");
    tmpfs("/c", "second");
    SHOW(MOVE(AT_FDCWD, in("/c"), AT_FDCWD, in("/d"), BENEATH));
    SHOW(MOVE(AT_FDCWD, in("/c"), AT_FDCWD, in("/a"), BENEATH | SET_GROUP));
    SHOW(MOVE(AT_FDCWD, in("/c"), AT_FDCWD, in("/a"), 0x800));
    SHOW(MOVE(AT_FDCWD, in("/c"), AT_FDCWD, "/", BENEATH));
    SHOW(MOVE(AT_FDCWD, in("/c"), AT_FDCWD, in("/file"), BENEATH));
    SHOW(MOVE(AT_FDCWD, in("/c"), AT_FDCWD, in("/a"), BENEATH));
    info("beneath");
    SHOW(is("/a/first") ? 1 : 0);
    SHOW(umount2(in("/a"), 0));
    SHOW(is("/a/second") ? 1 : 0);
    int m = made(NULL);
    SHOW(MOVE(m, "", AT_FDCWD, in("/a"), FROM_EMPTY | BENEATH));
    SHOW(is("/a/second") ? 1 : 0);
    SHOW(umount2(in("/a"), 0));
    SHOW(is("/a/d") ? 1 : 0);
    SHOW(umount2(in("/a"), 0));
    close(m);
    puts("beneath what is shared");
    tmpfs("/c", "base");
    SHOW(mkdir(in("/c/x"), 0755));
    SHOW(mount(NULL, in("/c"), NULL, MS_SHARED, NULL));
    SHOW(mount(in("/c"), in("/d"), NULL, MS_BIND, NULL));
    tmpfs("/c/x", "over");
    tmpfs("/e", "under");
    SHOW(MOVE(AT_FDCWD, in("/e"), AT_FDCWD, in("/d/x"), BENEATH));
    info("both");
    SHOW(umount2(in("/c/x"), 0));
    info("one less");
    SHOW(is("/d/x/under") ? 1 : 0);
    // A peer of its own parent: a copy would come to lie on it.
    SHOW(mount(in("/c"), in("/c"), NULL, MS_BIND, NULL));
    tmpfs("/e", "again");
    SHOW(MOVE(AT_FDCWD, in("/e"), AT_FDCWD, in("/c"), BENEATH));
    SHOW(umount2(in("/e"), 0));
    info("peers");
    SHOW(umount2(in("/c"), MNT_DETACH));
    SHOW(umount2(in("/d"), MNT_DETACH));
    SHOW(umount2(in("/c"), MNT_DETACH));
}

static void groups(void) {
    puts("groups");
    tmpfs("/a", "a");
    SHOW(mkdir(in("/a/sub"), 0755));
    SHOW(mount(in("/a/sub"), in("/c"), NULL, MS_BIND, NULL));
    SHOW(MOVE(AT_FDCWD, in("/a"), AT_FDCWD, in("/c"), SET_GROUP));
    SHOW(mount(NULL, in("/a"), NULL, MS_SHARED, NULL));
    SHOW(MOVE(AT_FDCWD, in("/c"), AT_FDCWD, in("/a"), SET_GROUP));
    SHOW(MOVE(AT_FDCWD, in("/a/sub"), AT_FDCWD, in("/c"), SET_GROUP));
    SHOW(MOVE(AT_FDCWD, in("/a"), AT_FDCWD, in("/d"), SET_GROUP));
    SHOW(MOVE(AT_FDCWD, in("/a"), AT_FDCWD, in("/c"), SET_GROUP));
    info("one group");
    SHOW(MOVE(AT_FDCWD, in("/a"), AT_FDCWD, in("/c"), SET_GROUP));
    SHOW(mkdir(in("/c/y"), 0755));
    tmpfs("/a/sub/y", "z");
    SHOW(is("/c/y/z") ? 1 : 0);
    SHOW(umount2(in("/c"), MNT_DETACH));
    SHOW(umount2(in("/a"), MNT_DETACH));
}

static int write_to(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    int n = write(fd, text, strlen(text));
    close(fd);
    return n;
}

static void inner(void) {
    puts("a less privileged namespace");
    SHOW(mkdir(in("/a/below"), 0755));
    tmpfs("/a/below", "seen");
    SHOW(mkdir(in("/a/below/deep"), 0755));
    tmpfs("/a/below/deep", "cover");
    SHOW(mount(NULL, in("/a/below"), NULL, MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL));
    SHOW(mount(NULL, in("/a/below/deep"), NULL, MS_SHARED, NULL));
    info("before");
    fflush(stdout);
    if (fork()) {
        wait(NULL);
        info("after");
        SHOW(umount2(in("/a/below"), MNT_DETACH));
        return;
    }
    SHOW(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    write_to("/proc/self/setgroups", "deny");
    write_to("/proc/self/uid_map", "0 0 1");
    write_to("/proc/self/gid_map", "0 0 1");
    info("inside");
    SHOW(umount2(in("/a/below/deep"), 0));
    SHOW(umount2(in("/a/below"), MNT_DETACH));
    SHOW(mount(in("/a/below"), in("/c"), NULL, MS_MOVE, NULL));
    SHOW(mount(in("/a/below"), in("/c"), NULL, MS_BIND, NULL));
    SHOW(mount(in("/a"), in("/c"), NULL, MS_BIND, NULL));
    SHOW(OPEN_TREE(AT_FDCWD, in("/a/below"), CLONE));
    SHOW(mount(in("/a/below"), in("/c"), NULL, MS_BIND | MS_REC, NULL));
    SHOW(umount2(in("/c/deep"), 0));
    SHOW(mount(NULL, in("/c"), NULL, MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOEXEC, NULL));
    SHOW(mount(NULL, in("/c"), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    SHOW(mount(NULL, in("/c"), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV | MS_NOEXEC | MS_NOATIME, NULL));
    SHOW(mount(NULL, in("/c"), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV | MS_NOEXEC | MS_NOSUID, NULL));
    struct { uint64_t set, clear, kind, userns; } attr = {0, 1, 0, 0};
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, in("/c"), 0, &attr, sizeof attr));
    attr.clear = 2;
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, in("/c"), 0, &attr, sizeof attr));
    SHOW(mount(NULL, in("/c"), NULL, MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOEXEC, NULL));
    SHOW(mount(NULL, in("/a/below/deep"), NULL, MS_REMOUNT, "size=1m"));
    SHOW(umount2("/", 0));
    info("bound");
    // Taken away with a tree that goes, it still hides.
    int fd = open(in("/c"), O_PATH);
    SHOW(umount2(in("/c"), MNT_DETACH));
    SHOW(faccessat(fd, "seen", F_OK, 0));
    SHOW(faccessat(fd, "deep/cover", F_OK, 0));
    close(fd);
    // New ones are its own.
    tmpfs("/c", "own");
    SHOW(mknod(in("/c/null"), S_IFCHR | 0666, 0x103));
    SHOW(mount(NULL, in("/c"), NULL, MS_REMOUNT, "size=1m"));
    SHOW(umount2(in("/c"), 0));
    tmpfs("/a/below/deep", "more");
    SHOW(MOVE(AT_FDCWD, in("/a/below/deep"), AT_FDCWD, in("/c"), 0));
    SHOW(umount2(in("/c"), 0));
    tmpfs("/c", "new root");
    SHOW(mkdir(in("/c/old"), 0755));
    SHOW(syscall(SYS_pivot_root, in("/a/below"), in("/a/below")));
    SHOW(chdir(in("/c")));
    SHOW(syscall(SYS_pivot_root, ".", "old"));
    SHOW(access("/new root", F_OK));
    SHOW(umount2("/", 0));
    SHOW(umount2("/old", MNT_DETACH));
    fflush(stdout);
    _exit(0);
}

int main(void) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 20);
    unshare(CLONE_NEWNS);
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    strcpy(top, "/tmp/mounts-XXXXXX");
    mkdtemp(top);
    mount("top", top, "tmpfs", 0, NULL);
    for (const char *p = "acde"; *p; p++) {
        char name[3] = {'/', *p, 0};
        mkdir(in(name), 0755);
    }
    touch("/file");
    detached();
    beneath();
    groups();
    inner();
    fflush(stdout);
    umount2(top, MNT_DETACH);
    rmdir(top);
    return 0;
}
