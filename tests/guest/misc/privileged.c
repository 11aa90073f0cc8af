/* Calls for administrators, as an ordinary user and with wrong arguments: nothing here changes the machine. */
#include "../case.h"
#define USER(...) CHILD(become(1000, 1000); __VA_ARGS__)
CASE(mount, permission) { mkdir("d", 0755); USER(R(mount, "none", "d", "tmpfs", 0, 0); R(mount, "none", "none", "tmpfs", 0, 0); R(mount, "none", BAD, "tmpfs", 0, 0)); }
CASE(mount, errnos) { CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); mkdir("d", 0755); touch("f"); R(mount, "none", "none", "tmpfs", 0, 0); R(mount, "none", "d", "nonesuchfs", 0, 0); R(mount, "none", "f", "tmpfs", 0, 0); R(mount, "none", BAD, "tmpfs", 0, 0); R(mount, "none", "d", BAD, 0, 0); R(mount, "none", "d", 0, 0, 0); R(mount, "none", "d", "tmpfs", 0, BAD); R(mount, "none", "d", "tmpfs", 0, "size=bad")); }
CASE(mount, tmpfs_and_umount) { CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); mkdir("d", 0755); touch("d/under"); R(mount, "none", "d", "tmpfs", 0, "mode=700"); R(access, "d/under", 0); touch("d/f"); R(rmdir, "d"); R(umount2, "d", 8); int fd = open("d/f", 0); R(umount2, "d", 0); close(fd); R(umount2, "d", 0); R(access, "d/under", 0); R(umount2, "d", 0)); }
CASE(mount, bind_and_read_only) { CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); mkdir("a", 0755); mkdir("b", 0755); touch("a/f"); R(mount, "a", "b", 0, 4096, 0); R(access, "b/f", 0); R(mount, 0, "b", 0, 4096 | 32 | 1, 0); R(open, "b/g", O_CREAT | O_RDWR, 0644); R(open, "b/f", O_RDWR); R(open, "a/g", O_CREAT | O_RDWR, 0644); R(link, "a/f", "b/h"); R(rename, "a/f", "b/f"); R(unlink, "b/f"); R(umount2, "b", 2)); }
CASE(mount, move) { CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); mkdir("a", 0755); mkdir("b", 0755); R(mount, "none", "a", "tmpfs", 0, 0); touch("a/f"); R(mount, "a", "b", 0, 8192, 0); R(access, "b/f", 0); R(access, "a/f", 0); R(mount, "none", "b", "tmpfs", 32, "size=1m")); }
CASE(mount, nosuid_nodev_noexec) { CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); mkdir("d", 0755); R(mount, "none", "d", "tmpfs", 2 | 4 | 8, 0); R(mknod, "d/n", S_IFCHR | 0666, 0x103); R(open, "d/n", O_RDONLY); int fd = open("d/s", O_CREAT | O_RDWR, 0755); write(fd, "#!/bin/sh\n", 10); close(fd); R(access, "d/s", X_OK); const char *const v[] = {"s", 0}; R(execve, "d/s", v, v + 1)); }
CASE(umount2, errnos) { mkdir("d", 0755); USER(R(umount2, "d", 0)); R(umount2, "none", 0); R(umount2, BAD, 0); CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); R(umount2, "d", 0); R(umount2, "d", 0x100); R(umount2, "d", 4 | 1)); }
CASE(pivot_root, errnos) { mkdir("d", 0755); USER(R(pivot_root, "d", "d")); CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); R(pivot_root, "none", "d"); R(pivot_root, "d", "d"); R(pivot_root, BAD, "d")); }
CASE(open_tree, errnos) { R(open_tree, AT_FDCWD, ".", 0x2); R(open_tree, AT_FDCWD, ".", O_CLOEXEC); R(open_tree, AT_FDCWD, "none", 0); USER(R(open_tree, AT_FDCWD, ".", 1)); }
CASE(move_mount, errnos) { USER(R(move_mount, AT_FDCWD, ".", AT_FDCWD, ".", 0)); R(move_mount, AT_FDCWD, ".", AT_FDCWD, ".", 0x80000000); R(move_mount, -1, "", AT_FDCWD, ".", 4); }
CASE(fsopen, errnos) { USER(R(fsopen, "tmpfs", 0)); R(fsopen, "nonesuchfs", 0); R(fsopen, "tmpfs", 2); R(fsopen, BAD, 0); int f = R(fsopen, "tmpfs", 1); R(fcntl, f, F_GETFD); }
CASE(fsconfig, errnos) { int f = S(fsopen, "tmpfs", 0); R(fsconfig, f, 1, "size", "1m", 0); R(fsconfig, f, 1, "none", "x", 0); R(fsconfig, f, 99, 0, 0, 0); R(fsconfig, f, 6, 0, 0, 0); R(fsconfig, 0, 6, 0, 0, 0); R(fsconfig, -1, 6, 0, 0, 0); }
CASE(fsmount, errnos) { int f = S(fsopen, "tmpfs", 0); R(fsmount, f, 0, 0); R(fsmount, f, 2, 0); R(fsmount, 0, 0, 0); S(fsconfig, f, 6, 0, 0, 0); int m = OK(fsmount, f, 0, 0); R(openat, m, "x", O_CREAT | O_RDWR, 0644); USER(R(fsmount, f, 0, 0)); }
CASE(fspick, errnos) { USER(R(fspick, AT_FDCWD, "/", 0)); R(fspick, AT_FDCWD, ".", 0); R(fspick, AT_FDCWD, "/", 0x10); }
CASE(mount_setattr, errnos) { u64 a[4] = {0}; R(mount_setattr, AT_FDCWD, ".", 0, a, 32); R(mount_setattr, AT_FDCWD, "/", 0, a, 8); R(mount_setattr, AT_FDCWD, "/", 0, BAD, 32); USER(R(mount_setattr, AT_FDCWD, "/", 0, a, 32)); }
CASE(statmount, errnos) { u64 q[3] = {24, 1, 1}; R(statmount, q, BAD, 0, 0); R(statmount, q, buf, 100, 1); R(statmount, BAD, buf, 100, 0); q[0] = 3; R(statmount, q, buf, 100, 0); }
CASE(listmount, errnos) { u64 q[3] = {24, ~0ul, 0}; P(S(listmount, q, buf, 100, 0) > 0); R(listmount, q, buf, 100, 8); R(listmount, BAD, buf, 100, 0); q[1] = 1; R(listmount, q, buf, 100, 0); }
CASE(name_to_handle_at, sizes) { struct { u32 bytes; int type; u8 h[128]; } h = {0}; int id = -1; touch("f"); R(name_to_handle_at, AT_FDCWD, "f", &h, &id, 0); P(h.bytes > 0); h.bytes = 128; R(name_to_handle_at, AT_FDCWD, "f", &h, &id, 0); P(id > 0); h.bytes = 129; R(name_to_handle_at, AT_FDCWD, "f", &h, &id, 0); R(name_to_handle_at, AT_FDCWD, "none", &h, &id, 0); R(name_to_handle_at, AT_FDCWD, "f", BAD, &id, 0); R(name_to_handle_at, AT_FDCWD, "f", &h, &id, 1); }
CASE(open_by_handle_at, permission) { struct { u32 bytes; int type; u8 h[128]; } h = {8}; int d = open(".", 0); USER(R(open_by_handle_at, d, &h, 0)); h.bytes = 0; R(open_by_handle_at, d, &h, 0); R(open_by_handle_at, d, BAD, 0); }
CASE(open_by_handle_at, reopens) { struct { u32 bytes; int type; u8 h[128]; } h = {128}; int id; make("f", "abc"); int d = open(".", 0); if (S(name_to_handle_at, AT_FDCWD, "f", &h, &id, 0)) SKIP("no handles here"); int fd = R(open_by_handle_at, d, &h, O_RDONLY); R(read, fd, buf, 9); unlink("f"); close(fd); }
CASE(reboot, needs_magic_and_capability) { R(reboot, 0, 0, 0, 0); USER(R(reboot, 0, 0, 0, 0)); }
CASE(swapon, permission) { USER(R(swapon, "none", 0)); R(swapon, "none", 0x100000); R(swapon, "none", 0); R(swapon, BAD, 0); }
CASE(swapoff, permission) { USER(R(swapoff, "none")); R(swapoff, "none"); R(swapoff, BAD); }
CASE(acct, permission) { USER(R(acct, "none")); R(acct, "none"); R(acct, "."); }
CASE(vhangup, permission) { USER(R(vhangup)); }
CASE(iopl, permission) { USER(R(iopl, 3); R(iopl, 0); R(iopl, 4)); R(iopl, 4); }
CASE(ioperm, permission) { USER(R(ioperm, 0x80, 1, 1); R(ioperm, 0x80, 1, 0)); R(ioperm, 0x10000, 1, 1); R(ioperm, 0, 0, 1); }
CASE(modify_ldt, reads) { R(modify_ldt, 0, buf, 16); R(modify_ldt, 9, buf, 16); R(modify_ldt, 2, buf, 4); R(modify_ldt, 1, buf, 3); }
CASE(set_thread_area, on_64_bits) { R(set_thread_area, BAD); }
CASE(get_thread_area, on_64_bits) { R(get_thread_area, BAD); }
CASE(syslog, actions) { R(syslog, 99, 0, 0); R(syslog, 3, 0, 0); R(syslog, 3, buf, -1); R(syslog, 0, 0, 0); R(syslog, 8, 0, 99); P(S(syslog, 10, 0, 0) > 0); USER(R(syslog, 5, 0, 0)); }
CASE(quotactl, errnos) { R(quotactl, 0x80000100, "none", 0, 0); R(quotactl, 99 << 8, 0, 0, 0); USER(OK(quotactl, 0x80000300, 0, 0, 0)); }
CASE(quotactl_fd, errnos) { R(quotactl_fd, -1, 0, 0, 0); }
CASE(init_module, permission) { USER(R(init_module, BAD, 10, "")); R(init_module, BAD, 10, ""); R(init_module, buf, 0, ""); }
CASE(finit_module, permission) { USER(R(finit_module, 0, "", 0)); R(finit_module, -1, "", 0); R(finit_module, 0, "", 99); }
CASE(delete_module, permission) { USER(R(delete_module, "none", 0)); R(delete_module, "none", O_NONBLOCK); R(delete_module, BAD, O_NONBLOCK); }
CASE(kexec_load, permission) { USER(R(kexec_load, 0, 0, 0, 0)); R(kexec_load, 0, 99, 0, 0); }
CASE(kexec_file_load, permission) { USER(R(kexec_file_load, -1, -1, 0, 0, 0)); }
CASE(bpf, permission) { USER(OK(bpf, 0, buf, 48)); R(bpf, 99, buf, 48); R(bpf, 0, BAD, 48); R(bpf, 0, buf, 5000); }
CASE(perf_event_open, errnos) { R(perf_event_open, BAD, 0, -1, -1, 0); u32 a[32] = {0}; R(perf_event_open, a, -1, -1, -1, 0); R(perf_event_open, a, 0, -1, -1, 0x100); }
CASE(fanotify_init, flags) { R(fanotify_init, 0x80000000, 0); R(fanotify_init, 0, 3); USER(R(fanotify_init, 0, 0)); int f = R(fanotify_init, 3, 0); R(fcntl, f, F_GETFD); R(fanotify_mark, f, 0, 0, AT_FDCWD, "."); R(fanotify_mark, f, 1, 0x20, AT_FDCWD, "none"); R(fanotify_mark, f, 1, 0x20, AT_FDCWD, "."); close(open("x", O_CREAT | O_RDWR, 0644)); }
CASE(fanotify_mark, errnos) { R(fanotify_mark, -1, 1, 0x20, AT_FDCWD, "."); R(fanotify_mark, 0, 1, 0x20, AT_FDCWD, "."); R(fanotify_mark, 0, 0x8000000, 0x20, AT_FDCWD, "."); }
#define LANDLOCK() NEED(S(landlock_create_ruleset, 0, 0, 1) > 0)
CASE(landlock_create_ruleset, versions) { LANDLOCK(); R(landlock_create_ruleset, 0, 0, 99); R(landlock_create_ruleset, BAD, 8, 0); }
CASE(landlock_add_rule, errnos) { LANDLOCK(); OK(landlock_add_rule, -1, 1, buf, 0); }
CASE(landlock_restrict_self, errnos) { LANDLOCK(); OK(landlock_restrict_self, -1, 0); }
CASE(add_key, session_keyring) { long k = OK(add_key, "user", "conformance", "secret", 6, -2); P(S(keyctl, 11, k, buf, 100)); show_bytes("got", buf, 6); R(add_key, "none", "x", "y", 1, -2); R(add_key, "user", "x", BAD, 1, -2); R(add_key, BAD, "x", "y", 1, -2); R(keyctl, 3, k); R(keyctl, 11, k, buf, 100); }
CASE(request_key, missing) { R(request_key, "user", "conformance-none", 0, 0); R(request_key, "none", "x", 0, 0); R(request_key, BAD, "x", 0, 0); }
CASE(keyctl, errnos) { R(keyctl, 999); R(keyctl, 6, 0x7fffffff, buf, 10); P(S(keyctl, 1, 0) != 0); OK(keyctl, 0, -3, 1); }
CASE(lookup_dcookie, permission) { USER(OK(lookup_dcookie, 0, buf, 10)); }
CASE(io_setup, errnos) { u64 c = 0; R(io_setup, 0, &c); R(io_setup, 4, BAD); c = 1; R(io_setup, 4, &c); c = 0; R(io_setup, 4, &c); P(c != 0); R(io_setup, 1 << 30, &c); R(io_destroy, c); R(io_destroy, c); }
CASE(io_submit, reads_a_file) { u64 c = 0; make("f", "hello"); int fd = open("f", O_RDONLY); NEED(S(io_setup, 4, &c) == 0); struct { u64 data; u32 key, rw; unsigned short op; short prio; u32 fd; u64 buf, n; i64 off; u64 r2; u32 flags, res; } i = {.data = 77, .op = 0, .fd = fd, .buf = (u64)buf, .n = 100}; void *l[1] = {&i}; R(io_submit, c, 1, l); struct { u64 data, obj; i64 res, res2; } e; R(io_getevents, c, 1, 1, &e, 0); out("data %ld res %ld\n", (long)e.data, (long)e.res); i.fd = 99; R(io_submit, c, 1, l); i.op = 99; i.fd = fd; R(io_submit, c, 1, l); R(io_submit, c, -1, l); R(io_submit, 0, 1, l); R(io_submit, c, 1, BAD); R(io_destroy, c); }
CASE(io_getevents, errnos) { u64 c = 0; R(io_getevents, 0, 0, 1, buf, 0); NEED(S(io_setup, 4, &c) == 0); struct timespec z = {0, 0}; R(io_getevents, c, 1, 1, buf, &z); R(io_getevents, c, -1, 1, buf, &z); R(io_getevents, c, 2, 1, buf, &z); }
CASE(io_cancel, errnos) { R(io_cancel, 0, buf, buf + 100); }
CASE(io_destroy, errnos) { R(io_destroy, 0); R(io_destroy, 12345); }
CASE(io_pgetevents, errnos) { R(io_pgetevents, 0, 0, 1, buf, 0, 0); }
CASE(io_uring_setup, errnos) { R(io_uring_setup, 0, buf); R(io_uring_setup, 4, BAD); memset(buf, 0xff, 200); R(io_uring_setup, 4, buf); }
CASE(io_uring_enter, errnos) { R(io_uring_enter, -1, 0, 0, 0, 0, 0); R(io_uring_enter, 0, 0, 0, 0, 0, 0); }
CASE(io_uring_register, errnos) { R(io_uring_register, -1, 0, 0, 0); R(io_uring_register, 0, 0, 0, 0); }
CASE(lsm_list_modules, sizes) { u32 n = 0; OK(lsm_list_modules, buf, &n, 0); n = 800; R(lsm_list_modules, buf, &n, 1); R(lsm_list_modules, buf, BAD, 0); }
CASE(lsm_get_self_attr, errnos) { u32 n = 0; R(lsm_get_self_attr, 0, buf, &n, 0); R(lsm_get_self_attr, 100, buf, BAD, 0); }
CASE(lsm_set_self_attr, errnos) { R(lsm_set_self_attr, 0, buf, 10, 1); }
struct xargs { u64 value; u32 size, flags; };
CASE(setxattrat, as_setxattr) { touch("f"); struct xargs a = {(u64) "one", 3, 0}; R(setxattrat, AT_FDCWD, "f", 0, "user.a", &a, 16); R(setxattrat, AT_FDCWD, "f", 0, "user.a", &a, 8); R(setxattrat, AT_FDCWD, "f", 1, "user.a", &a, 16); a.flags = 1; R(setxattrat, AT_FDCWD, "f", 0, "user.a", &a, 16); }
CASE(getxattrat, as_getxattr) { touch("f"); S(setxattr, "f", "user.a", "one", 3, 0); struct xargs a = {(u64)buf, 100, 0}; R(getxattrat, AT_FDCWD, "f", 0, "user.a", &a, 16); a.flags = 1; R(getxattrat, AT_FDCWD, "f", 0, "user.a", &a, 16); R(getxattrat, open("f", O_RDONLY), "", AT_EMPTY_PATH, "user.a", BAD, 16); }
CASE(listxattrat, as_listxattr) { touch("f"); S(setxattr, "f", "user.a", "one", 3, 0); R(listxattrat, AT_FDCWD, "f", 0, buf, 100); R(listxattrat, AT_FDCWD, "f", 1, buf, 100); R(listxattrat, open("f", O_PATH), "", AT_EMPTY_PATH, buf, 100); }
CASE(removexattrat, as_removexattr) { touch("f"); S(setxattr, "f", "user.a", "one", 3, 0); R(removexattrat, AT_FDCWD, "f", 0, "user.a"); R(removexattrat, AT_FDCWD, "f", 0, "user.a"); R(removexattrat, AT_FDCWD, "f", 1, "user.a"); }
CASE(open_tree_attr, errnos) { R(open_tree_attr, AT_FDCWD, "none", 0, 0, 0); R(open_tree_attr, AT_FDCWD, ".", 2, 0, 0); }
CASE(file_getattr, errnos) { touch("f"); R(file_getattr, AT_FDCWD, "none", buf, 24, 0); R(file_getattr, AT_FDCWD, "f", buf, 8, 0); R(file_getattr, AT_FDCWD, "f", buf, 24, 1); }
CASE(file_setattr, errnos) { touch("f"); R(file_setattr, AT_FDCWD, "none", buf, 24, 0); R(file_setattr, AT_FDCWD, "f", buf, 8, 0); }
#define OBSOLETE(name) CASE(name, is_gone) { R(name, 0, 0, 0, 0); }
OBSOLETE(uselib) OBSOLETE(create_module) OBSOLETE(get_kernel_syms) OBSOLETE(query_module) OBSOLETE(nfsservctl) OBSOLETE(getpmsg) OBSOLETE(putpmsg) OBSOLETE(afs_syscall) OBSOLETE(tuxcall) OBSOLETE(security) OBSOLETE(vserver) OBSOLETE(_sysctl)
CASE(ustat, errnos) { R(ustat, 0xffffffff, buf); struct stat s; stat("/proc", &s); R(ustat, s.st_dev, buf); R(ustat, s.st_dev, BAD); }
CASE(sysfs, names) { P(S(sysfs, 3) > 3); P(S(sysfs, 1, "proc") >= 0); R(sysfs, 1, "nonesuchfs"); P(S(sysfs, 2, 0, buf)); R(sysfs, 2, 999, buf); R(sysfs, 9); }
CASE(getuid, numbers_beyond_the_table) { enum { SYS_beyond = 600, SYS_gap = 400, SYS_negative = -1, SYS_huge = 1 << 20 }; R(beyond); R(gap); R(negative); R(huge); }
static void own_mounts(void) { NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); }
CASE(umount2, takes_what_propagation_nested) { mkdir("a", 0755); mkdir("b", 0755); CHILD(own_mounts(); R(mount, "x", "a", "tmpfs", 0, 0); R(mount, 0, "a", 0, 1 << 20, 0); mkdir("a/c", 0755); R(mount, "a", "b", 0, 1 << 12, 0); R(mount, "y", "a/c", "tmpfs", 0, 0); mkdir("a/c/d", 0755); R(mount, "z", "a/c/d", "tmpfs", 0, 0); R(access, "b/c/d", 0); R(umount2, "a/c", 2); R(access, "a/c/d", 0); R(access, "b/c/d", 0); R(umount2, "b/c", 2)); }
CASE(umount2, leaves_what_holds_another_mount) { mkdir("a", 0755); mkdir("b", 0755); CHILD(own_mounts(); R(mount, "x", "a", "tmpfs", 0, 0); R(mount, 0, "a", 0, 1 << 20, 0); mkdir("a/c", 0755); R(mount, "a", "b", 0, 1 << 12, 0); R(mount, "y", "a/c", "tmpfs", 0, 0); mkdir("a/c/d", 0755); R(mount, 0, "b/c", 0, 1 << 18, 0); R(mount, "z", "b/c/d", "tmpfs", 0, 0); R(access, "a/c/d", 0); R(umount2, "a/c", 2); R(access, "a/c/d", 0); R(access, "b/c/d", 0); R(umount2, "b/c/d", 0); R(umount2, "b/c", 0)); }
CASE(umount2, thousands_of_peers) { mkdir("a", 0755); CHILD(own_mounts(); S(mount, "x", "a", "tmpfs", 0, 0); mkdir("a/d", 0755); S(mount, "a/d", "a/d", 0, 1 << 12, 0); S(mount, 0, "a/d", 0, 1 << 20, 0); for (int i = 0; i < 13; i++) if (S(mount, "a/d", "a/d", 0, 1 << 12, 0)) out("failed\n"); R(umount2, "a", 2); R(umount2, "a", 2); R(access, "a/d", 0)); }
CASE(mq_unlink, as_a_file) { CHILD(NEED(S(unshare, CLONE_NEWNS | CLONE_NEWIPC) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); mkdir("q", 0755); NEED(S(mount, "none", "q", "mqueue", 0, 0) == 0); P(S(mq_open, "file", O_CREAT | O_RDWR, 0644, 0) >= 0); R(access, "q/file", F_OK); R(unlink, "q/file"); R(unlink, "q/file"); R(mq_unlink, "file"); P(S(mq_open, "file", O_CREAT | O_RDWR, 0644, 0) >= 0); R(mq_unlink, "file"); R(access, "q/file", F_OK)); }
