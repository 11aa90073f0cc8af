// The loopback device: ioctls, getifaddrs, netlink dumps and errors, /proc/net. Natively in a network of its own.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void check(const char *what, long r) {
    if (r < 0)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld\n", what, r);
}

static void ifreq_of(int s, const char *what, unsigned long request, const char *name, int kind) {
    struct ifreq r = {0};
    strcpy(r.ifr_name, name);
    if (request == SIOCGIFNAME) r.ifr_ifindex = 1;
    if (ioctl(s, request, &r) < 0) {
        printf("%s %s: %s\n", what, name, strerrorname_np(errno));
        return;
    }
    struct sockaddr_in *sin = (void *)&r.ifr_addr;
    if (kind == 0)
        printf("%s: %d\n", what, r.ifr_ifindex);
    else if (kind == 1)
        printf("%s: %x\n", what, r.ifr_flags & 0xffff);
    else if (kind == 2)
        printf("%s: %d %s\n", what, sin->sin_family, inet_ntoa(sin->sin_addr));
    else
        printf("%s: %s %d\n", what, r.ifr_name, r.ifr_hwaddr.sa_family);
}

static char buf[65536];

static int ask(int s, int type, int flags, const void *body, int len) {
    struct {
        struct nlmsghdr h;
        char data[256];
    } m = {.h = {.nlmsg_len = 16 + len, .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = 5}};
    memcpy(m.data, body, len);
    return send(s, &m, 16 + len, 0);
}

static void attributes(const char *p, int len, const int *wanted) {
    for (const struct rtattr *a = (void *)p; RTA_OK(a, len); a = RTA_NEXT(a, len)) {
        for (const int *w = wanted; *w; w++)
            if (*w == a->rta_type) {
                printf(" %d=", a->rta_type);
                for (unsigned i = 0; i < RTA_PAYLOAD(a); i++) printf("%02x", ((uint8_t *)RTA_DATA(a))[i]);
            }
    }
    printf("\n");
}

static void answer(int s, const char *what, int fixed, const int *wanted) {
    for (;;) {
        ssize_t n = recv(s, buf, sizeof buf, MSG_DONTWAIT);
        if (n < 0) {
            printf("%s: %s\n", what, strerrorname_np(errno));
            return;
        }
        int left = n;
        for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            printf("%s: type %d seq %d own port %d", what, h->nlmsg_type, h->nlmsg_seq, h->nlmsg_pid == getpid());
            if (h->nlmsg_type == NLMSG_ERROR) {
                struct nlmsgerr *e = NLMSG_DATA(h);
                printf(" error %d about %d len %d flags %x\n", e->error, e->msg.nlmsg_type, h->nlmsg_len, h->nlmsg_flags);
                return;
            }
            if (h->nlmsg_type == NLMSG_DONE) {
                printf(" done\n");
                return;
            }
            printf(" multi %d ", !!(h->nlmsg_flags & NLM_F_MULTI));
            for (int i = 0; i < fixed; i++) printf("%02x", ((uint8_t *)NLMSG_DATA(h))[i]);
            attributes((char *)NLMSG_DATA(h) + fixed, h->nlmsg_len - 16 - fixed, wanted);
            if (!(h->nlmsg_flags & NLM_F_MULTI)) return;
        }
    }
}

static void netlink(void) {
    check("stream", socket(AF_NETLINK, SOCK_STREAM, 0));
    check("protocol", socket(AF_NETLINK, SOCK_RAW, 5));
    check("protocol 77", socket(AF_NETLINK, SOCK_RAW, 77));
    int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), v;
    struct sockaddr_nl nl = {0};
    socklen_t len = sizeof nl;
    check("bind short", bind(s, (void *)&nl, 11));
    check("bind family", bind(s, (void *)&nl, sizeof nl));
    nl.nl_family = AF_NETLINK;
    check("bind", bind(s, (void *)&nl, sizeof nl));
    check("name", getsockname(s, (void *)&nl, &len));
    printf("family %d own port %d groups %x len %d\n", nl.nl_family, nl.nl_pid == getpid(), nl.nl_groups, len);
    nl.nl_pid = 77;
    check("bind other", bind(s, (void *)&nl, sizeof nl));
    int second = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE);
    nl.nl_pid = getpid();
    check("bind taken", bind(second, (void *)&nl, sizeof nl));
    nl.nl_pid = 0;
    check("bind second", bind(second, (void *)&nl, sizeof nl));
    getsockname(second, (void *)&nl, &len);
    printf("negative %d\n", (int)nl.nl_pid < 0);
    len = sizeof v;
    check("type", getsockopt(s, SOL_SOCKET, SO_TYPE, &v, &len));
    printf("%d\n", v);
    check("protocol", getsockopt(s, SOL_SOCKET, SO_PROTOCOL, &v, &len));
    printf("%d\n", v);
    check("listen", listen(s, 1));
    check("shutdown", shutdown(s, 2));
    check("recv", recv(s, buf, sizeof buf, MSG_DONTWAIT));

    static const int link_attrs[] = {IFLA_IFNAME, IFLA_MTU, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_QDISC, IFLA_ADDRESS, IFLA_BROADCAST, 0};
    static const int addr_attrs[] = {IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_FLAGS, 0};
    static const int route_attrs[] = {RTA_DST, RTA_OIF, RTA_PREFSRC, RTA_TABLE, 0};
    static const int none[] = {0};
    struct ifinfomsg ifi = {0};
    ask(s, RTM_GETLINK, NLM_F_DUMP, &ifi, sizeof ifi);
    answer(s, "links", sizeof ifi, link_attrs);
    ifi.ifi_index = 1;
    ask(s, RTM_GETLINK, 0, &ifi, sizeof ifi);
    answer(s, "link 1", sizeof ifi, link_attrs);
    ifi.ifi_index = 9999;
    ask(s, RTM_GETLINK, 0, &ifi, sizeof ifi);
    answer(s, "link 9999", sizeof ifi, none);
    ifi.ifi_index = 0;
    ask(s, RTM_GETLINK, NLM_F_ACK, &ifi, sizeof ifi);
    answer(s, "link 0", sizeof ifi, none);
    struct ifaddrmsg ifa = {0};
    ask(s, RTM_GETADDR, NLM_F_DUMP, &ifa, sizeof ifa);
    answer(s, "addresses", sizeof ifa, addr_attrs);
    ifa.ifa_family = AF_INET6;
    ask(s, RTM_GETADDR, NLM_F_DUMP, &ifa, sizeof ifa);
    answer(s, "addresses 6", sizeof ifa, addr_attrs);
    struct rtmsg rtm = {.rtm_family = AF_INET};
    ask(s, RTM_GETROUTE, NLM_F_DUMP, &rtm, sizeof rtm);
    answer(s, "routes", sizeof rtm, route_attrs);
    ask(s, RTM_GETRULE, NLM_F_DUMP, &rtm, sizeof rtm);
    answer(s, "rules", sizeof rtm, none);
    ask(s, RTM_GETNEIGH, NLM_F_DUMP, &rtm, sizeof rtm);
    answer(s, "neighbours", sizeof rtm, none);
    struct {
        struct rtmsg m;
        struct rtattr a;
        uint32_t dst;
    } get = {.m = {.rtm_family = AF_INET, .rtm_dst_len = 32}, .a = {8, RTA_DST}, .dst = inet_addr("127.1.2.3")};
    ask(s, RTM_GETROUTE, 0, &get, sizeof get);
    answer(s, "route", sizeof rtm, route_attrs);
    get.dst = inet_addr("10.1.2.3");
    ask(s, RTM_GETROUTE, 0, &get, sizeof get);
    answer(s, "route", sizeof rtm, route_attrs);
    ask(s, 200, 0, &rtm, sizeof rtm);
    answer(s, "unknown", 0, none);
    ask(s, NLMSG_NOOP, NLM_F_ACK, &rtm, 4);
    answer(s, "noop", 0, none);
    struct nlmsghdr bad = {.nlmsg_len = 500, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST};
    check("send bad", send(s, &bad, 16, 0));
    bad.nlmsg_len = 15;
    check("send bad", send(s, &bad, 16, 0));
    check("send short", send(s, &bad, 7, 0));
    answer(s, "after bad", 0, none);
    // An address that comes and goes.
    struct {
        struct ifaddrmsg m;
        struct rtattr a;
        uint32_t ip;
    } add = {.m = {.ifa_family = AF_INET, .ifa_prefixlen = 24, .ifa_index = 1}, .a = {8, IFA_LOCAL}, .ip = inet_addr("10.9.8.7")};
    ask(s, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &add, sizeof add);
    answer(s, "add", 0, none);
    ask(s, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &add, sizeof add);
    answer(s, "add again", 0, none);
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr("10.9.8.7")};
    check("bind 10.9.8.7", bind(u, (void *)&sin, sizeof sin));
    ask(s, RTM_DELADDR, NLM_F_ACK, &add, sizeof add);
    answer(s, "delete", 0, none);
    ask(s, RTM_DELADDR, NLM_F_ACK, &add, sizeof add);
    answer(s, "delete again", 0, none);
    int u2 = socket(AF_INET, SOCK_DGRAM, 0);
    sin.sin_port = htons(4444);
    check("bind 10.9.8.7", bind(u2, (void *)&sin, sizeof sin));
    check("connect 10.9.8.7", connect(u2, (void *)&sin, sizeof sin));
    // A group hears of changes.
    int one = RTNLGRP_LINK;
    check("join", setsockopt(second, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &one, sizeof one));
    struct ifreq r = {.ifr_name = "lo"};
    ioctl(u, SIOCGIFFLAGS, &r);
    one = 0;
    ifi.ifi_index = 1;
    ifi.ifi_change = IFF_UP;
    ask(s, RTM_NEWLINK, NLM_F_ACK, &ifi, sizeof ifi);
    answer(s, "down", 0, none);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check("connect while down", connect(u2, (void *)&sin, sizeof sin));
    ifi.ifi_flags = IFF_UP;
    ask(s, RTM_NEWLINK, NLM_F_ACK, &ifi, sizeof ifi);
    answer(s, "up", 0, none);
    check("connect while up", connect(u2, (void *)&sin, sizeof sin));
    ssize_t n = recv(second, buf, sizeof buf, MSG_DONTWAIT);
    printf("heard %d\n", n > 0 ? ((struct nlmsghdr *)buf)->nlmsg_type : -1);
    close(u);
    close(u2);
}

static void show(const char *path, const char *needle) {
    FILE *f = fopen(path, "r");
    printf("-- %s\n", path);
    if (!f) {
        printf("missing\n");
        return;
    }
    char line[1024];
    int i = 0;
    while (fgets(line, sizeof line, f))
        if (i++ == 0 || (needle && strstr(line, needle))) {
            char *inode = strstr(line, "        0 ");
            if (inode && strchr(line, ':')) inode[10] = 0;
            // The slot of UDP depends on a hash.
            char *slot = strstr(path, "udp") ? strchr(line, ':') : NULL;
            printf("%s", slot && i > 1 ? slot : line);
            if (inode) printf("\n");
        }
    fclose(f);
}

int main(void) {
    unshare(CLONE_NEWNET);
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    check("up", ioctl(s, SIOCSIFFLAGS, &r));
    ifreq_of(s, "name", SIOCGIFNAME, "", 3);
    ifreq_of(s, "index", SIOCGIFINDEX, "lo", 0);
    ifreq_of(s, "index", SIOCGIFINDEX, "nope", 0);
    ifreq_of(s, "flags", SIOCGIFFLAGS, "lo", 1);
    ifreq_of(s, "addr", SIOCGIFADDR, "lo", 2);
    ifreq_of(s, "mask", SIOCGIFNETMASK, "lo", 2);
    ifreq_of(s, "broadcast", SIOCGIFBRDADDR, "lo", 2);
    ifreq_of(s, "destination", SIOCGIFDSTADDR, "lo", 2);
    ifreq_of(s, "mtu", SIOCGIFMTU, "lo", 0);
    ifreq_of(s, "metric", SIOCGIFMETRIC, "lo", 0);
    ifreq_of(s, "txqlen", SIOCGIFTXQLEN, "lo", 0);
    ifreq_of(s, "hardware", SIOCGIFHWADDR, "lo", 3);
    ifreq_of(s, "addr", SIOCGIFADDR, "nope", 2);
    ifreq_of(s, "unknown", 0x89ff, "lo", 2);
    int x = socket(AF_UNIX, SOCK_DGRAM, 0);
    ifreq_of(x, "unix addr", SIOCGIFADDR, "lo", 2);
    ifreq_of(x, "unix index", SIOCGIFINDEX, "lo", 0);
    struct ifreq list[9];
    struct ifconf conf = {.ifc_len = sizeof list, .ifc_req = list};
    check("conf", ioctl(s, SIOCGIFCONF, &conf));
    printf("len %d name %s\n", conf.ifc_len, list[0].ifr_name);
    conf.ifc_req = NULL;
    check("conf size", ioctl(s, SIOCGIFCONF, &conf));
    printf("len %d\n", conf.ifc_len);
    printf("nametoindex %d %d\n", if_nametoindex("lo"), if_nametoindex("nope"));
    struct ifaddrs *all;
    check("getifaddrs", getifaddrs(&all));
    for (struct ifaddrs *a = all; a; a = a->ifa_next)
        printf("%s %x family %d\n", a->ifa_name, a->ifa_flags, a->ifa_addr ? a->ifa_addr->sa_family : -1);

    netlink();

    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(7531), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 sin6 = {.sin6_family = AF_INET6, .sin6_port = htons(7532)};
    int l = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    check("bind", bind(l, (void *)&sin, sizeof sin));
    listen(l, 4);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    check("connect", connect(c, (void *)&sin, sizeof sin));
    int l6 = socket(AF_INET6, SOCK_STREAM, 0);
    check("bind", bind(l6, (void *)&sin6, sizeof sin6));
    listen(l6, 4);
    check("udp", bind(s, (void *)&sin, sizeof sin));
    int s6 = socket(AF_INET6, SOCK_DGRAM, 0);
    check("udp", bind(s6, (void *)&sin6, sizeof sin6));
    show("/proc/net/tcp", "0100007F:1D6B 00000000:0000");
    show("/proc/net/tcp6", ":1D6C");
    show("/proc/net/udp", ":1D6B");
    show("/proc/net/udp6", ":1D6C");
    show("/proc/net/unix", "@nothing");
    show("/proc/net/route", NULL);
    show("/proc/net/if_inet6", NULL);
    show("/proc/self/net/raw", NULL);
    show("/proc/net/arp", NULL);
    show("/proc/net/netlink", NULL);
    show("/proc/net/packet", NULL);
    show("/proc/sys/net/core/somaxconn", NULL);
    show("/proc/sys/net/ipv4/ip_local_port_range", NULL);
    show("/proc/sys/net/ipv6/conf/lo/disable_ipv6", NULL);
    return 0;
}
