//! `/proc/sys/net`: values with an effect, with Linux's defaults (ip(7), tcp(7), socket(7)).

use std::sync::atomic::{AtomicI64, Ordering};

use abi::Errno;
use abi::errno::EINVAL;

use crate::Namespace;

/// A number that programs read and root sets.
#[derive(Debug)]
pub struct Value(AtomicI64);

impl Value {
    /// With a default.
    pub const fn new(value: i64) -> Self {
        Self(AtomicI64::new(value))
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// As a size or count; 0 where it is negative.
    pub fn size(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(0)
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.get() != 0
    }

    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

macro_rules! sysctl {
    ($($(#[doc = $doc:literal])* $field:ident: $path:literal = [$($default:expr),+] in $range:expr,)*) => {
        /// The values of a namespace.
        #[derive(Debug)]
        pub struct Sysctl {
            $($(#[doc = $doc])* pub $field: [Value; [$($default),+].len()],)*
        }

        impl Default for Sysctl {
            fn default() -> Self {
                Self { $($field: [$(Value::new($default)),+],)* }
            }
        }

        /// The files, by path below `/proc/sys`.
        pub const FILES: &[File] = &[
            $(File { path: $path, values: |net| &net.sysctl.$field, first: *$range.start(), last: *$range.end() },)*
        ];
    };
}

/// A file below `/proc/sys`.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Where.
    pub path: &'static str,
    values: fn(&Namespace) -> &[Value],
    first: i64,
    last: i64,
}

const BYTES: i64 = i32::MAX as i64;

sysctl! {
    /// Most connections that wait to be accepted.
    somaxconn: "net/core/somaxconn" = [4096] in 0..=BYTES,
    /// `SO_RCVBUF` of a new socket.
    rmem_default: "net/core/rmem_default" = [212_992] in 2304..=BYTES,
    /// The largest `SO_RCVBUF`.
    rmem_max: "net/core/rmem_max" = [4 << 20] in 2304..=BYTES,
    /// `SO_SNDBUF` of a new socket.
    wmem_default: "net/core/wmem_default" = [212_992] in 4608..=BYTES,
    /// The largest `SO_SNDBUF`.
    wmem_max: "net/core/wmem_max" = [4 << 20] in 4608..=BYTES,
    /// Bytes of control messages in one send.
    optmem_max: "net/core/optmem_max" = [128 << 10] in 0..=BYTES,
    /// Datagrams that wait in an AF_UNIX socket.
    max_dgram_qlen: "net/unix/max_dgram_qlen" = [10] in 0..=BYTES,
    /// Least, default and most of a TCP socket's receive buffer.
    tcp_rmem: "net/ipv4/tcp_rmem" = [4096, 131_072, 33_554_432] in 1..=BYTES,
    /// Least, default and most of its send buffer.
    tcp_wmem: "net/ipv4/tcp_wmem" = [4096, 16_384, 4_194_304] in 1..=BYTES,
    /// First and last port that is picked.
    port_range: "net/ipv4/ip_local_port_range" = [32_768, 60_999] in 1..=65_535,
    /// The first port that everybody may bind.
    unprivileged_port: "net/ipv4/ip_unprivileged_port_start" = [1024] in 0..=65_535,
    /// Groups that may use ICMP echo sockets; first after last is none.
    ping_group_range: "net/ipv4/ping_group_range" = [1, 0] in 0..=4_294_967_294,
    /// `IP_TTL` of a new socket.
    default_ttl: "net/ipv4/ip_default_ttl" = [64] in 1..=255,
    /// Echo requests are not answered.
    echo_ignore_all: "net/ipv4/icmp_echo_ignore_all" = [0] in 0..=255,
    /// Packets for others are passed on; from one device there is no way to another.
    ip_forward: "net/ipv4/ip_forward" = [0] in -BYTES - 1..=BYTES,
    /// Connections that linger, at most.
    tw_buckets: "net/ipv4/tcp_max_tw_buckets" = [65_536] in 0..=BYTES,
    /// Whether the addresses of a connection that lingers may be had again after a second: never, always, on the loopback.
    tw_reuse: "net/ipv4/tcp_tw_reuse" = [2] in 0..=2,
    /// Packets from own addresses are taken on the loopback device.
    accept_local: "net/ipv4/conf/lo/accept_local" = [0] in -BYTES - 1..=BYTES,
    /// Packets from and to 127.0.0.0/8 that come from a device are taken on the loopback device.
    route_localnet: "net/ipv4/conf/lo/route_localnet" = [0] in -BYTES - 1..=BYTES,
    /// Packets from own addresses are taken on any device.
    accept_local_all: "net/ipv4/conf/all/accept_local" = [0] in -BYTES - 1..=BYTES,
    /// Packets from and to 127.0.0.0/8 that come from a device are taken on any device.
    route_localnet_all: "net/ipv4/conf/all/route_localnet" = [0] in -BYTES - 1..=BYTES,
    /// Packets from own addresses are taken on devices to come.
    accept_local_default: "net/ipv4/conf/default/accept_local" = [0] in -BYTES - 1..=BYTES,
    /// Packets from and to 127.0.0.0/8 that come from a device are taken on devices to come.
    route_localnet_default: "net/ipv4/conf/default/route_localnet" = [0] in -BYTES - 1..=BYTES,
    /// Addresses that are not ours can be bound.
    nonlocal_bind: "net/ipv4/ip_nonlocal_bind" = [0] in 0..=BYTES,
    /// `TCP_KEEPIDLE` of a new socket, s.
    keepalive_time: "net/ipv4/tcp_keepalive_time" = [7200] in 0..=BYTES,
    /// `TCP_KEEPINTVL`, s.
    keepalive_interval: "net/ipv4/tcp_keepalive_intvl" = [75] in 0..=BYTES,
    /// `TCP_KEEPCNT`.
    keepalive_probes: "net/ipv4/tcp_keepalive_probes" = [9] in 0..=255,
    /// `TCP_LINGER2`, s.
    fin_timeout: "net/ipv4/tcp_fin_timeout" = [60] in 0..=BYTES,
    /// `TCP_SYNCNT`.
    syn_retries: "net/ipv4/tcp_syn_retries" = [6] in 1..=127,
    /// `IPV6_V6ONLY` of a new socket.
    bindv6only: "net/ipv6/bindv6only" = [0] in 0..=1,
    /// No IPv6 on the loopback device.
    disable_ipv6: "net/ipv6/conf/lo/disable_ipv6" = [0] in 0..=BYTES,
    /// No IPv6 on any device.
    disable_ipv6_all: "net/ipv6/conf/all/disable_ipv6" = [0] in 0..=BYTES,
    /// No IPv6 on devices to come.
    disable_ipv6_default: "net/ipv6/conf/default/disable_ipv6" = [0] in 0..=BYTES,
}

impl File {
    /// The text.
    pub fn read(&self, net: &Namespace) -> String {
        let values: Vec<String> = (self.values)(net).iter().map(|v| v.get().to_string()).collect();
        values.join("\t") + "\n"
    }

    /// Takes numbers with blanks between them; those that are not given stay.
    ///
    /// # Errors
    /// `EINVAL`: no number, or one out of range.
    ///
    /// Source: Linux 6.12 kernel/sysctl.c, `do_proc_dointvec`; net/ipv4/sysctl_net_ipv4.c, `ipv4_local_port_range`.
    pub fn write(&self, net: &Namespace, bytes: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(bytes).map_err(|_| EINVAL)?;
        let numbers: Result<Vec<i64>, _> = text
            .split(|c: char| c.is_ascii_whitespace() || c == '\0')
            .filter(|word| !word.is_empty())
            .map(str::parse)
            .collect();
        let numbers = numbers.map_err(|_| EINVAL)?;
        let values = (self.values)(net);
        let numbers = &numbers[..numbers.len().min(values.len())];
        if numbers.is_empty() || numbers.iter().any(|n| !(self.first..=self.last).contains(n)) {
            return Err(EINVAL);
        }
        if self.path.ends_with("port_range") && numbers.len() == 2 && numbers[1] < numbers[0] {
            return Err(EINVAL);
        }
        for (value, number) in values.iter().zip(numbers) {
            value.set(*number);
        }
        if self.path.ends_with("all/disable_ipv6") {
            net.sysctl.disable_ipv6[0].set(numbers[0]);
            net.sysctl.disable_ipv6_default[0].set(numbers[0]);
        }
        if self.path.ends_with("disable_ipv6") {
            net.inet.device.set_ipv6(!net.sysctl.disable_ipv6[0].is_on());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked() {
        let net = Namespace::new();
        let file = |path: &str| *FILES.iter().find(|f| f.path.ends_with(path)).unwrap();
        let range = file("ip_local_port_range");
        assert_eq!(range.read(&net), "32768\t60999\n");
        assert_eq!(range.write(&net, b"1000 2000\n"), Ok(()));
        assert_eq!(range.read(&net), "1000\t2000\n");
        for bad in ["", "x", "5 4", "0 9", "9 70000", "1 2x"] {
            assert_eq!(range.write(&net, bad.as_bytes()), Err(EINVAL), "{bad}");
        }
        assert_eq!(file("all/disable_ipv6").write(&net, b"1"), Ok(()));
        assert!(!net.inet.device.is_local("::1".parse().unwrap()));
        assert_eq!(file("lo/disable_ipv6").write(&net, b"0\n"), Ok(()));
        assert!(net.inet.device.is_local("::1".parse().unwrap()));
    }
}
