//! `io_uring_register(2)`.
//!
//! Source: Linux 6.12 io_uring/register.c, rsrc.c, kbuf.c, cancel.c.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{
    EACCES, EBADF, EBADFD, EBUSY, EEXIST, EFAULT, EINTR, EINVAL, EMFILE, ENOENT, ENXIO, EOVERFLOW, ETIME,
};
use abi::io_uring::{Sqe, op, register, setup};
use abi::{Errno, UserAddr};
use base::wait::Events;
use fs::file::FileDescription;

use super::control::{Target, cancel_matching};
use super::prep::{self, CANCEL_ALL, CANCEL_ANY, CANCEL_FD, CANCEL_FD_FIXED, CANCEL_OP, CANCEL_USERDATA};
use super::ring::Ring;
use super::tables::{BufferSlot, FileSlot, Group};
use super::{Owner, find_ring, no_ring, ring_of};
use crate::syscall::{Restart, Stop, SysResult};
use crate::task::Ctx;
use crate::task::block::Registration;

/// Most registered files, and most registered buffers (`IORING_MAX_FIXED_FILES`, `IORING_MAX_REG_BUFFERS`).
const MAX_FILES: u32 = 1 << 20;
const MAX_BUFFERS: u32 = 1 << 14;
/// Files that a ring of ours takes: each place costs memory.
const MOST_FILES: u32 = 1 << 16;
/// Longest registered buffer.
const MAX_BUFFER: u64 = 1 << 30;
/// `IORING_REGISTER_FILES_SKIP`.
const SKIP: i32 = -2;
/// `IORING_RSRC_REGISTER_SPARSE`.
const SPARSE: u32 = 1;
/// Rings that a task may register (`IO_RINGFD_REG_MAX`).
const MAX_RINGS: usize = 16;

/// Rings that threads of a process have registered: the thread, the number, the ring.
#[derive(Default)]
pub(super) struct RegisteredRings {
    list: Vec<(i32, u32, Arc<FileDescription>)>,
}

/// The ring that the calling thread registered as `index`.
///
/// # Errors
/// `EINVAL`: no such number; `EBADF`: nothing is there.
pub(super) fn registered_ring(cx: &Ctx<'_>, index: u32) -> Result<Arc<FileDescription>, Errno> {
    if index as usize >= MAX_RINGS {
        return Err(EINVAL);
    }
    let owner = Owner::of(cx);
    let rings = owner.registered().lock();
    let found = rings.list.iter().find(|(tid, i, _)| *tid == cx.task.tid && *i == index);
    found.map(|(_, _, file)| file.clone()).ok_or(EBADF)
}

impl RegisteredRings {
    /// Takes out those of thread `tid`, or all.
    pub(super) fn take(&mut self, tid: Option<i32>) -> Vec<(i32, u32, Arc<FileDescription>)> {
        let all = std::mem::take(&mut self.list);
        let (gone, kept) = all.into_iter().partition(|(t, _, _)| tid.is_none_or(|tid| *t == tid));
        self.list = kept;
        gone
    }
}

/// `io_uring_register(2)`.
pub(in crate::syscall) fn sys_io_uring_register(
    cx: &mut Ctx<'_>,
    fd: u32,
    opcode: u32,
    arg: UserAddr,
    count: u32,
) -> SysResult {
    let is_registered = opcode & register::USE_REGISTERED_RING != 0;
    let opcode = opcode & !register::USE_REGISTERED_RING;
    if opcode >= register::LAST {
        return Err(EINVAL.into());
    }
    // Linux 6.13: operations without a ring, of which there are none here.
    if fd == u32::MAX {
        return Err(EINVAL.into());
    }
    let file = find_ring(cx, fd, is_registered)?;
    let ring = ring_of(&file).ok_or(EBADFD)?.clone();
    if ring.has(setup::SINGLE_ISSUER) {
        let issuer = ring.issuer.load(Ordering::SeqCst);
        if issuer != 0 && issuer != cx.task.tid {
            return Err(EEXIST.into());
        }
    }
    let rules = ring.tables.lock().restrictions;
    if rules.are_set && !ring.is_disabled.load(Ordering::SeqCst) && rules.register >> opcode & 1 == 0 {
        return Err(EACCES.into());
    }
    perform(cx, &ring, opcode, arg, count)
}

/// A call that takes no argument at all.
fn nothing(arg: UserAddr, count: u32) -> Result<(), Errno> {
    if arg.is_null() && count == 0 { Ok(()) } else { Err(EINVAL) }
}

/// A call that takes so many structures.
fn exactly(arg: UserAddr, count: u32, wanted: u32) -> Result<(), Errno> {
    if !arg.is_null() && count == wanted { Ok(()) } else { Err(EINVAL) }
}

fn perform(cx: &mut Ctx<'_>, ring: &Arc<Ring>, opcode: u32, arg: UserAddr, count: u32) -> SysResult {
    match opcode {
        register::BUFFERS => {
            if arg.is_null() {
                return Err(EFAULT.into());
            }
            register_buffers(cx, ring, arg, count, UserAddr::NULL)?;
        }
        register::UNREGISTER_BUFFERS => {
            nothing(arg, count)?;
            unregister_buffers(ring)?;
        }
        register::FILES => {
            if arg.is_null() {
                return Err(EFAULT.into());
            }
            register_files(cx, ring, arg, count, UserAddr::NULL, false)?;
        }
        register::UNREGISTER_FILES => {
            nothing(arg, count)?;
            unregister_files(ring)?;
        }
        register::FILES_UPDATE => {
            let [offset, resv, fds_low, fds_high]: [u32; 4] = match arg.is_null() || count == 0 {
                true => return Err(EINVAL.into()),
                false => cx.mm.read_value(arg)?,
            };
            if resv != 0 {
                return Err(EINVAL.into());
            }
            let fds = UserAddr(u64::from(fds_low) | u64::from(fds_high) << 32);
            return Ok(update_files(cx, ring, offset, fds, UserAddr::NULL, count)?);
        }
        register::EVENTFD | register::EVENTFD_ASYNC => {
            if count != 1 {
                return Err(EINVAL.into());
            }
            register_eventfd(cx, ring, arg, opcode == register::EVENTFD_ASYNC)?;
        }
        register::UNREGISTER_EVENTFD => {
            nothing(arg, count)?;
            let old = ring.tables.lock().eventfd.take();
            ring.has_eventfd.store(false, Ordering::SeqCst);
            old.ok_or(ENXIO)?;
        }
        register::PROBE => {
            if arg.is_null() || count > 256 {
                return Err(EINVAL.into());
            }
            probe(cx, arg, count)?;
        }
        register::PERSONALITY => {
            nothing(arg, count)?;
            return Ok(register_personality(cx, ring)?.into());
        }
        register::UNREGISTER_PERSONALITY => {
            if !arg.is_null() {
                return Err(EINVAL.into());
            }
            let id = u16::try_from(count).map_err(|_| EINVAL)?;
            let old = ring.tables.lock().personalities.remove(&id);
            old.ok_or(EINVAL)?;
        }
        register::ENABLE_RINGS => {
            nothing(arg, count)?;
            if !ring.is_disabled.load(Ordering::SeqCst) {
                return Err(EBADFD.into());
            }
            if ring.has(setup::SINGLE_ISSUER) {
                ring.issuer.store(cx.task.tid, Ordering::SeqCst);
            }
            ring.is_disabled.store(false, Ordering::SeqCst);
            let poller = ring.poller.lock().clone();
            if let Some(poller) = poller {
                poller.wake();
            }
        }
        register::RESTRICTIONS => register_restrictions(cx, ring, arg, count)?,
        register::FILES2 | register::BUFFERS2 => register_tagged(cx, ring, opcode, arg, count)?,
        register::FILES_UPDATE2 | register::BUFFERS_UPDATE => {
            return update_tagged(cx, ring, opcode, arg, count);
        }
        register::IOWQ_MAX_WORKERS => {
            exactly(arg, count, 2)?;
            let new: [u32; 2] = cx.mm.read_value(arg)?;
            if new.iter().any(|&n| i32::try_from(n).is_err()) {
                return Err(EINVAL.into());
            }
            let old = Owner::of(cx).limit_sleepers(new);
            cx.mm.write_value(arg, &old)?;
        }
        register::RING_FDS => return register_rings(cx, arg, count),
        register::UNREGISTER_RING_FDS => return unregister_rings(cx, arg, count),
        register::PBUF_RING => {
            exactly(arg, count, 1)?;
            register_buffer_ring(cx, ring, arg)?;
        }
        register::UNREGISTER_PBUF_RING => {
            exactly(arg, count, 1)?;
            let reg: BufferRing = cx.mm.read_value(arg)?;
            if reg.resv != [0; 3] || reg.flags != 0 {
                return Err(EINVAL.into());
            }
            let mut tables = ring.tables.lock();
            match tables.groups.get(&reg.group) {
                None => return Err(ENOENT.into()),
                Some(Group::Given(_)) => return Err(EINVAL.into()),
                Some(Group::Mapped { .. }) => tables.groups.remove(&reg.group),
            };
        }
        register::SYNC_CANCEL => {
            exactly(arg, count, 1)?;
            return sync_cancel(cx, ring, arg);
        }
        register::FILE_ALLOC_RANGE => {
            if arg.is_null() || count != 0 {
                return Err(EINVAL.into());
            }
            let [start, len, resv_low, resv_high]: [u32; 4] = cx.mm.read_value(arg)?;
            let end = start.checked_add(len).ok_or(EOVERFLOW)?;
            let mut tables = ring.tables.lock();
            if resv_low | resv_high != 0 || end as usize > tables.files.len() {
                return Err(EINVAL.into());
            }
            tables.alloc = (start as usize, end as usize, start as usize);
        }
        register::PBUF_STATUS => {
            exactly(arg, count, 1)?;
            let status: [u32; 10] = cx.mm.read_value(arg)?;
            if status[2..].iter().any(|&w| w != 0) {
                return Err(EINVAL.into());
            }
            let group = u16::try_from(status[0]).map_err(|_| ENOENT)?;
            let head = match ring.tables.lock().groups.get(&group) {
                None => return Err(ENOENT.into()),
                Some(Group::Given(_)) => return Err(EINVAL.into()),
                Some(Group::Mapped { head, .. }) => *head,
            };
            cx.mm.write_value(arg.saturating_add(4), &u32::from(head))?;
        }
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

fn read_tag(cx: &Ctx<'_>, tags: UserAddr, i: u32) -> Result<u64, Errno> {
    if tags.is_null() {
        return Ok(0);
    }
    cx.mm.read_value(tags.checked_add(u64::from(i) * 8).ok_or(EFAULT)?)
}

/// Checks a buffer and makes its pages present: Linux pins them.
fn check_buffer(cx: &Ctx<'_>, addr: u64, len: u64) -> Result<(), Errno> {
    if addr == 0 {
        return if len == 0 { Ok(()) } else { Err(EFAULT) };
    }
    if len == 0 || len > MAX_BUFFER {
        return Err(EFAULT);
    }
    addr.checked_add(len).ok_or(EOVERFLOW)?;
    cx.mm.check_range(UserAddr(addr), len)?;
    let end = addr.saturating_add(len).div_ceil(base::PAGE_SIZE) * base::PAGE_SIZE;
    cx.mm.make_writable(addr & !(base::PAGE_SIZE - 1)..end)
}

fn register_buffers(
    cx: &Ctx<'_>,
    ring: &Ring,
    arg: UserAddr,
    count: u32,
    tags: UserAddr,
) -> Result<(), Errno> {
    if ring.tables.lock().has_buffers {
        return Err(EBUSY);
    }
    if count == 0 || count > MAX_BUFFERS {
        return Err(EINVAL);
    }
    let mut list = Vec::with_capacity(count as usize);
    for i in 0..count {
        let [addr, len]: [u64; 2] = if arg.is_null() {
            [0, 0]
        } else {
            cx.mm.read_value(arg.checked_add(u64::from(i) * 16).ok_or(EFAULT)?)?
        };
        let tag = read_tag(cx, tags, i)?;
        check_buffer(cx, addr, len)?;
        if addr == 0 && tag != 0 {
            return Err(EINVAL);
        }
        list.push(BufferSlot { addr, len, tag });
    }
    let mut tables = ring.tables.lock();
    tables.has_buffers = true;
    tables.buffers = list;
    Ok(())
}

fn unregister_buffers(ring: &Ring) -> Result<(), Errno> {
    let old = {
        let mut tables = ring.tables.lock();
        if !tables.has_buffers {
            return Err(ENXIO);
        }
        tables.has_buffers = false;
        std::mem::take(&mut tables.buffers)
    };
    old.iter().for_each(|slot| ring.tell_tag(slot.tag));
    Ok(())
}

/// The file behind a descriptor that is to be registered; -1 is none.
fn file_to_register(cx: &Ctx<'_>, fd: i32) -> Result<Option<Arc<FileDescription>>, Errno> {
    if fd == -1 {
        return Ok(None);
    }
    let file = cx.open_file(fd)?;
    no_ring(&file)?;
    Ok(Some(file))
}

fn register_files(
    cx: &Ctx<'_>,
    ring: &Ring,
    arg: UserAddr,
    count: u32,
    tags: UserAddr,
    is_sparse: bool,
) -> Result<(), Errno> {
    if ring.tables.lock().has_files {
        return Err(EBUSY);
    }
    if count == 0 {
        return Err(EINVAL);
    }
    if count > MAX_FILES || u64::from(count) > cx.fd_limit() || count > MOST_FILES {
        return Err(EMFILE);
    }
    let mut list = Vec::with_capacity(count as usize);
    for i in 0..count {
        let fd: i32 = if is_sparse || arg.is_null() {
            -1
        } else {
            cx.mm.read_value(arg.checked_add(u64::from(i) * 4).ok_or(EFAULT)?)?
        };
        let tag = read_tag(cx, tags, i)?;
        let file = file_to_register(cx, fd)?;
        if file.is_none() && tag != 0 {
            return Err(EINVAL);
        }
        list.push(FileSlot { file, tag });
    }
    let mut tables = ring.tables.lock();
    tables.has_files = true;
    let hint = list.iter().rposition(|slot| slot.file.is_some()).map_or(0, |i| i + 1);
    tables.alloc = (0, list.len(), hint);
    tables.files = list;
    Ok(())
}

fn unregister_files(ring: &Ring) -> Result<(), Errno> {
    let old = {
        let mut tables = ring.tables.lock();
        if !tables.has_files {
            return Err(ENXIO);
        }
        tables.has_files = false;
        std::mem::take(&mut tables.files)
    };
    old.iter().for_each(|slot| ring.tell_tag(slot.tag));
    Ok(())
}

fn update_files(
    cx: &Ctx<'_>,
    ring: &Ring,
    offset: u32,
    fds: UserAddr,
    tags: UserAddr,
    count: u32,
) -> Result<u64, Errno> {
    let end = offset.checked_add(count).ok_or(EOVERFLOW)?;
    {
        let tables = ring.tables.lock();
        if !tables.has_files {
            return Err(ENXIO);
        }
        if end as usize > tables.files.len() {
            return Err(EINVAL);
        }
    }
    for i in 0..count {
        let done = update_file(cx, ring, offset + i, i, fds, tags);
        match done {
            Err(e) if i == 0 => return Err(e),
            Err(_) => return Ok(i.into()),
            Ok(()) => {}
        }
    }
    Ok(count.into())
}

fn update_file(
    cx: &Ctx<'_>,
    ring: &Ring,
    place: u32,
    i: u32,
    fds: UserAddr,
    tags: UserAddr,
) -> Result<(), Errno> {
    let tag = read_tag(cx, tags, i)?;
    let fd: i32 = cx.mm.read_value(fds.checked_add(u64::from(i) * 4).ok_or(EFAULT)?)?;
    if tag != 0 && (fd == SKIP || fd == -1) {
        return Err(EINVAL);
    }
    if fd == SKIP {
        return Ok(());
    }
    let file = file_to_register(cx, fd)?;
    let old = {
        let mut tables = ring.tables.lock();
        let index = place as usize;
        tables.alloc.2 = if file.is_some() { index + 1 } else { index };
        let slot = tables.files.get_mut(index).ok_or(EINVAL)?;
        std::mem::replace(slot, FileSlot { file, tag })
    };
    if old.file.is_some() {
        ring.tell_tag(old.tag);
    }
    Ok(())
}

/// `IORING_OP_FILES_UPDATE`.
pub(super) fn update_files_op(cx: &Ctx<'_>, ring: &Ring, e: &Sqe) -> SysResult {
    let (fds, offset) = (UserAddr(e.addr), e.off as u32);
    if offset != u32::MAX {
        return Ok(update_files(cx, ring, offset, fds, UserAddr::NULL, e.len)?);
    }
    // IORING_FILE_INDEX_ALLOC: the places are chosen, and stored where the descriptors were.
    if !ring.tables.lock().has_files {
        return Err(ENXIO.into());
    }
    for i in 0..e.len {
        let at = fds.checked_add(u64::from(i) * 4).ok_or(EFAULT)?;
        let done = cx.mm.read_value::<i32>(at).and_then(|fd| {
            let file = file_to_register(cx, fd)?.ok_or(EBADF)?;
            let index = ring.install_fixed(file, u32::MAX)?;
            cx.mm.write_value(at, &index)
        });
        match done {
            Err(e) if i == 0 => return Err(e.into()),
            Err(_) => return Ok(i.into()),
            Ok(()) => {}
        }
    }
    Ok(e.len.into())
}

fn register_eventfd(cx: &Ctx<'_>, ring: &Ring, arg: UserAddr, is_async: bool) -> Result<(), Errno> {
    if ring.tables.lock().eventfd.is_some() {
        return Err(EBUSY);
    }
    let fd: i32 = cx.mm.read_value(arg)?;
    let file = cx.open_file(fd)?;
    if file.ops.as_any().downcast_ref::<fs::anon::eventfd::EventFd>().is_none() {
        return Err(EINVAL);
    }
    ring.tables.lock().eventfd = Some((file, is_async));
    ring.has_eventfd.store(true, Ordering::SeqCst);
    Ok(())
}

/// Tells which operations there are.
fn probe(cx: &Ctx<'_>, arg: UserAddr, count: u32) -> Result<(), Errno> {
    const SUPPORTED: u16 = 1;
    let count = count.min(u32::from(op::LAST));
    let mut text = vec![0u8; 16 + count as usize * 8];
    cx.mm.read_exact(arg, &mut text)?;
    if text.iter().any(|&b| b != 0) {
        return Err(EINVAL);
    }
    text[0] = op::LAST - 1;
    text[1] = count as u8;
    for (i, entry) in text[16..].chunks_exact_mut(8).enumerate() {
        let number = i as u8;
        entry[0] = number;
        if prep::def(number).is_some() {
            entry[2..4].copy_from_slice(&SUPPORTED.to_le_bytes());
        }
    }
    cx.mm.write_all(arg, &text)
}

fn register_personality(cx: &Ctx<'_>, ring: &Ring) -> Result<u16, Errno> {
    const MOST: usize = 4096;
    let mut tables = ring.tables.lock();
    if tables.personalities.len() >= MOST {
        return Err(abi::errno::ENOMEM);
    }
    loop {
        tables.next_personality = tables.next_personality.wrapping_add(1).max(1);
        let id = tables.next_personality;
        if let std::collections::hash_map::Entry::Vacant(place) = tables.personalities.entry(id) {
            place.insert(cx.cred.clone());
            return Ok(id);
        }
    }
}

fn register_restrictions(cx: &Ctx<'_>, ring: &Ring, arg: UserAddr, count: u32) -> Result<(), Errno> {
    const MOST: u32 = 96;
    if !ring.is_disabled.load(Ordering::SeqCst) {
        return Err(EBADFD);
    }
    if ring.tables.lock().restrictions.are_set {
        return Err(EBUSY);
    }
    if arg.is_null() || count > MOST {
        return Err(EINVAL);
    }
    let list: Vec<[u32; 4]> = cx.mm.read_array(arg, count as usize)?;
    let mut rules = super::tables::Restrictions::default();
    for entry in list {
        let (kind, value) = (entry[0] & 0xffff, entry[0] >> 16 & 0xff);
        match kind {
            0 if value < register::LAST => rules.register |= 1 << value,
            1 if value < u32::from(op::LAST) => rules.ops |= 1 << value,
            2 => rules.flags_allowed = value as u8,
            3 => rules.flags_required = value as u8,
            _ => return Err(EINVAL),
        }
    }
    rules.are_set = true;
    ring.tables.lock().restrictions = rules;
    Ok(())
}

/// `struct io_uring_rsrc_register`: how many, flags, reserved, data, tags.
fn register_tagged(cx: &Ctx<'_>, ring: &Ring, opcode: u32, arg: UserAddr, size: u32) -> Result<(), Errno> {
    if size != 32 {
        return Err(EINVAL);
    }
    let [head, resv, data, tags]: [u64; 4] = cx.mm.read_value(arg)?;
    let (count, flags) = (head as u32, (head >> 32) as u32);
    if count == 0 || resv != 0 || flags & !SPARSE != 0 {
        return Err(EINVAL);
    }
    let is_sparse = flags & SPARSE != 0;
    if is_sparse && data != 0 {
        return Err(EINVAL);
    }
    if opcode == register::FILES2 {
        register_files(cx, ring, UserAddr(data), count, UserAddr(tags), is_sparse)
    } else {
        register_buffers(cx, ring, UserAddr(data), count, UserAddr(tags))
    }
}

/// `struct io_uring_rsrc_update2`: offset, reserved, data, tags, how many, reserved.
fn update_tagged(cx: &Ctx<'_>, ring: &Ring, opcode: u32, arg: UserAddr, size: u32) -> SysResult {
    if size != 32 {
        return Err(EINVAL.into());
    }
    let [head, data, tags, tail]: [u64; 4] = cx.mm.read_value(arg)?;
    let (offset, count) = (head as u32, tail as u32);
    if count == 0 || head >> 32 != 0 || tail >> 32 != 0 {
        return Err(EINVAL.into());
    }
    if opcode == register::FILES_UPDATE2 {
        return Ok(update_files(cx, ring, offset, UserAddr(data), UserAddr(tags), count)?);
    }
    let end = offset.checked_add(count).ok_or(EOVERFLOW)?;
    {
        let tables = ring.tables.lock();
        if !tables.has_buffers {
            return Err(ENXIO.into());
        }
        if end as usize > tables.buffers.len() {
            return Err(EINVAL.into());
        }
    }
    for i in 0..count {
        let done = update_buffer(cx, ring, offset + i, i, UserAddr(data), UserAddr(tags));
        match done {
            Err(e) if i == 0 => return Err(e.into()),
            Err(_) => return Ok(i.into()),
            Ok(()) => {}
        }
    }
    Ok(count.into())
}

fn update_buffer(
    cx: &Ctx<'_>,
    ring: &Ring,
    place: u32,
    i: u32,
    data: UserAddr,
    tags: UserAddr,
) -> Result<(), Errno> {
    let [addr, len]: [u64; 2] = cx.mm.read_value(data.checked_add(u64::from(i) * 16).ok_or(EFAULT)?)?;
    let tag = read_tag(cx, tags, i)?;
    check_buffer(cx, addr, len)?;
    if addr == 0 && tag != 0 {
        return Err(EINVAL);
    }
    let old = {
        let mut tables = ring.tables.lock();
        let slot = tables.buffers.get_mut(place as usize).ok_or(EINVAL)?;
        std::mem::replace(slot, BufferSlot { addr, len, tag })
    };
    ring.tell_tag(old.tag);
    Ok(())
}

/// `struct io_uring_rsrc_update`: offset or number, reserved, descriptor.
fn register_rings(cx: &Ctx<'_>, arg: UserAddr, count: u32) -> SysResult {
    if count == 0 || count as usize > MAX_RINGS {
        return Err(EINVAL.into());
    }
    let owner = Owner::of(cx);
    for i in 0..count {
        let at = arg.checked_add(u64::from(i) * 16).ok_or(EFAULT)?;
        let done = (|| -> Result<(), Errno> {
            let [offset, resv, fd, high]: [u32; 4] = cx.mm.read_value(at)?;
            if resv != 0 || high != 0 {
                return Err(EINVAL);
            }
            let file = cx.open_file(fd.cast_signed())?;
            if ring_of(&file).is_none() {
                return Err(abi::errno::EOPNOTSUPP);
            }
            let tid = cx.task.tid;
            let index = {
                let mut rings = owner.registered().lock();
                let is_free = |n: &u32| !rings.list.iter().any(|(t, i, _)| *t == tid && i == n);
                let index = match offset {
                    u32::MAX => (0..MAX_RINGS as u32).find(is_free).ok_or(EBUSY)?,
                    n if n as usize >= MAX_RINGS => return Err(EINVAL),
                    n if is_free(&n) => n,
                    _ => return Err(EBUSY),
                };
                rings.list.push((tid, index, file));
                index
            };
            cx.mm.write_value(at, &index)
        })();
        match done {
            Err(e) if i == 0 => return Err(e.into()),
            Err(_) => return Ok(i.into()),
            Ok(()) => {}
        }
    }
    Ok(count.into())
}

fn unregister_rings(cx: &Ctx<'_>, arg: UserAddr, count: u32) -> SysResult {
    if count == 0 || count as usize > MAX_RINGS {
        return Err(EINVAL.into());
    }
    let owner = Owner::of(cx);
    for i in 0..count {
        let at = arg.checked_add(u64::from(i) * 16).ok_or(EFAULT)?;
        let [offset, resv, low, high]: [u32; 4] = match cx.mm.read_value(at) {
            Err(e) if i == 0 => return Err(e.into()),
            Err(_) => return Ok(i.into()),
            Ok(v) => v,
        };
        if resv | low | high != 0 || offset as usize >= MAX_RINGS {
            return if i == 0 { Err(EINVAL.into()) } else { Ok(i.into()) };
        }
        let tid = cx.task.tid;
        let gone = {
            let mut rings = owner.registered().lock();
            let found = rings.list.iter().position(|(t, n, _)| *t == tid && *n == offset);
            found.map(|p| rings.list.remove(p))
        };
        drop(gone);
    }
    Ok(count.into())
}

/// `struct io_uring_buf_reg`.
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes)]
#[repr(C)]
struct BufferRing {
    addr: u64,
    entries: u32,
    group: u16,
    flags: u16,
    resv: [u64; 3],
}

fn register_buffer_ring(cx: &Ctx<'_>, ring: &Ring, arg: UserAddr) -> Result<(), Errno> {
    const MOST: u32 = 1 << 16;
    let reg: BufferRing = cx.mm.read_value(arg)?;
    if reg.resv != [0; 3] || reg.flags != 0 {
        return Err(EINVAL);
    }
    if reg.addr == 0 {
        return Err(EFAULT);
    }
    if !reg.addr.is_multiple_of(base::PAGE_SIZE) || !reg.entries.is_power_of_two() || reg.entries >= MOST {
        return Err(EINVAL);
    }
    let entries = u16::try_from(reg.entries).map_err(|_| EINVAL)?;
    let size = (u64::from(reg.entries) * 16).next_multiple_of(base::PAGE_SIZE);
    cx.mm.check_range(UserAddr(reg.addr), size)?;
    cx.mm.make_writable(reg.addr..reg.addr.saturating_add(size))?;
    ring.add_mapped_group(reg.group, reg.addr, entries)
}

/// `struct io_uring_sync_cancel_reg`: user data, descriptor, flags, timeout, operation.
fn sync_cancel(cx: &mut Ctx<'_>, ring: &Arc<Ring>, arg: UserAddr) -> SysResult {
    const KNOWN: u32 = CANCEL_ALL | CANCEL_FD | CANCEL_ANY | CANCEL_FD_FIXED | CANCEL_USERDATA | CANCEL_OP;
    let [user_data, head, sec, nsec, rest @ ..]: [u64; 8] = cx.mm.read_value(arg)?;
    let (fd, flags) = ((head as u32).cast_signed(), (head >> 32) as u32);
    if flags & !KNOWN != 0 || rest[0] >> 8 != 0 || rest[1..].iter().any(|&w| w != 0) {
        return Err(EINVAL.into());
    }
    let mut file = None;
    if flags & CANCEL_FD != 0 {
        let is_fixed = flags & CANCEL_FD_FIXED != 0;
        file = Some(if is_fixed { ring.fixed_file(fd)? } else { cx.open_file(fd)? });
    }
    let target = Target { user_data, flags, file, opcode: rest[0] as u8 };
    let deadline = if (sec, nsec) == (u64::MAX, u64::MAX) {
        None
    } else {
        let ns = sec.saturating_mul(1_000_000_000).saturating_add(nsec);
        Some(cx.monotonic_ns().saturating_add(ns))
    };
    let mut result = cancel_matching(ring, &target);
    if result != Err(abi::errno::EALREADY) {
        return Ok(result?);
    }
    let _registration = Registration::new(&ring.queue, cx.task.parker.clone(), Events::READABLE);
    let waited = cx.sleep_until(deadline, Restart::Sys, |_| {
        result = cancel_matching(ring, &target);
        Ok((result != Err(abi::errno::EALREADY)).then_some(()))
    });
    match waited {
        Ok(Some(())) if result == Err(ENOENT) => Ok(0),
        Ok(Some(())) => Ok(result?),
        Ok(None) => Err(ETIME.into()),
        Err(Stop::Restart(_)) => Err(EINTR.into()),
        Err(stop) => Err(stop),
    }
}
