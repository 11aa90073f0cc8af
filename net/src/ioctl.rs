//! Requests about the loopback device that sockets take (netdevice(7)).
//!
//! Source: Linux 6.12 net/core/dev_ioctl.c; net/ipv4/devinet.c, `devinet_ioctl`.

use std::net::{IpAddr, Ipv4Addr};

use abi::Errno;
use abi::errno::{EADDRNOTAVAIL, EEXIST, EFAULT, EINVAL, ENODEV, ENOTTY, EOPNOTSUPP, EPERM};
use abi::socket::af;
use base::cred::cap;
use fs::file::IoctlMemory;

use crate::Namespace;
use crate::device::{INDEX, NAME, SCOPE_HOST, TYPE};

const GIFNAME: u32 = 0x8910;
const GIFCONF: u32 = 0x8912;
const GIFFLAGS: u32 = 0x8913;
const SIFFLAGS: u32 = 0x8914;
const GIFADDR: u32 = 0x8915;
const SIFADDR: u32 = 0x8916;
const GIFDSTADDR: u32 = 0x8917;
const GIFBRDADDR: u32 = 0x8919;
const GIFNETMASK: u32 = 0x891b;
const GIFMETRIC: u32 = 0x891d;
const GIFMTU: u32 = 0x8921;
const SIFMTU: u32 = 0x8922;
const GIFHWADDR: u32 = 0x8927;
const GIFINDEX: u32 = 0x8933;
const GIFTXQLEN: u32 = 0x8942;
const SIFTXQLEN: u32 = 0x8943;
const ETHTOOL: u32 = 0x8946;
const GIFMAP: u32 = 0x8970;
const DEVPRIVATE_FIRST: u32 = 0x89f0;
const DEVPRIVATE_LAST: u32 = 0x89ff;

/// Size of `struct ifreq`, and where its union begins.
const SIZE: usize = 40;
const VALUE: usize = 16;

struct Ifreq([u8; SIZE]);

impl Ifreq {
    fn name(&self) -> &[u8] {
        self.0[..VALUE].split(|&b| b == 0).next().unwrap_or(&[])
    }

    fn int(&self) -> i32 {
        i32::from_ne_bytes([self.0[16], self.0[17], self.0[18], self.0[19]])
    }

    fn set(&mut self, bytes: &[u8]) {
        self.0[VALUE..VALUE + bytes.len()].copy_from_slice(bytes);
    }

    fn set_address(&mut self, ip: Ipv4Addr) {
        self.set(&[&af::INET.to_ne_bytes()[..], &[0; 2], &ip.octets(), &[0; 8]].concat());
    }
}

/// The first IPv4 address.
fn own_v4(net: &Namespace) -> Option<crate::device::Assigned> {
    net.inet.device.settings().addresses.into_iter().find(|a| a.ip.is_ipv4())
}

/// Answers a request on a socket of `domain`.
///
/// # Errors
/// `ENOTTY`: no such request; `ENODEV`: no such device; `EPERM`; `EADDRNOTAVAIL`: it has no address.
pub fn ioctl(
    net: &Namespace,
    domain: u16,
    request: u32,
    arg: u64,
    memory: &mut dyn IoctlMemory,
) -> Result<u64, Errno> {
    let is_inet = domain == af::INET;
    match request {
        GIFCONF => return list(net, arg, memory),
        ETHTOOL => return ethtool(net, arg, memory),
        GIFADDR | SIFADDR | GIFDSTADDR | GIFBRDADDR | GIFNETMASK if !is_inet => return Err(ENOTTY),
        GIFNAME | GIFFLAGS | SIFFLAGS | GIFADDR | SIFADDR | GIFDSTADDR | GIFBRDADDR | GIFNETMASK
        | GIFMETRIC | GIFMTU | SIFMTU | GIFHWADDR | GIFINDEX | GIFTXQLEN | SIFTXQLEN | GIFMAP => {}
        // A driver's own requests: the loopback's has none.
        DEVPRIVATE_FIRST..=DEVPRIVATE_LAST => {}
        _ => return Err(ENOTTY),
    }
    let mut ifreq = Ifreq([0; SIZE]);
    memory.read(arg, &mut ifreq.0)?;
    if request == GIFNAME {
        if ifreq.int() != INDEX {
            return Err(ENODEV);
        }
        ifreq.0[..VALUE].fill(0);
        ifreq.0[..NAME.len()].copy_from_slice(NAME.as_bytes());
        memory.write(arg, &ifreq.0)?;
        return Ok(0);
    }
    let is_change = matches!(request, SIFFLAGS | SIFADDR | SIFMTU | SIFTXQLEN);
    if is_change && !memory.has_capability(cap::NET_ADMIN) {
        return Err(EPERM);
    }
    // An alias of the device ("lo:1") stands for the device.
    if ifreq.name().split(|&b| b == b':').next() != Some(NAME.as_bytes()) {
        return Err(ENODEV);
    }
    let device = &net.inet.device;
    let settings = device.settings();
    let given = ifreq.int();
    match request {
        GIFFLAGS => ifreq.set(&(settings.visible_flags() as u16).to_ne_bytes()),
        SIFFLAGS => device.set_flags(u32::from(given as u16)),
        GIFADDR | GIFDSTADDR => ifreq.set_address(v4(own_v4(net).ok_or(EADDRNOTAVAIL)?.ip)),
        GIFBRDADDR => {
            let own = own_v4(net).ok_or(EADDRNOTAVAIL)?;
            let broadcast = own.broadcast().filter(|_| own.scope != SCOPE_HOST);
            ifreq.set_address(broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED));
        }
        GIFNETMASK => ifreq.set_address(own_v4(net).ok_or(EADDRNOTAVAIL)?.netmask()),
        SIFADDR => set_address(net, &ifreq)?,
        GIFMETRIC => ifreq.set(&0i32.to_ne_bytes()),
        GIFMTU => ifreq.set(&settings.mtu.to_ne_bytes()),
        SIFMTU if given < 0 => return Err(EINVAL),
        SIFMTU => device.set_mtu(given.cast_unsigned()),
        GIFHWADDR => ifreq.set(&[&TYPE.to_ne_bytes()[..], &[0; 14]].concat()),
        GIFINDEX => ifreq.set(&INDEX.to_ne_bytes()),
        GIFTXQLEN => ifreq.set(&settings.queue_len.to_ne_bytes()),
        SIFTXQLEN if given < 0 => return Err(EINVAL),
        SIFTXQLEN => device.set_queue_len(given.cast_unsigned()),
        GIFMAP => ifreq.set(&[0; 24]),
        _ => return Err(EOPNOTSUPP),
    }
    if !is_change {
        memory.write(arg, &ifreq.0)?;
    }
    Ok(0)
}

/// `SIOCETHTOOL`: what programs that capture packets ask of a device.
///
/// Source: Linux 6.12 net/ethtool/ioctl.c, `dev_ethtool`.
fn ethtool(net: &Namespace, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
    const SETTINGS: u32 = 1;
    const DRIVER: u32 = 3;
    const LINK: u32 = 0xa;
    /// Checksums on both ways, scattered data, what is cut and put together late.
    const OFFLOADS: [u32; 6] = [0x14, 0x16, 0x18, 0x1e, 0x23, 0x2b];
    const FRAGMENTS: u32 = 0x21;
    const FLAGS: u32 = 0x25;
    const STAMPS: u32 = 0x41;
    /// `SOF_TIMESTAMPING_TX_SOFTWARE`, `RX_SOFTWARE`, `SOFTWARE`.
    const SOFTWARE: u32 = 0x1a;
    let mut ifreq = Ifreq([0; SIZE]);
    memory.read(arg, &mut ifreq.0)?;
    let data = ifreq.0[VALUE..].first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
    let mut command = [0; 4];
    memory.read(data, &mut command)?;
    if ifreq.name() != NAME.as_bytes() {
        return Err(ENODEV);
    }
    let answer: &[u32] = match u32::from_ne_bytes(command) {
        LINK => &[net.inet.device.settings().is_up().into()],
        FLAGS => &[0],
        // No clock of hardware; transmission and reception have no kinds to choose from.
        STAMPS => &[SOFTWARE, u32::MAX, 0, 0, 0, 0, 0, 0, 0, 0],
        n if OFFLOADS.contains(&n) => &[1],
        SETTINGS | DRIVER | FRAGMENTS => return Err(EOPNOTSUPP),
        _ if memory.has_capability(cap::NET_ADMIN) => return Err(EOPNOTSUPP),
        _ => return Err(EPERM),
    };
    let bytes: Vec<u8> = answer.iter().flat_map(|w| w.to_ne_bytes()).collect();
    memory.write(data.checked_add(4).ok_or(EFAULT)?, &bytes)?;
    Ok(0)
}

const fn v4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// `SIOCSIFADDR`: the first address, with the mask of its class.
fn set_address(net: &Namespace, ifreq: &Ifreq) -> Result<(), Errno> {
    if u16::from_ne_bytes([ifreq.0[16], ifreq.0[17]]) != af::INET {
        return Err(EINVAL);
    }
    let ip = Ipv4Addr::new(ifreq.0[20], ifreq.0[21], ifreq.0[22], ifreq.0[23]);
    let prefix = match ip.octets()[0] {
        0 | 224.. => return Err(EINVAL),
        1..128 => 8,
        128..192 => 16,
        192..224 => 24,
    };
    let device = &net.inet.device;
    if let Some(own) = own_v4(net) {
        if own.ip == IpAddr::V4(ip) {
            return Ok(());
        }
        device.remove_address(own.ip, Some(own.prefix))?;
    }
    match device.add_address(ip.into(), prefix, if ip.is_loopback() { SCOPE_HOST } else { 0 }) {
        Err(EEXIST) => Ok(()),
        other => other,
    }
}

/// `SIOCGIFCONF`: the IPv4 addresses of all devices.
fn list(net: &Namespace, arg: u64, memory: &mut dyn IoctlMemory) -> Result<u64, Errno> {
    let mut head = [0; 16];
    memory.read(arg, &mut head)?;
    let [len, at] = [&head[..4], &head[8..]];
    let room = i32::from_ne_bytes(len.try_into().map_err(|_| EINVAL)?);
    let at = u64::from_ne_bytes(at.try_into().map_err(|_| EINVAL)?);
    let room = usize::try_from(room).map_err(|_| EINVAL)?;
    let addresses = net.inet.device.settings().addresses;
    let addresses = addresses.iter().filter(|a| a.ip.is_ipv4());
    let mut out = Vec::new();
    for a in addresses {
        let mut ifreq = Ifreq([0; SIZE]);
        ifreq.0[..NAME.len()].copy_from_slice(NAME.as_bytes());
        ifreq.set_address(v4(a.ip));
        out.extend_from_slice(&ifreq.0);
    }
    if at != 0 {
        out.truncate(room / SIZE * SIZE);
        memory.write(at, &out)?;
    }
    memory.write(arg, &(out.len() as i32).to_ne_bytes())?;
    Ok(0)
}
