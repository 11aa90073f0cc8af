//! A memory file for tests: a vector.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use abi::Errno;
use base::memmap::{MemKind, MemRange, Memory};

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    counts: BTreeMap<u64, u32>,
}

/// A vector with reference counts by page; freed pages are not used again.
#[derive(Default)]
pub(crate) struct TestMemory(Mutex<State>);

impl TestMemory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Bytes with a reference.
    pub(crate) fn used(&self) -> u64 {
        self.0.lock().unwrap().counts.len() as u64 * 4096
    }
}

impl Memory for TestMemory {
    fn allocate(&self, len: u64, _align: u64, _kind: MemKind) -> Result<MemRange, Errno> {
        assert_eq!(len % 4096, 0);
        let mut state = self.0.lock().unwrap();
        let offset = state.bytes.len() as u64;
        let end = offset + len;
        state.bytes.resize(end as usize, 0);
        state.counts.extend((offset..end).step_by(4096).map(|page| (page, 1)));
        Ok(MemRange { offset, len })
    }

    fn inc_ref(&self, range: MemRange) {
        let mut state = self.0.lock().unwrap();
        for page in (range.offset..range.end()).step_by(4096) {
            *state.counts.get_mut(&page).unwrap() += 1;
        }
    }

    fn dec_ref(&self, range: MemRange) {
        let mut state = self.0.lock().unwrap();
        for page in (range.offset..range.end()).step_by(4096) {
            let count = state.counts.get_mut(&page).unwrap();
            *count -= 1;
            if *count == 0 {
                state.counts.remove(&page);
            }
        }
    }

    fn is_unique(&self, offset: u64) -> bool {
        self.0.lock().unwrap().counts.get(&offset) == Some(&1)
    }

    fn populate(&self, _range: MemRange) {}

    fn discard(&self, range: MemRange) {
        self.zero(range);
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        let state = self.0.lock().unwrap();
        buf.copy_from_slice(&state.bytes[offset as usize..][..buf.len()]);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.lock().unwrap().bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn zero(&self, range: MemRange) {
        self.0.lock().unwrap().bytes[range.offset as usize..range.end() as usize].fill(0);
    }

    fn copy(&self, from: u64, to: u64, len: u64) {
        self.0.lock().unwrap().bytes.copy_within(from as usize..(from + len) as usize, to as usize);
    }

    fn load_u32(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn compare_exchange_u32(&self, offset: u64, old: u32, new: u32) -> u32 {
        let was = self.load_u32(offset);
        if was == old {
            self.write(offset, &new.to_le_bytes());
        }
        was
    }

    fn resident(&self) -> u64 {
        self.used()
    }
}
