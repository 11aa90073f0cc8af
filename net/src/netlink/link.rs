//! The loopback device in `NETLINK_ROUTE`.
//!
//! Source: Linux 6.12 net/core/rtnetlink.c, `rtnl_fill_ifinfo`, `do_setlink`.

use abi::Errno;
use abi::errno::{EINVAL, ENODEV, EOPNOTSUPP};
use abi::socket::af;

use super::message::{self, Builder, Request, u32_at};
use super::route::{group, rtm};
use super::{Asker, tell};
use crate::Namespace;
use crate::device::{Device, INDEX, NAME, TYPE};

/// Attributes (`IFLA_*`).
mod ifla {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const BROADCAST: u16 = 2;
    pub(super) const IFNAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const QDISC: u16 = 6;
    pub(super) const STATS: u16 = 7;
    pub(super) const TXQLEN: u16 = 13;
    pub(super) const MAP: u16 = 14;
    pub(super) const OPERSTATE: u16 = 16;
    pub(super) const LINKMODE: u16 = 17;
    pub(super) const LINKINFO: u16 = 18;
    pub(super) const STATS64: u16 = 23;
    pub(super) const GROUP: u16 = 27;
    pub(super) const PROMISCUITY: u16 = 30;
    pub(super) const NUM_TX_QUEUES: u16 = 31;
    pub(super) const NUM_RX_QUEUES: u16 = 32;
    pub(super) const CARRIER: u16 = 33;
    pub(super) const CARRIER_CHANGES: u16 = 35;
    pub(super) const PROTO_DOWN: u16 = 39;
    pub(super) const MIN_MTU: u16 = 50;
    pub(super) const MAX_MTU: u16 = 51;
}

/// Size of `struct ifinfomsg`.
const FIXED: usize = 16;

/// Describes the device.
pub(super) fn message(mut out: Builder, net: &Namespace) -> Vec<u8> {
    let settings = net.inet.device.settings();
    let (packets, bytes) = net.inet.traffic();
    out.put(&[0, 0]).put(&TYPE.to_ne_bytes()).put(&INDEX.to_ne_bytes());
    out.put(&settings.visible_flags().to_ne_bytes()).put(&[0; 4]);
    out.attr(ifla::IFNAME, &[NAME.as_bytes(), &[0]].concat());
    out.attr32(ifla::TXQLEN, settings.queue_len);
    // Unknown while it is up, down otherwise.
    out.attr(ifla::OPERSTATE, &[if settings.is_up() { 0 } else { 2 }]);
    out.attr(ifla::LINKMODE, &[0]);
    out.attr32(ifla::MTU, settings.mtu).attr32(ifla::MIN_MTU, 0).attr32(ifla::MAX_MTU, 0);
    out.attr32(ifla::GROUP, 0);
    let is_promiscuous = settings.flags & crate::device::iff::PROMISC != 0;
    out.attr32(ifla::PROMISCUITY, is_promiscuous.into());
    out.attr32(ifla::NUM_TX_QUEUES, 1).attr32(ifla::NUM_RX_QUEUES, 1);
    out.attr(ifla::CARRIER, &[settings.is_up().into()]);
    out.attr32(ifla::CARRIER_CHANGES, 0).attr(ifla::PROTO_DOWN, &[0]);
    out.attr(ifla::ADDRESS, &[0; 6]).attr(ifla::BROADCAST, &[0; 6]);
    // rtnl_link_stats: packets and bytes in both directions, then what cannot go wrong here.
    let counts = [packets, packets, bytes, bytes];
    let mut long: Vec<u8> = counts.iter().flat_map(|n| n.to_ne_bytes()).collect();
    long.resize(25 * 8, 0);
    let mut short: Vec<u8> = counts.iter().flat_map(|n| (*n as u32).to_ne_bytes()).collect();
    short.resize(24 * 4, 0);
    out.attr(ifla::STATS64, &long).attr(ifla::STATS, &short);
    out.attr(ifla::QDISC, b"noqueue\0").attr(ifla::MAP, &[0; 32]);
    out.finish()
}

/// Describes the device as AF_INET6 sees it.
pub(super) fn message_v6(mut out: Builder, device: &Device) -> Vec<u8> {
    let settings = device.settings();
    out.put(&[af::INET6 as u8, 0]).put(&TYPE.to_ne_bytes()).put(&INDEX.to_ne_bytes());
    out.put(&settings.visible_flags().to_ne_bytes()).put(&[0; 4]);
    out.attr(ifla::IFNAME, &[NAME.as_bytes(), &[0]].concat()).attr(ifla::ADDRESS, &[0; 6]);
    out.attr32(ifla::MTU, settings.mtu);
    out.attr(ifla::OPERSTATE, &[if settings.is_up() { 0 } else { 2 }]);
    out.finish()
}

/// Finds the device that a request names.
///
/// # Errors
/// `EINVAL`: it names none; `ENODEV`: there is no such device.
pub(super) fn find(request: &Request<'_>) -> Result<(), Errno> {
    if request.body().len() < FIXED {
        return Err(EINVAL);
    }
    let index = u32_at(request.body(), 4).cast_signed();
    let attributes = request.attributes(FIXED);
    let name = message::find(&attributes, ifla::IFNAME);
    match (index, name) {
        (INDEX, _) => Ok(()),
        (1.., _) => Err(ENODEV),
        (_, Some(name)) if name.split(|&b| b == 0).next() == Some(NAME.as_bytes()) => Ok(()),
        (_, Some(_)) => Err(ENODEV),
        (..0, None) | (0, None) => Err(EINVAL),
    }
}

/// `RTM_GETLINK` of one device.
pub(super) fn get(asker: &Asker<'_>, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
    find(request)?;
    Ok(message(Builder::new(rtm::NEWLINK, 0, request.seq, asker.port), asker.net))
}

/// `RTM_SETLINK`, and `RTM_NEWLINK` of a device that exists.
pub(super) fn set(asker: &Asker<'_>, request: &Request<'_>) -> Result<(), Errno> {
    let attributes = request.attributes(FIXED);
    if let Err(e) = find(request) {
        // Making one of some kind.
        let makes = request.kind == rtm::NEWLINK && message::find(&attributes, ifla::LINKINFO).is_some();
        let is_new = request.kind == rtm::NEWLINK && e == EINVAL;
        return Err(if makes {
            EOPNOTSUPP
        } else if is_new {
            ENODEV
        } else {
            e
        });
    }
    let device = &asker.net.inet.device;
    let (flags, change) = (u32_at(request.body(), 8), u32_at(request.body(), 12));
    let word = |name| message::find(&attributes, name).filter(|d| d.len() >= 4).map(|d| u32_at(d, 0));
    if let Some(mtu) = word(ifla::MTU) {
        device.set_mtu(i32::try_from(mtu).map_err(|_| EINVAL)?.cast_unsigned());
    }
    if let Some(len) = word(ifla::TXQLEN) {
        device.set_queue_len(len);
    }
    if flags != 0 || change != 0 {
        let old = device.settings().flags;
        let new = if change == 0 { flags } else { flags & change | old & !change };
        device.set_flags(new);
    }
    let told = message(Builder::new(rtm::NEWLINK, 0, 0, 0), asker.net);
    tell(asker.net, group::LINK, &told);
    Ok(())
}
