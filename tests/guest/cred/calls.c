/* One fact at a time about ids, groups and capabilities. */
#include "../case.h"
#include <linux/capability.h>
static void ids(void) { uid_t r, e, s; gid_t a, b, c; S(getresuid, &r, &e, &s); S(getresgid, &a, &b, &c); out("uid %d %d %d gid %d %d %d\n", r, e, s, a, b, c); }
static struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
static struct __user_cap_data_struct d[2];
static void caps(void) { h.pid = 0; S(capget, &h, d); out("effective %d permitted %d\n", !!d[0].effective, !!d[0].permitted); }
CASE(getuid, after_changes) { P(S(getuid)); become(5, 6); P(S(getuid)); }
CASE(geteuid, after_changes) { S(setresuid, -1, 7, -1); P(S(geteuid)); P(S(getuid)); }
CASE(getgid, after_changes) { S(setresgid, 4, 5, 6); P(S(getgid)); }
CASE(getegid, after_changes) { S(setresgid, 4, 5, 6); P(S(getegid)); }
CASE(setuid, by_root_sets_all) { R(setuid, 9); ids(); caps(); R(setuid, 0); }
CASE(setuid, by_others_sets_the_effective) { S(setresuid, 1, 2, 3); R(setuid, 3); ids(); R(setuid, 1); ids(); R(setuid, 2); }
CASE(setuid, minus_one) { R(setuid, -1); R(setgid, -1); ids(); }
CASE(setgid, by_root_and_others) { R(setgid, 9); ids(); become(1, 1); R(setgid, 9); R(setgid, 1); }
CASE(setreuid, combinations) { R(setreuid, 4, 5); ids(); R(setreuid, 5, 4); ids(); R(setreuid, -1, 6); R(setreuid, -1, -1); ids(); }
CASE(setregid, combinations) { R(setregid, 4, 5); ids(); become(1, 1); R(setregid, 4, 5); R(setregid, -1, 1); ids(); }
CASE(setresuid, combinations) { R(setresuid, 1, 2, 3); ids(); R(setresuid, 3, -1, 1); ids(); R(setresuid, 9, -1, -1); R(setresuid, -1, -1, -1); }
CASE(setresgid, combinations) { R(setresgid, 1, 2, 3); ids(); become(7, 8); R(setresgid, 1, 2, 3); R(setresgid, 8, -1, 8); }
CASE(getresuid, bad_pointers) { uid_t a, b; R(getresuid, &a, &b, BAD); R(getresuid, BAD, &a, &b); R(getresuid, &a, BAD, &b); }
CASE(getresgid, bad_pointers) { gid_t a, b; R(getresgid, &a, &b, BAD); R(getresgid, BAD, &a, &b); }
CASE(setfsuid, returns_the_old_one) { R(setfsuid, 5); R(setfsuid, -1); R(setfsuid, 6); become(1, 1); R(setfsuid, 9); R(setfsuid, -1); }
CASE(setfsgid, returns_the_old_one) { R(setfsgid, 5); R(setfsgid, -1); become(1, 1); R(setfsgid, 9); R(setfsgid, -1); }
CASE(setfsuid, decides_about_files) { touch("f"); chmod("f", 0600); S(setfsuid, 1000); R(open, "f", O_RDONLY); S(setfsuid, 0); R(open, "f", O_RDONLY); }
CASE(getgroups, sizes) { gid_t g[4] = {5, 3, 9, 3}; R(setgroups, 4, g); R(getgroups, 0, 0); R(getgroups, 4, g); out("%d %d %d %d\n", g[0], g[1], g[2], g[3]); R(getgroups, 3, g); R(getgroups, -1, g); R(getgroups, 4, BAD); }
CASE(setgroups, errnos) { R(setgroups, 65537, 0); R(setgroups, 1, BAD); R(setgroups, -1, 0); R(setgroups, 0, 0); become(1, 1); R(setgroups, 0, 0); R(setgroups, 65537, 0); }
CASE(capget, versions) { h.version = 0; R(capget, &h, d); X(h.version); R(capget, &h, 0); h.version = 0x19980330; R(capget, &h, d); h.version = _LINUX_CAPABILITY_VERSION_3; h.pid = 999999; R(capget, &h, d); h.pid = -1; R(capget, &h, d); R(capget, BAD, d); h.pid = 0; R(capget, &h, BAD); }
CASE(capset, only_fewer) { S(capget, &h, d); d[0].effective = d[0].permitted = 1; d[1].effective = d[1].permitted = 0; R(capset, &h, d); d[0].permitted = 3; R(capset, &h, d); d[0].permitted = 0; R(capset, &h, d); d[0].effective = 0; R(capset, &h, d); caps(); h.pid = 1; R(capset, &h, d); }
CASE(capset, lost_capability_is_felt) { touch("f"); chmod("f", 0); S(capget, &h, d); d[0].effective &= ~(1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH); R(capset, &h, d); R(open, "f", O_RDONLY); R(chown, "f", 1, 1); d[0].effective &= ~(1u << CAP_CHOWN); R(capset, &h, d); R(chown, "f", 2, 2); }
CASE(prctl, keep_capabilities) { R(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0); R(setuid, 5); caps(); R(prctl, PR_GET_KEEPCAPS, 0, 0, 0, 0); }
CASE(prctl, no_new_privileges) { R(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); R(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); R(prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0); R(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); CHILD(R(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)); }
CASE(setgroups, denied_by_what_is_written) { const char *texts[] = {"deny\n", "deny\0", "deny \0", "deny\0x", "deny\0\0\0\0", "denyx", "den", "allow\0", "deny    "}; const int lens[] = {5, 5, 6, 6, 8, 5, 3, 6, 8}; for (int i = 0; i < 9; i++) CHILD(if (S(unshare, CLONE_NEWUSER)) exit(0); int fd = open("/proc/self/setgroups", O_RDWR); R(write, fd, texts[i], lens[i]); R(pread64, fd, buf, 100, 0); int map = open("/proc/self/uid_map", O_WRONLY); R(write, map, "0 0 1\n\0zzz", i % 2 ? 6 : 10)); }
