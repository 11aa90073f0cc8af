// Mounts: mount, umount2, bind, move, propagation, attributes, pivot_root, the calls by descriptors, and what
// mountinfo shows of them. Ids of mounts and groups are numbered in the order in which they are seen.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mounts.h"
static int Mount(const char *s, const char *t, const char *ty, unsigned long f, const char *d) { return mount(s, t, ty, f, d); }

static void errors(void) {
    puts("errors");
    SHOW(Mount("x", in("/none"), "tmpfs", 0, 0));
    SHOW(Mount("x", in("/a"), "nosuchfs", 0, 0));
    SHOW(Mount("x", in("/a"), NULL, 0, 0));
    SHOW(Mount("x", in("/a"), "tmpfs", 0, "size=bad"));
    SHOW(Mount("x", in("/a"), "tmpfs", 0, "nosuchoption"));
    SHOW(Mount(in("/a"), in("/a/b"), "tmpfs", MS_MOVE, 0));
    SHOW(Mount(NULL, in("/a"), NULL, MS_BIND, 0));
    SHOW(Mount(in("/file"), in("/a"), NULL, MS_BIND, 0));
    SHOW(Mount(in("/a"), in("/file"), NULL, MS_BIND, 0));
    SHOW(Mount(NULL, in("/a"), NULL, MS_REMOUNT, 0));
    SHOW(Mount(NULL, in("/a"), NULL, MS_SHARED, 0));
    SHOW(Mount(NULL, top, NULL, MS_SHARED | MS_PRIVATE, 0));
    SHOW(umount2(in("/a"), 0));
    SHOW(umount2(in("/a"), 0x40));
    SHOW(umount2(top, MNT_EXPIRE | MNT_DETACH));
    SHOW(umount2(in("/none"), 0));
    SHOW(Mount("x", "/proc/self/nothing", "tmpfs", 0, 0));
    SHOW(Mount((char *)8, in("/a"), "tmpfs", 0, 0));
}

static void plain(void) {
    SHOW(Mount("src dir", in("/a"), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,nr_inodes=10,mode=711,uid=3,gid=4"));
    info("tmpfs");
    struct stat st;
    stat(in("/a"), &st);
    printf("%o %d %d %ld\n", st.st_mode, st.st_uid, st.st_gid, (long)st.st_nlink);
    struct statfs fs;
    statfs(in("/a"), &fs);
    printf("%lx %ld %ld %ld %ld flags %lx\n", fs.f_type, fs.f_blocks, fs.f_bfree, fs.f_files, fs.f_ffree, fs.f_flags);
    int fd = open(in("/a/fill"), O_CREAT | O_RDWR, 0755);
    static char buf[100000];
    printf("%zd", write(fd, buf, sizeof buf));
    printf(" %zd %s\n", write(fd, buf, 1000), strerrorname_np(errno));
    ftruncate(fd, 200000);
    char *m = mmap(0, 200000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fork() == 0) { m[190000] = 1; _exit(0); }
    int status;
    wait(&status);
    printf("full: signal %d\n", WTERMSIG(status));
    munmap(m, 200000);
    SHOW(ftruncate(fd, 100) < 0 ? -1 : 0);
    printf("%zd\n", pwrite(fd, "#!/bin/sh\nexit 3\n", 17, 0));
    SHOW(mmap(0, 4096, PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 1);
    SHOW(mprotect(mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0), 4096, PROT_EXEC));
    for (int i = 0; i < 12; i++) {
        char name[32];
        sprintf(name, "/a/f%d", i);
        int r = mknod(in(name), S_IFREG | 0644, 0);
        if (r) { printf("%d %s\n", i, strerrorname_np(errno)); break; }
    }
    SHOW(umount2(in("/a"), 0));
    close(fd);
    fd = open(in("/a/fill"), O_RDONLY);
    if (fork() == 0) { execl(in("/a/fill"), "fill", NULL); _exit(errno == EACCES ? 11 : 12); }
    wait(&status);
    printf("exec %d access %d %s\n", WEXITSTATUS(status), access(in("/a/fill"), X_OK), strerrorname_np(errno));
    close(fd);
    SHOW(unlink(in("/a/f0")));
    SHOW(mknod(in("/a/null"), S_IFCHR | 0666, makedev(1, 3)));
    SHOW(open(in("/a/null"), O_RDONLY));
    SHOW(Mount(NULL, in("/a"), NULL, MS_REMOUNT | MS_RDONLY, "size=128k"));
    info("remounted");
    SHOW(open(in("/a/fill"), O_RDWR));
    SHOW(Mount(NULL, in("/a"), NULL, MS_REMOUNT | MS_BIND | MS_NOATIME, 0));
    info("bind remount");
    SHOW(open(in("/a/fill"), O_RDWR));
    SHOW(Mount(NULL, in("/a"), NULL, MS_REMOUNT | MS_NODIRATIME, "size=4k"));
    SHOW(Mount(NULL, in("/a"), NULL, MS_REMOUNT | MS_NOSYMFOLLOW | MS_STRICTATIME, 0));
    SHOW(symlink("fill", in("/a/link")));
    SHOW(open(in("/a/link"), O_RDONLY));
    info("again");
    SHOW(rmdir(in("/a")));
    SHOW(umount2(in("/a"), MNT_EXPIRE));
    SHOW(umount2(in("/a"), MNT_EXPIRE));
    SHOW(umount2(in("/a"), MNT_EXPIRE));
}

static void binds(void) {
    mkdir(in("/a/b"), 0755);
    touch("/a/b/f");
    SHOW(Mount("one", in("/a/b"), "tmpfs", 0, 0));
    touch("/a/b/inner");
    SHOW(Mount(in("/a"), in("/c"), NULL, MS_BIND, 0));
    printf("%d %d\n", is("/c/b/f"), is("/c/b/inner"));
    SHOW(umount2(in("/c"), 0));
    SHOW(Mount(in("/a"), in("/c"), NULL, MS_BIND | MS_REC, 0));
    printf("%d %d\n", is("/c/b/f"), is("/c/b/inner"));
    SHOW(Mount(in("/file"), in("/other"), NULL, MS_BIND, 0));
    SHOW(unlink(in("/other")));
    SHOW(rename(in("/other"), in("/third")));
    SHOW(unlink(in("/file")));
    info("bound");
    SHOW(link(in("/a/x"), in("/c/y")));
    touch("/a/x");
    SHOW(link(in("/a/x"), in("/c/y")));
    SHOW(rename(in("/a/x"), in("/c/y")));
    SHOW(umount2(in("/c"), 0));
    SHOW(Mount(in("/c"), in("/c/b"), NULL, MS_MOVE, 0));
    SHOW(Mount(in("/c"), in("/d"), NULL, MS_MOVE, 0));
    info("moved");
    SHOW(umount2(in("/d"), MNT_DETACH));
    SHOW(umount2(in("/other"), 0));
    SHOW(umount2(in("/a/b"), UMOUNT_NOFOLLOW));
    touch("/file");
    symlink("a", in("/sym"));
    SHOW(Mount("s", in("/sym"), "tmpfs", 0, 0));
    SHOW(umount2(in("/sym"), UMOUNT_NOFOLLOW));
    SHOW(umount2(in("/sym"), 0));
    info("gone");
    // What is lazily gone stays for those who use it.
    SHOW(Mount("z", in("/c"), "tmpfs", 0, 0));
    touch("/c/here");
    int fd = open(in("/c"), O_RDONLY);
    SHOW(umount2(in("/c"), 0));
    SHOW(umount2(in("/c"), MNT_DETACH));
    printf("%d %d\n", faccessat(fd, "here", F_OK, 0), faccessat(fd, "..", F_OK, 0));
    close(fd);
}

static void propagation(void) {
    SHOW(Mount("p", in("/a"), "tmpfs", 0, 0));
    SHOW(Mount(NULL, in("/a"), NULL, MS_SHARED, 0));
    mkdir(in("/a/sub"), 0755);
    mkdir(in("/a/sub/deep"), 0755);
    SHOW(Mount(in("/a"), in("/c"), NULL, MS_BIND, 0));
    SHOW(Mount(in("/a/sub"), in("/d"), NULL, MS_BIND, 0));
    SHOW(Mount(in("/a"), in("/e"), NULL, MS_BIND, 0));
    SHOW(Mount(NULL, in("/e"), NULL, MS_SLAVE, 0));
    info("peers and a slave");
    SHOW(Mount("q", in("/a/sub/deep"), "tmpfs", 0, 0));
    info("propagated");
    SHOW(Mount("r", in("/e/sub"), "tmpfs", 0, 0));
    SHOW(Mount("s", in("/d"), "tmpfs", 0, 0));
    info("not upwards");
    SHOW(Mount(in("/a"), in("/f"), NULL, MS_MOVE, 0));
    SHOW(Mount(NULL, in("/e"), NULL, MS_SHARED, 0));
    info("slave and shared");
    SHOW(umount2(in("/c/sub/deep"), 0));
    SHOW(umount2(in("/d"), 0));
    info("taken back");
    SHOW(Mount(NULL, in("/c"), NULL, MS_UNBINDABLE, 0));
    SHOW(Mount(in("/c"), in("/f"), NULL, MS_BIND, 0));
    SHOW(Mount(in("/a/sub"), in("/a"), NULL, MS_MOVE, 0));
    info("unbindable");
    SHOW(Mount(NULL, in("/a"), NULL, MS_PRIVATE, 0));
    info("private");
    for (const char *p = "acdef"; *p; p++) {
        char name[3] = {'/', *p, 0};
        while (!umount2(in(name), MNT_DETACH)) {}
    }
    info("none");
}

// Where mounts are, in the order of their names: copies at several places are made in no order that is told.
static void places(void) {
    char names[64][512];
    int n = 0, id, parent;
    FILE *f = fopen("/proc/self/mountinfo", "r");
    char *line = NULL;
    size_t cap = 0;
    while (n < 64 && getline(&line, &cap, f) > 0) {
        if (sscanf(line, "%d %d %*s %*s %511s", &id, &parent, names[n]) == 3 && !strncmp(names[n], top, strlen(top))) n++;
    }
    free(line);
    fclose(f);
    qsort(names, n, sizeof names[0], (int (*)(const void *, const void *))strcmp);
    for (int i = 0; i < n; i++) printf("  %s\n", names[i] + strlen(top));
}

// Copies of a tree that holds peers of the place, or of what follows it, are no places themselves.
static void into_what_follows(void) {
    puts("into what follows");
    SHOW(Mount("p", in("/a"), "tmpfs", 0, 0));
    mkdir(in("/a/b"), 0755);
    mkdir(in("/a/c"), 0755);
    SHOW(Mount(NULL, in("/a"), NULL, MS_SHARED, 0));
    SHOW(Mount(in("/a"), in("/c"), NULL, MS_BIND, 0));
    SHOW(Mount(in("/a"), in("/d"), NULL, MS_BIND, 0));
    SHOW(Mount(NULL, in("/d"), NULL, MS_SLAVE, 0));
    SHOW(Mount(NULL, in("/d"), NULL, MS_SHARED, 0));
    SHOW(Mount(in("/d"), in("/a/b"), NULL, MS_BIND, 0));
    places();
    SHOW(Mount(in("/a"), in("/a/c"), NULL, MS_BIND | MS_REC, 0));
    places();
    for (const char *p = "acd"; *p; p++) {
        char name[3] = {'/', *p, 0};
        while (!umount2(in(name), MNT_DETACH)) {}
    }
    places();
}

static void descriptors(void) {
    int fs = syscall(SYS_fsopen, "tmpfs", 1);
    SHOW(syscall(SYS_fsopen, "nosuchfs", 0));
    SHOW(syscall(SYS_fsopen, "tmpfs", 2));
    SHOW(syscall(SYS_fsconfig, fs, 1, "size", "8k", 0));
    SHOW(syscall(SYS_fsconfig, fs, 1, "source", "by-fd", 0));
    SHOW(syscall(SYS_fsconfig, fs, 0, "ro", NULL, 0));
    SHOW(syscall(SYS_fsconfig, fs, 0, "rw", NULL, 0));
    SHOW(syscall(SYS_fsconfig, fs, 0, "rw", "x", 0));
    SHOW(syscall(SYS_fsconfig, fs, 1, "mode", NULL, 0));
    SHOW(syscall(SYS_fsconfig, fs, 99, NULL, NULL, 0));
    SHOW(syscall(SYS_fsmount, fs, 1, 0));
    SHOW(syscall(SYS_fsconfig, fs, 6, NULL, NULL, 0));
    SHOW(syscall(SYS_fsconfig, fs, 6, NULL, NULL, 0));
    int m = syscall(SYS_fsmount, fs, 1, 0x4 | 0x10);
    SHOW(syscall(SYS_fsmount, fs, 1, 0));
    int made = openat(m, "file", O_CREAT | O_RDWR, 0600);
    printf("%zd\n", write(made, "hello", 5));
    close(made);
    SHOW(syscall(SYS_move_mount, m, "", AT_FDCWD, in("/a"), 0));
    SHOW(syscall(SYS_move_mount, m, "", AT_FDCWD, in("/a"), 4));
    SHOW(syscall(SYS_move_mount, m, "", AT_FDCWD, in("/a"), 4));
    info("by fd");
    printf("%d\n", is("/a/file"));
    close(m);
    int t = syscall(SYS_open_tree, AT_FDCWD, in("/a"), 1 | O_CLOEXEC);
    SHOW(faccessat(t, "file", F_OK, 0));
    struct { uint64_t set, clr, prop, ns; } attr = {1, 0, 0, 0};
    SHOW(syscall(SYS_mount_setattr, t, "", AT_EMPTY_PATH, &attr, sizeof attr));
    SHOW(openat(t, "file", O_RDWR));
    SHOW(syscall(SYS_move_mount, t, "", AT_FDCWD, in("/c"), 4));
    close(t);
    attr.set = 2, attr.clr = 0x10, attr.prop = MS_SHARED;
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, in("/a"), 0, &attr, sizeof attr));
    attr.clr = 0x70;
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, in("/a"), 0, &attr, sizeof attr));
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, in("/a"), 0, &attr, 16));
    SHOW(syscall(SYS_mount_setattr, AT_FDCWD, in("/a/file"), 0, &attr, sizeof attr));
    info("setattr");
    t = syscall(SYS_open_tree, AT_FDCWD, in("/a"), 1);
    close(t);
    SHOW(syscall(SYS_open_tree, AT_FDCWD, in("/a"), AT_RECURSIVE));
    SHOW(syscall(SYS_open_tree, AT_FDCWD, in("/a/file"), 0));
    int p = syscall(SYS_fspick, AT_FDCWD, in("/a"), 0);
    SHOW(syscall(SYS_fsconfig, p, 1, "size", "16k", 0));
    SHOW(syscall(SYS_fsconfig, p, 7, NULL, NULL, 0));
    SHOW(syscall(SYS_fspick, AT_FDCWD, in("/a/file"), 0));
    close(p);
    close(fs);
    info("picked");
    SHOW(umount2(in("/a"), 0));
    SHOW(umount2(in("/c"), 0));
}

static void overlay(void) {
    mkdir(in("/w"), 0755);
    SHOW(Mount("w", in("/w"), "tmpfs", 0, 0));
    const char *dirs[] = {"/w/l1", "/w/l2", "/w/up", "/w/work", "/w/l1/d", "/w/l2/d"};
    for (int i = 0; i < 6; i++) mkdir(in(dirs[i]), 0755);
    touch("/w/l1/one"), touch("/w/l2/two"), touch("/w/l1/d/x"), touch("/w/l2/d/y"), touch("/w/l2/gone");
    char opts[400];
    sprintf(opts, "lowerdir=%s/w/l1:%s/w/l2,upperdir=%s/w/up,workdir=%s/w/work", top, top, top, top);
    SHOW(Mount("o", in("/a"), "overlay", 0, "lowerdir=/nowhere"));
    SHOW(Mount("o", in("/a"), "overlay", 0, ""));
    SHOW(Mount("o", in("/a"), "overlay", 0, opts));
    printf("%d%d%d%d\n", is("/a/one"), is("/a/two"), is("/a/d/x"), is("/a/d/y"));
    SHOW(unlink(in("/a/gone")));
    SHOW(rename(in("/a/d/x"), in("/a/d/z")));
    touch("/a/new");
    struct stat st;
    stat(in("/w/up/gone"), &st);
    printf("%o %d\n", st.st_mode & S_IFMT, (int)st.st_rdev);
    printf("%d%d%d\n", is("/w/up/new"), is("/w/l1/d/x"), is("/a/gone"));
    SHOW(umount2(in("/a"), 0));
    SHOW(Mount("o", in("/a"), "overlay", 0, opts));
    printf("%d%d%d%d\n", is("/a/gone"), is("/a/d/z"), is("/a/d/x"), is("/a/new"));
    SHOW(umount2(in("/a"), 0));
    sprintf(opts, "lowerdir=%s/w/l1:%s/w/l2", top, top);
    SHOW(Mount("o", in("/a"), "overlay", 0, opts));
    SHOW(open(in("/a/more"), O_CREAT | O_WRONLY, 0600));
    SHOW(umount2(in("/a"), 0));
    SHOW(umount2(in("/w"), 0));
}

// A long target takes a page of the size limit, until the inode goes.
static void long_links(void) {
    puts("long links");
    char target[300];
    struct stat st;
    memset(target, 't', sizeof target);
    SHOW(Mount("x", in("/a"), "tmpfs", 0, "size=8k"));
    for (int n = 126; n < 129; n++) {
        target[n] = 0;
        SHOW(symlink(target, in(n == 126 ? "/a/s" : n == 127 ? "/a/t" : "/a/u")));
        target[n] = 't';
    }
    lstat(in("/a/t"), &st);
    printf("%ld %ld\n", (long)st.st_size, (long)st.st_blocks);
    lstat(in("/a/u"), &st);
    printf("%ld %ld\n", (long)st.st_size, (long)st.st_blocks);
    target[250] = 0;
    SHOW(symlink(target, in("/a/v")));
    SHOW(symlink(target, in("/a/w")));
    SHOW(symlink(target, in("/a/x")));
    struct statfs fs;
    statfs(in("/a"), &fs);
    printf("%ld %ld\n", (long)fs.f_blocks, (long)fs.f_bfree);
    int fd = open(in("/a/v"), O_PATH | O_NOFOLLOW);
    SHOW(unlink(in("/a/v")));
    SHOW(symlink(target, in("/a/x")));
    close(fd);
    SHOW(symlink(target, in("/a/x")));
    SHOW(link(in("/a/x"), in("/a/y")));
    statfs(in("/a"), &fs);
    printf("%ld %ld\n", (long)fs.f_blocks, (long)fs.f_bfree);
    SHOW(umount2(in("/a"), 0));
}

static void pivot(void) {
    fflush(stdout);
    if (fork()) {
        wait(NULL);
        return;
    }
    SHOW(Mount("root", in("/a"), "tmpfs", 0, 0));
    mkdir(in("/a/old"), 0755);
    mkdir(in("/a/proc"), 0755);
    SHOW(syscall(SYS_pivot_root, in("/c"), in("/c")));
    SHOW(syscall(SYS_pivot_root, in("/a"), in("/c")));
    SHOW(syscall(SYS_pivot_root, in("/a"), in("/none")));
    SHOW(syscall(SYS_pivot_root, in("/a"), in("/file")));
    SHOW(chroot(in("/a")));
    SHOW(access("/old", F_OK));
    SHOW(syscall(SYS_pivot_root, "/", "/old"));
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
    for (const char *p = "acdef"; *p; p++) {
        char name[3] = {'/', *p, 0};
        mkdir(in(name), 0755);
    }
    mkdir(in("/a/b"), 0755);
    touch("/file"), touch("/other");
    info("start");
    errors();
    plain();
    binds();
    propagation();
    into_what_follows();
    descriptors();
    overlay();
    long_links();
    pivot();
    if (setuid(1000)) return 1;
    SHOW(Mount("x", in("/a"), "tmpfs", 0, 0));
    SHOW(umount2(top, 0));
    SHOW(syscall(SYS_fsopen, "tmpfs", 0));
    SHOW(syscall(SYS_pivot_root, "/none", "/none"));
    fflush(stdout);
    return 0;
}
