//! The loopback device, the only one that a sandbox's network has: its state, its addresses, what went through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use abi::errno::{EADDRNOTAVAIL, EEXIST, EINVAL, ENOBUFS};
use base::lock::{Lock, rank};
use host::clock::HostClock;

/// The device's number.
pub const INDEX: i32 = 1;
/// The device's name.
pub const NAME: &str = "lo";
/// `ARPHRD_LOOPBACK`.
pub const TYPE: u16 = 772;
/// Most addresses that the device can be given.
const ADDRESSES_MAX: usize = 1024;

/// Flags of netdevice(7).
#[expect(missing_docs, reason = "netdevice(7) explains each")]
pub mod iff {
    pub const UP: u32 = 0x1;
    pub const LOOPBACK: u32 = 0x8;
    pub const RUNNING: u32 = 0x40;
    pub const NOARP: u32 = 0x80;
    pub const PROMISC: u32 = 0x100;
    pub const ALLMULTI: u32 = 0x200;
    pub const LOWER_UP: u32 = 0x1_0000;
}

/// One of the device's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// Came with the device.
    pub is_kernels: bool,
    /// When it was given: hundredths of a second since the host started.
    pub since: u32,
}

impl Assigned {
    /// Whether `ip` is one of those that the address makes local: on the loopback all of its network.
    pub fn covers(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (own.to_bits() ^ ip.to_bits()) & mask(self.prefix) == 0,
            (own, ip) => own == ip,
        }
    }

    /// The mask of an IPv4 address's network.
    pub fn netmask(&self) -> Ipv4Addr {
        mask(self.prefix).into()
    }

    /// The highest address of an IPv4 network.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V4(ip) if self.prefix < 31 => Some((ip.to_bits() | !mask(self.prefix)).into()),
            _ => None,
        }
    }

    /// The lowest address of an IPv4 network.
    pub fn network(&self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V4(ip) => Some((ip.to_bits() & mask(self.prefix)).into()),
            IpAddr::V6(_) => None,
        }
    }
}

const fn mask(prefix: u8) -> u32 {
    match prefix {
        0 => 0,
        n if n >= 32 => u32::MAX,
        n => u32::MAX << (32 - n),
    }
}

/// What can be set of the device.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `IFF_UP`, `IFF_PROMISC`, `IFF_ALLMULTI`, `IFF_NOARP`.
    pub flags: u32,
    /// The longest packet.
    pub mtu: u32,
    /// `txqueuelen`.
    pub queue_len: u32,
    /// All addresses, in the order in which they came.
    pub addresses: Vec<Assigned>,
}

impl Settings {
    /// The flags as programs see them.
    pub fn visible_flags(&self) -> u32 {
        let up = if self.flags & iff::UP != 0 { iff::RUNNING | iff::LOWER_UP } else { 0 };
        self.flags | iff::LOOPBACK | up
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.flags & iff::UP != 0
    }
}

/// The loopback device of a namespace.
#[derive(Debug)]
pub struct Device {
    settings: Lock<Settings, { rank::LEAF }>,
    /// It is up and has the addresses that it comes with: no need to look.
    is_plain: AtomicBool,
    /// Packets of other protocols than IP, each of which arrived.
    packets: AtomicU64,
    /// Bytes in them.
    bytes: AtomicU64,
}

impl Device {
    /// The device of a new namespace: down and without addresses.
    pub(crate) fn new() -> Self {
        let settings = Settings { flags: 0, mtu: 65_536, queue_len: 1000, addresses: Vec::new() };
        Self {
            settings: Lock::new(settings),
            is_plain: AtomicBool::new(false),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// A copy of what is set.
    pub fn settings(&self) -> Settings {
        self.settings.lock().clone()
    }

    fn change<R>(&self, change: impl FnOnce(&mut Settings) -> R) -> R {
        let mut settings = self.settings.lock();
        let result = change(&mut settings);
        let own: [(IpAddr, u8); 2] = [(Ipv4Addr::LOCALHOST.into(), 8), (Ipv6Addr::LOCALHOST.into(), 128)];
        let has_own = settings.addresses.iter().map(|a| (a.ip, a.prefix)).eq(own);
        self.is_plain.store(settings.is_up() && has_own, Ordering::Relaxed);
        result
    }

    /// Sets flags; going up gives the addresses that the device comes with.
    pub fn set_flags(&self, flags: u32) {
        const SETTABLE: u32 = iff::UP | iff::NOARP | iff::PROMISC | iff::ALLMULTI;
        self.change(|settings| {
            let was_up = settings.is_up();
            settings.flags = flags & SETTABLE;
            if was_up || !settings.is_up() {
                return;
            }
            let own: [(IpAddr, u8); 2] = [(Ipv4Addr::LOCALHOST.into(), 8), (Ipv6Addr::LOCALHOST.into(), 128)];
            for (ip, prefix) in own {
                if !settings.addresses.iter().any(|a| a.ip == ip) {
                    settings.addresses.push(assigned(ip, prefix, SCOPE_HOST, true));
                }
            }
        });
    }

    /// Gives or takes what it has of IPv6.
    pub(crate) fn set_ipv6(&self, is_on: bool) {
        self.change(|settings| {
            let own = IpAddr::V6(Ipv6Addr::LOCALHOST);
            if !is_on {
                settings.addresses.retain(|a| a.ip.is_ipv4());
            } else if settings.is_up() && !settings.addresses.iter().any(|a| a.ip == own) {
                settings.addresses.push(assigned(own, 128, SCOPE_HOST, true));
            }
        });
    }

    /// Sets the longest packet.
    pub fn set_mtu(&self, mtu: u32) {
        self.change(|settings| settings.mtu = mtu);
    }

    /// Sets `txqueuelen`.
    pub fn set_queue_len(&self, len: u32) {
        self.change(|settings| settings.queue_len = len);
    }

    /// Gives the device an address.
    ///
    /// # Errors
    /// `EEXIST`: it has that; `EINVAL`: the prefix is too long; `ENOBUFS`: it has very many.
    pub fn add_address(&self, ip: IpAddr, prefix: u8, scope: u8) -> Result<(), Errno> {
        if prefix > if ip.is_ipv4() { 32 } else { 128 } {
            return Err(EINVAL);
        }
        self.change(|settings| {
            let same = |a: &Assigned| a.ip == ip && (ip.is_ipv6() || a.prefix == prefix);
            if settings.addresses.iter().any(same) {
                return Err(EEXIST);
            }
            if settings.addresses.len() >= ADDRESSES_MAX {
                return Err(ENOBUFS);
            }
            settings.addresses.push(assigned(ip, prefix, scope, false));
            // IPv4 first, as dumps list them.
            settings.addresses.sort_by_key(|a| a.ip.is_ipv6());
            Ok(())
        })
    }

    /// Takes an address away; without a prefix whatever it is.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`.
    pub fn remove_address(&self, ip: IpAddr, prefix: Option<u8>) -> Result<(), Errno> {
        self.change(|settings| {
            let same = |a: &Assigned| a.ip == ip && prefix.is_none_or(|p| p == a.prefix);
            let at = settings.addresses.iter().position(same).ok_or(EADDRNOTAVAIL)?;
            settings.addresses.remove(at);
            Ok(())
        })
    }

    /// The source address of what is sent to `ip`, when that is one of ours.
    pub fn source_for(&self, ip: IpAddr) -> Option<IpAddr> {
        if self.is_plain.load(Ordering::Relaxed) {
            return match ip {
                IpAddr::V4(ip) => ip.is_loopback().then_some(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) => ip.is_loopback().then_some(ip.into()),
            };
        }
        // Local routes outlive that the device goes down.
        let settings = self.settings.lock();
        let covering = settings.addresses.iter().filter(|a| a.covers(ip));
        covering.max_by_key(|a| if a.ip == ip { u8::MAX } else { a.prefix }).map(|a| a.ip)
    }

    /// Whether `ip` is one of ours.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        self.source_for(ip).is_some()
    }

    /// Counts a packet that is none of IP's, of `len` bytes.
    pub(crate) fn count(&self, len: u64) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len, Ordering::Relaxed);
    }

    /// Packets and bytes that were none of IP's.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// `RT_SCOPE_HOST`.
pub const SCOPE_HOST: u8 = 254;

fn assigned(ip: IpAddr, prefix: u8, scope: u8, is_kernels: bool) -> Assigned {
    let ns = host::clock::now_ns(HostClock::Boottime);
    Assigned { ip, prefix, scope, is_kernels, since: (ns / 10_000_000) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_decide_what_is_local() {
        let device = Device::new();
        let v4 = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(device.source_for(v4("127.0.0.1")), None);
        device.set_flags(iff::UP);
        assert_eq!(device.source_for(v4("127.3.2.1")), Some(v4("127.0.0.1")));
        assert_eq!(device.source_for(v4("::1")), Some(v4("::1")));
        assert_eq!(device.source_for(v4("10.1.2.3")), None);
        assert_eq!(device.add_address(v4("10.1.2.3"), 24, 0), Ok(()));
        assert_eq!(device.add_address(v4("10.1.2.3"), 24, 0), Err(EEXIST));
        assert_eq!(device.source_for(v4("10.1.2.77")), Some(v4("10.1.2.3")));
        assert_eq!(device.source_for(v4("127.0.0.9")), Some(v4("127.0.0.1")));
        assert_eq!(device.remove_address(v4("10.1.2.3"), Some(8)), Err(EADDRNOTAVAIL));
        assert_eq!(device.remove_address(v4("10.1.2.3"), None), Ok(()));
        assert!(device.is_plain.load(Ordering::Relaxed));
    }
}
