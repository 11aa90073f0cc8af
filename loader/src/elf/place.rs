//! From segments to mappings: Linux's `elf_load` and the loop around it.

use std::ops::Range;

use abi::Errno;
use abi::errno::{EINVAL, ENOMEM};

use super::{Access, Image, Kind, Role, Segment, page_down, page_offset, page_up_wrapping};
use crate::{PAGE_SIZE, TASK_SIZE};

/// Where the bytes of a mapping come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file, privately, from this offset on (a multiple of the page size; may lie behind the end of the file).
    File {
        /// Byte offset in the file.
        offset: u64,
    },
    /// Zeros.
    Anonymous,
}

/// One mapping to make. It replaces what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapOp {
    /// Page-aligned address.
    pub addr: u64,
    /// Bytes; a multiple of the page size, not 0.
    pub len: u64,
    /// What is mapped.
    pub source: Source,
    /// What it allows.
    pub access: Access,
    /// Bytes of it to fill with zeros once it is mapped: what the file holds behind the segment's end. Only in writable
    /// mappings, as in Linux. When the bytes cannot be written (the file ends before them), exec fails.
    pub clear: Option<Range<u64>>,
}

/// Where everything of an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The mappings, to be made in this order.
    pub ops: Vec<MapOp>,
    /// Addresses where nothing may be mapped before, or the process ends (`MAP_FIXED_NOREPLACE`): the first mapping of an
    /// `ET_EXEC` image, all of an `ET_DYN` one.
    pub reserved: Range<u64>,
    /// What was added to the file's addresses; `AT_BASE` for an interpreter.
    pub bias: u64,
    /// Entry point.
    pub entry: u64,
    /// Address of the program headers: `AT_PHDR`. The bias when no segment holds them.
    pub phdr: u64,
    /// End of the highest segment, rounded up to a page: where the heap starts unless it is moved.
    pub brk: u64,
    /// From the lowest to the highest byte of executable segments: `start_code` and `end_code` in `/proc/PID/stat`.
    pub code: Range<u64>,
    /// `start_data` and `end_data`.
    pub data: Range<u64>,
}

impl Image {
    /// Says what to map where when `bias` is added to all addresses of the file. Address space limits, the lowest
    /// mappable address and free ranges are the caller's to check.
    ///
    /// # Errors
    /// `EINVAL` or `ENOMEM`: the file asks for the impossible. Linux finds out behind the point of no return: the process
    /// ends by `SIGSEGV`.
    ///
    /// Source: Linux 6.18 fs/binfmt_elf.c, `load_elf_binary`, `load_elf_interp`, `elf_load`.
    pub fn place(&self, bias: u64) -> Result<Placement, Errno> {
        match (self.kind, self.role) {
            (Kind::Other, _) => return Err(EINVAL),
            (_, Role::Interpreter) if self.span() == 0 => return Err(EINVAL),
            (Kind::Dyn, Role::Program) if !self.segments.is_empty() && self.span() == 0 => {
                return Err(EINVAL);
            }
            _ => {}
        }
        // Linux maps the whole span from the first segment on at once, then unmaps the rest.
        let mut reserved = 0..0;
        if self.kind == Kind::Dyn && !self.segments.is_empty() {
            let start = self.first_page().wrapping_add(bias);
            reserved = start..range_end(start, self.span())?;
        }
        let mut ops: Vec<MapOp> = Vec::new();
        let mut phdr = 0u64;
        let mut brk = 0u64;
        let mut code = Range { start: u64::MAX, end: 0 };
        let mut data = 0..0;
        for segment in &self.segments {
            // A program's addresses must fit before the bias too; an interpreter's only with it.
            let checked = match self.role {
                Role::Program => segment.vaddr,
                Role::Interpreter => segment.vaddr.wrapping_add(bias),
            };
            segment.check_fits(checked)?;
            segment.map(bias, &mut ops)?;

            let file_end = segment.vaddr.wrapping_add(segment.file_size);
            if let Some(inside) = self.phdr_offset.checked_sub(segment.offset)
                && inside < segment.file_size
            {
                phdr = segment.vaddr.wrapping_add(inside);
            }
            if segment.access.contains(Access::EXEC) {
                code = code.start.min(segment.vaddr)..code.end.max(file_end);
            }
            data = data.start.max(segment.vaddr)..data.end.max(file_end);
            brk = brk.max(segment.vaddr.wrapping_add(segment.mem_size));
        }
        if let (Kind::Exec, Some(first)) = (self.kind, ops.first()) {
            reserved = first.addr..first.addr + first.len;
        }
        let entry = self.entry.wrapping_add(bias);
        if (self.role == Role::Interpreter || self.interp.is_none()) && entry >= TASK_SIZE {
            return Err(EINVAL);
        }
        if code.start == u64::MAX {
            code = 0..0;
        }
        Ok(Placement {
            ops,
            reserved,
            bias,
            entry,
            phdr: phdr.wrapping_add(bias),
            brk: page_up_wrapping(brk.wrapping_add(bias)),
            code: code.start.wrapping_add(bias)..code.end.wrapping_add(bias),
            data: data.start.wrapping_add(bias)..data.end.wrapping_add(bias),
        })
    }
}

impl Segment {
    /// Checks that `mem_size` bytes at `addr` are user addresses and that the file's bytes fit into them.
    fn check_fits(&self, addr: u64) -> Result<(), Errno> {
        let fits = addr < TASK_SIZE
            && self.file_size <= self.mem_size
            && self.mem_size <= TASK_SIZE
            && TASK_SIZE - self.mem_size >= addr;
        if fits { Ok(()) } else { Err(EINVAL) }
    }

    /// Adds the mappings of this segment: file pages, then zero pages. `check_fits` holds, so sizes do not overflow.
    fn map(&self, bias: u64, ops: &mut Vec<MapOp>) -> Result<(), Errno> {
        let in_page = page_offset(self.vaddr);
        let start = page_down(self.vaddr.wrapping_add(bias));
        let file_end = range_end(start, in_page + self.file_size)?;
        let mem_end = range_end(start, in_page + self.mem_size)?;
        let mut zeros_from = start;
        if self.file_size != 0 {
            // The rest of `offset` in its page must be that of the address.
            let offset = self.offset.wrapping_sub(in_page);
            let len = page_up_wrapping(in_page + self.file_size);
            let end = offset.checked_add(len);
            if page_offset(offset) != 0 || end.is_none_or(|end| i64::try_from(end).is_err()) {
                return Err(EINVAL);
            }
            zeros_from = page_up_wrapping(file_end);
            let tail = file_end..zeros_from;
            let has_tail = self.mem_size > self.file_size && !tail.is_empty();
            let clear = (has_tail && self.access.contains(Access::WRITE)).then_some(tail);
            ops.push(MapOp { addr: start, len, source: Source::File { offset }, access: self.access, clear });
        }
        let zeros_to = page_up_wrapping(mem_end);
        if self.mem_size > self.file_size && zeros_to > zeros_from {
            // Always writable, whatever the segment says (`vm_brk_flags`).
            let access = Access::READ | Access::WRITE | (self.access & Access::EXEC);
            let len = zeros_to - zeros_from;
            ops.push(MapOp { addr: zeros_from, len, source: Source::Anonymous, access, clear: None });
        }
        Ok(())
    }
}

/// The end of `len` bytes at the page `start`, if the pages they touch are user pages.
fn range_end(start: u64, len: u64) -> Result<u64, Errno> {
    let end = start.checked_add(len).ok_or(ENOMEM)?;
    if start > TASK_SIZE - PAGE_SIZE || end > TASK_SIZE { Err(ENOMEM) } else { Ok(end) }
}
