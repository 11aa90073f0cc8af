//! What programs register with a ring: files, buffers, credentials, and buffers that are chosen when they are needed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use abi::errno::{EBADF, EEXIST, EFAULT, EINVAL, ENFILE, ENOBUFS, ENOENT, ENXIO};
use abi::{Errno, UserAddr};
use base::cred::Credentials;
use fs::file::FileDescription;

use super::ring::Ring;
use crate::mm::MemoryManager;

/// A registered file and the tag that is told when it goes (`IORING_RSRC_REGISTER_SPARSE`, io_uring_register(2)).
#[derive(Clone, Default)]
pub(super) struct FileSlot {
    pub(super) file: Option<Arc<FileDescription>>,
    pub(super) tag: u64,
}

/// A registered buffer.
#[derive(Clone, Copy, Default)]
pub(super) struct BufferSlot {
    pub(super) addr: u64,
    pub(super) len: u64,
    pub(super) tag: u64,
}

/// A buffer that was chosen for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selected {
    pub(super) group: u16,
    pub(super) id: u16,
    pub(super) addr: u64,
    pub(super) len: u64,
    /// The buffer's own length, of which the request may use a part only.
    whole: u64,
    is_mapped: bool,
    /// Its number in its group's ring.
    place: u16,
}

/// Buffers of one group.
pub(super) enum Group {
    /// Given one by one: `IORING_OP_PROVIDE_BUFFERS`.
    Given(VecDeque<(u16, u64, u64)>),
    /// In a ring in the program's memory: `IORING_REGISTER_PBUF_RING`; and those that were chosen and given back after
    /// later ones had been chosen.
    Mapped { at: u64, entries: u16, head: u16, back: VecDeque<Selected> },
}

/// What a restricted ring allows.
#[derive(Clone, Copy, Default)]
pub(super) struct Restrictions {
    pub(super) are_set: bool,
    pub(super) register: u64,
    pub(super) ops: u128,
    pub(super) flags_allowed: u8,
    pub(super) flags_required: u8,
}

/// See the module.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) has_files: bool,
    pub(super) files: Vec<FileSlot>,
    /// Where new files go when a request leaves that open: start and end, and where the last went.
    pub(super) alloc: (usize, usize, usize),
    pub(super) has_buffers: bool,
    pub(super) buffers: Vec<BufferSlot>,
    pub(super) eventfd: Option<(Arc<FileDescription>, bool)>,
    pub(super) personalities: HashMap<u16, Arc<Credentials>>,
    pub(super) next_personality: u16,
    pub(super) groups: HashMap<u16, Group>,
    pub(super) given: usize,
    pub(super) restrictions: Restrictions,
}

/// Buffers that all groups of a ring may hold.
const MAX_GIVEN: usize = 1 << 17;

impl Ring {
    /// The registered file `index`.
    ///
    /// # Errors
    /// `EBADF`.
    pub(super) fn fixed_file(&self, index: i32) -> Result<Arc<FileDescription>, Errno> {
        let index = usize::try_from(index).map_err(|_| EBADF)?;
        self.tables.lock().files.get(index).and_then(|s| s.file.clone()).ok_or(EBADF)
    }

    /// Puts `file` among the registered ones; `slot` counts from 1, `u32::MAX` means any. Returns what the request tells.
    ///
    /// # Errors
    /// `ENXIO`: there is no table; `EINVAL`: it has no such place; `ENFILE`: it is full.
    pub(super) fn install_fixed(&self, file: Arc<FileDescription>, slot: u32) -> Result<i32, Errno> {
        if super::ring_of(&file).is_some() {
            return Err(EBADF);
        }
        let mut tables = self.tables.lock();
        if !tables.has_files {
            return Err(ENXIO);
        }
        if slot == u32::MAX {
            let (start, end, last) = tables.alloc;
            let end = end.min(tables.files.len());
            let is_free = |i: &usize| tables.files.get(*i).is_some_and(|s| s.file.is_none());
            let free = (last.max(start)..end).find(is_free).or_else(|| (start..end).find(is_free));
            let index = free.ok_or(ENFILE)?;
            tables.alloc.2 = index + 1;
            if let Some(place) = tables.files.get_mut(index) {
                place.file = Some(file);
            }
            return i32::try_from(index).map_err(|_| ENFILE);
        }
        let index = (slot as usize).checked_sub(1).ok_or(EINVAL)?;
        let place = tables.files.get_mut(index).ok_or(EINVAL)?;
        let old = place.file.replace(file);
        let tag = std::mem::take(&mut place.tag);
        tables.alloc.2 = index + 1;
        drop(tables);
        drop(old);
        self.tell_tag(tag);
        Ok(0)
    }

    /// Takes the registered file `index` out.
    ///
    /// # Errors
    /// `ENXIO`, `EINVAL`, `EBADF` as Linux's `io_fixed_fd_remove`.
    pub(super) fn remove_fixed(&self, index: u32) -> Result<(), Errno> {
        let mut tables = self.tables.lock();
        if !tables.has_files {
            return Err(ENXIO);
        }
        let index = index as usize;
        let place = tables.files.get_mut(index).ok_or(EINVAL)?;
        let old = place.file.take().ok_or(EBADF)?;
        let tag = std::mem::take(&mut place.tag);
        tables.alloc.2 = index;
        drop(tables);
        drop(old);
        self.tell_tag(tag);
        Ok(())
    }

    /// Tells that something with a tag is not used any more.
    pub(super) fn tell_tag(&self, tag: u64) {
        if tag != 0 {
            let answer = abi::io_uring::Cqe { user_data: tag, res: 0, flags: 0 };
            self.post(answer, super::ring::Origin::Task, true);
        }
    }

    /// The part `addr..addr + len` of registered buffer `index`.
    ///
    /// # Errors
    /// `EFAULT`: there is no such buffer, or the part is not in it.
    pub(super) fn fixed_buffer(&self, index: u16, addr: u64, len: u64) -> Result<(UserAddr, u64), Errno> {
        let buffer = self.tables.lock().buffers.get(usize::from(index)).copied().ok_or(EFAULT)?;
        let end = addr.checked_add(len).ok_or(EFAULT)?;
        if buffer.addr == 0 || addr < buffer.addr || end > buffer.addr + buffer.len {
            return Err(EFAULT);
        }
        Ok((UserAddr(addr), len))
    }

    /// Chooses a buffer of `group`, at most `most` bytes of it (0: all).
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub(super) fn select(&self, mm: &MemoryManager, group: u16, most: u64) -> Result<Selected, Errno> {
        let cut = |len: u64| if most == 0 { len } else { len.min(most) };
        loop {
            let (at, entries, head) = {
                let mut tables = self.tables.lock();
                match tables.groups.get_mut(&group).ok_or(ENOBUFS)? {
                    Group::Given(list) => {
                        let (id, addr, len) = list.pop_front().ok_or(ENOBUFS)?;
                        tables.given -= 1;
                        let (whole, len) = (len, cut(len));
                        return Ok(Selected { group, id, addr, len, whole, is_mapped: false, place: 0 });
                    }
                    Group::Mapped { at, entries, head, back } => match back.pop_front() {
                        Some(buffer) => return Ok(Selected { len: cut(buffer.whole), ..buffer }),
                        None => (*at, *entries, *head),
                    },
                }
            };
            // The tail lies where the first entry has room.
            let tail: u16 = mm.read_value(UserAddr(at.saturating_add(14))).map_err(|_| ENOBUFS)?;
            if tail == head {
                return Err(ENOBUFS);
            }
            let place = at.saturating_add(u64::from(head & (entries - 1)) * 16);
            let [addr, rest]: [u64; 2] = mm.read_value(UserAddr(place)).map_err(|_| ENOBUFS)?;
            let (len, id) = (rest & 0xffff_ffff, (rest >> 32) as u16);
            let mut tables = self.tables.lock();
            match tables.groups.get_mut(&group) {
                Some(Group::Mapped { head: now, .. }) if *now == head => *now = head.wrapping_add(1),
                // Another thread has chosen this one meanwhile, or the group is another.
                _ => continue,
            }
            let (whole, len) = (len, cut(len));
            return Ok(Selected { group, id, addr, len, whole, is_mapped: true, place: head });
        }
    }

    /// Gives a chosen buffer back that was not used.
    pub(super) fn unselect(&self, buffer: Selected) {
        let mut tables = self.tables.lock();
        match tables.groups.get_mut(&buffer.group) {
            Some(Group::Mapped { back, head, .. }) if buffer.is_mapped => {
                back.push_front(buffer);
                // The program is to see the ring's own order where that is possible.
                while let Some(i) = back.iter().position(|b| b.place == head.wrapping_sub(1)) {
                    back.remove(i);
                    *head = head.wrapping_sub(1);
                }
            }
            Some(Group::Given(list)) if !buffer.is_mapped => {
                list.push_front((buffer.id, buffer.addr, buffer.whole));
                tables.given += 1;
            }
            _ => {}
        }
    }

    /// `IORING_OP_PROVIDE_BUFFERS`.
    ///
    /// # Errors
    /// `EINVAL`: the group is a mapped one; `ENOMEM`.
    pub(super) fn provide(
        &self,
        group: u16,
        first: u16,
        count: u32,
        addr: u64,
        len: u32,
    ) -> Result<(), Errno> {
        let mut tables = self.tables.lock();
        if tables.given.saturating_add(count as usize) > MAX_GIVEN {
            return Err(abi::errno::ENOMEM);
        }
        match tables.groups.entry(group).or_insert_with(|| Group::Given(VecDeque::new())) {
            Group::Mapped { .. } => Err(EINVAL),
            Group::Given(list) => {
                for i in 0..count {
                    let at = addr.wrapping_add(u64::from(i) * u64::from(len));
                    list.push_back((first.wrapping_add(i as u16), at, len.into()));
                }
                tables.given += count as usize;
                Ok(())
            }
        }
    }

    /// `IORING_OP_REMOVE_BUFFERS`; returns how many there were.
    ///
    /// # Errors
    /// `ENOENT`: there is no such group; `EINVAL`: it is a mapped one.
    pub(super) fn withdraw(&self, group: u16, count: u32) -> Result<i32, Errno> {
        let mut tables = self.tables.lock();
        match tables.groups.get_mut(&group).ok_or(ENOENT)? {
            Group::Mapped { .. } => Err(EINVAL),
            Group::Given(list) => {
                let n = (count as usize).min(list.len());
                list.drain(..n);
                tables.given -= n;
                i32::try_from(n).map_err(|_| EINVAL)
            }
        }
    }

    /// `IORING_REGISTER_PBUF_RING`, its arguments checked.
    ///
    /// # Errors
    /// `EEXIST`: the group has buffers.
    pub(super) fn add_mapped_group(&self, group: u16, at: u64, entries: u16) -> Result<(), Errno> {
        let mut tables = self.tables.lock();
        match tables.groups.get(&group) {
            Some(Group::Mapped { .. }) => return Err(EEXIST),
            Some(Group::Given(list)) if !list.is_empty() => return Err(EEXIST),
            _ => {}
        }
        tables.groups.insert(group, Group::Mapped { at, entries, head: 0, back: VecDeque::new() });
        Ok(())
    }
}
