//! The filters of socket diagnosis: a little program that says which sockets are meant.
//!
//! Source: Linux 6.12 net/ipv4/inet_diag.c, `inet_diag_bc_audit`, `inet_diag_bc_run`, `inet_diag_hostcond`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::Errno;
use abi::errno::EINVAL;
use abi::socket::af;

use super::message::{u8_at, u16_at, u32_at};
use crate::device::INDEX;
use crate::report::InetReport;

/// Codes (`INET_DIAG_BC_*`).
mod code {
    pub(super) const NOP: u8 = 0;
    pub(super) const JMP: u8 = 1;
    pub(super) const S_GE: u8 = 2;
    pub(super) const S_LE: u8 = 3;
    pub(super) const D_GE: u8 = 4;
    pub(super) const D_LE: u8 = 5;
    pub(super) const AUTO: u8 = 6;
    pub(super) const S_COND: u8 = 7;
    pub(super) const D_COND: u8 = 8;
    pub(super) const DEV_COND: u8 = 9;
    pub(super) const MARK_COND: u8 = 10;
    pub(super) const S_EQ: u8 = 11;
    pub(super) const D_EQ: u8 = 12;
}

/// Size of an operation.
const OP: usize = 4;

/// A filter that was checked: every jump goes forward and stays inside.
#[derive(Debug)]
pub(super) struct Filter(Vec<u8>);

impl Filter {
    /// Checks a program.
    ///
    /// # Errors
    /// `EINVAL`.
    pub(super) fn new(program: &[u8]) -> Result<Self, Errno> {
        let mut at = 0;
        while at < program.len() {
            let (op, yes, no) = parts(program, at);
            let needed = match op {
                code::NOP | code::JMP | code::AUTO => OP,
                code::S_GE | code::S_LE | code::D_GE | code::D_LE | code::S_EQ | code::D_EQ => 2 * OP,
                code::DEV_COND => 2 * OP,
                code::MARK_COND => OP + 8,
                code::S_COND | code::D_COND => OP + condition_size(program, at + OP)?,
                _ => return Err(EINVAL),
            };
            let left = program.len() - at;
            // A jump may end the program just behind its end, or say no by going four bytes further.
            let is_bad_yes = yes < needed || !yes.is_multiple_of(4) || yes > left;
            let is_bad_no = op != code::NOP && (no < OP || !no.is_multiple_of(4) || no > left + OP);
            if needed > left || is_bad_yes || is_bad_no {
                return Err(EINVAL);
            }
            at += yes;
        }
        Ok(Self(program.to_vec()))
    }

    /// Whether the socket is meant.
    pub(super) fn accepts(&self, socket: &InetReport) -> bool {
        let program = &self.0[..];
        let mut at = 0;
        while at < program.len() {
            let (op, yes, no) = parts(program, at);
            let port = usize::from(u16_at(program, at + OP + 2));
            let (source, destination) = (usize::from(socket.local.port()), usize::from(socket.remote.port()));
            let is_met = match op {
                code::NOP => true,
                code::JMP => false,
                code::S_GE => source >= port,
                code::S_LE => source <= port,
                code::S_EQ => source == port,
                code::D_GE => destination >= port,
                code::D_LE => destination <= port,
                code::D_EQ => destination == port,
                // The program bound its port itself: nothing remembers, so every port counts as chosen.
                code::AUTO => false,
                code::S_COND => meets(program, at + OP, socket, socket.local),
                code::D_COND => meets(program, at + OP, socket, socket.remote),
                code::DEV_COND => u32_at(program, at + OP) == INDEX as u32,
                code::MARK_COND => {
                    let (mark, mask) = (u32_at(program, at + OP), u32_at(program, at + OP + 4));
                    socket.mark & mask == mark & mask
                }
                _ => false,
            };
            at += if is_met { yes.max(OP) } else { no.max(OP) };
        }
        at == program.len()
    }
}

fn parts(program: &[u8], at: usize) -> (u8, usize, usize) {
    (u8_at(program, at), usize::from(u8_at(program, at + 1)), usize::from(u16_at(program, at + 2)))
}

fn condition_size(program: &[u8], at: usize) -> Result<usize, Errno> {
    let (family, prefix) = (u16::from(u8_at(program, at)), usize::from(u8_at(program, at + 1)));
    let bytes = match family {
        0 => 0,
        af::INET => 4,
        af::INET6 => 16,
        _ => return Err(EINVAL),
    };
    if prefix > bytes * 8 {
        return Err(EINVAL);
    }
    Ok(8 + bytes)
}

fn meets(program: &[u8], at: usize, socket: &InetReport, own: std::net::SocketAddr) -> bool {
    let (family, prefix) = (u16::from(u8_at(program, at)), u32::from(u8_at(program, at + 1)));
    let port = u32_at(program, at + 4).cast_signed();
    if port != -1 && port != i32::from(own.port()) {
        return false;
    }
    if family != 0 && family != socket.domain && !(family == af::INET && own.is_ipv4()) {
        return false;
    }
    let bytes = program.get(at + 8..).unwrap_or(&[]);
    let (wanted, actual, width) = match (family, own.ip()) {
        (af::INET, IpAddr::V4(ip)) => {
            let wanted = bytes.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b));
            (u128::from(wanted), u128::from(ip.to_bits()), 32)
        }
        (af::INET6, ip) => {
            let ip = match ip {
                IpAddr::V4(ip) if ip == Ipv4Addr::UNSPECIFIED => Ipv6Addr::UNSPECIFIED,
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            (bytes.first_chunk::<16>().map_or(0, |b| u128::from_be_bytes(*b)), ip.to_bits(), 128)
        }
        (0, _) => return true,
        _ => return false,
    };
    prefix == 0 || (wanted ^ actual) >> (width - prefix) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16) -> InetReport {
        InetReport::new(af::INET, 6, ([127, 0, 0, 1], port).into(), None)
    }

    #[test]
    fn ports_are_compared() {
        // sport >= 80 && sport <= 90
        let program = [code::S_GE, 8, 20, 0, 0, 0, 80, 0, code::S_LE, 8, 12, 0, 0, 0, 90, 0];
        let filter = Filter::new(&program).unwrap();
        assert!(filter.accepts(&socket(85)));
        assert!(!filter.accepts(&socket(79)));
        assert!(!filter.accepts(&socket(91)));
    }

    #[test]
    fn hosts_are_compared() {
        let program = [code::S_COND, 16, 20, 0, 2, 8, 0, 0, 255, 255, 255, 255, 127, 0, 0, 0];
        let filter = Filter::new(&program).unwrap();
        assert!(filter.accepts(&socket(85)));
        let program = [code::D_COND, 16, 20, 0, 2, 8, 0, 0, 255, 255, 255, 255, 127, 0, 0, 0];
        assert!(!Filter::new(&program).unwrap().accepts(&socket(85)));
    }

    #[test]
    fn bad_programs_are_refused() {
        for program in
            [&[code::S_GE, 4, 4, 0][..], &[99, 4, 4, 0], &[code::NOP, 0, 4, 0], &[code::NOP, 8, 4, 0], &[0]]
        {
            assert!(Filter::new(program).is_err(), "{program:?}");
        }
    }
}
