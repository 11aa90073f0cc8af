//! Random operations on several address spaces, each step compared with a model that knows nothing but pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::UserAddr;
use abi::mman::{MapFlags, Prot, RemapFlags, advice};
use base::PAGE_SIZE;

use super::fake::{FakeFile, FakeMemory, check, load, manager, store};
use crate::mm::{
    Fault, FileMapping, Limits, MapBacking, MapRequest, MapType, MemoryManager, Privileges, Writers,
};

const P: u64 = PAGE_SIZE;
/// The arena: so many pages from here on.
const ARENA: u64 = 0x10_0000_0000;
const PAGES: u64 = 48;
const FILE_PAGES: u64 = 20;

struct Rng(u64);

impl Rng {
    fn next(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

#[derive(Clone)]
struct ModelPage {
    prot: Prot,
    /// Object (0 is the file that is written through shared mappings, 1 the one that is mapped privately, others are
    /// shared memory) and page in it. Two files, because copying ahead decides when a private mapping ceases to see
    /// changes of its file, which mmap(2) leaves open.
    object: Option<(usize, u64)>,
    shared: bool,
    copy: Option<u8>,
    wipe: bool,
    dont_fork: bool,
}

type ModelSpace = BTreeMap<u64, ModelPage>;

struct World {
    objects: Vec<Vec<u8>>,
    file_len: u64,
    spaces: Vec<(Arc<MemoryManager>, ModelSpace)>,
}

impl World {
    fn read(&self, page: &ModelPage) -> Result<u8, &'static str> {
        if !page.prot.intersects(Prot::READ | Prot::WRITE | Prot::EXEC) {
            return Err("denied");
        }
        match (page.copy, page.object) {
            (Some(v), _) => Ok(v),
            (None, None) => Ok(0),
            (None, Some((o, i))) => self.objects[o].get(i as usize).copied().ok_or("bus"),
        }
    }
}

fn name(fault: &Fault) -> &'static str {
    match fault {
        Fault::NotMapped => "unmapped",
        Fault::Denied => "denied",
        Fault::Bus => "bus",
        Fault::OutOfMemory | Fault::Platform(_) => "other",
    }
}

fn random_prot(rng: &mut Rng) -> Prot {
    [Prot::empty(), Prot::READ, Prot::READ | Prot::WRITE, Prot::READ | Prot::WRITE, Prot::WRITE]
        [rng.next(5) as usize]
}

/// One operation on space `s`.
fn step(rng: &mut Rng, w: &mut World, s: usize, files: &[Arc<FakeFile>; 2]) {
    let first = rng.next(PAGES);
    let n = 1 + rng.next((PAGES - first).min(20));
    let (addr, len) = (ARENA + first * P, n * P);
    let pages = first..first + n;
    let mm = w.spaces[s].0.clone();
    match rng.next(20) {
        0..=2 => {
            let prot = random_prot(rng);
            let mut req = MapRequest::anonymous(addr, len, prot, MapFlags::FIXED);
            let kind = rng.next(4);
            let shared = kind % 2 == 1;
            if shared {
                req.kind = Some(MapType::Shared);
            }
            let offset = rng.next(FILE_PAGES);
            let object = if kind >= 2 {
                req.flags -= MapFlags::ANONYMOUS;
                req.backing = MapBacking::File(FileMapping {
                    file: Ok(files[usize::from(!shared)].mapped()),
                    offset: offset * P,
                    readable: true,
                    writable: true,
                    append_only: false,
                    noexec: false,
                });
                Some((usize::from(!shared), offset))
            } else if shared {
                w.objects.push(vec![0; n as usize]);
                Some((w.objects.len() - 1, 0))
            } else {
                None
            };
            assert_eq!(mm.map(req), Ok(addr));
            for (i, p) in pages.enumerate() {
                let object = object.map(|(o, at)| (o, at + i as u64));
                let page = ModelPage { prot, object, shared, copy: None, wipe: false, dont_fork: false };
                w.spaces[s].1.insert(p, page);
            }
        }
        3 | 4 => {
            assert_eq!(mm.unmap(addr, len), Ok(()));
            for p in pages {
                w.spaces[s].1.remove(&p);
            }
        }
        5 | 6 => {
            let prot = random_prot(rng);
            let result = mm.protect(addr, len, prot.bits());
            let mut expected = Ok(());
            for p in pages {
                match w.spaces[s].1.get_mut(&p) {
                    Some(page) => page.prot = prot,
                    None => {
                        expected = Err(abi::errno::ENOMEM);
                        break;
                    }
                }
            }
            assert_eq!(result, expected);
        }
        7..=12 => access(rng, w, s, addr, pages),
        13 => {
            let advice =
                [advice::DONTNEED, advice::WIPEONFORK, advice::KEEPONFORK, advice::DONTFORK, advice::DOFORK]
                    [rng.next(5) as usize];
            let result = mm.advise(addr, len, advice);
            let mut expected = Ok(());
            for p in pages {
                let Some(page) = w.spaces[s].1.get_mut(&p) else {
                    expected = Err(abi::errno::ENOMEM);
                    continue;
                };
                match advice {
                    advice::DONTNEED => page.copy = None,
                    advice::WIPEONFORK if page.object.is_some() => {
                        expected = Err(abi::errno::EINVAL);
                        break;
                    }
                    advice::WIPEONFORK => page.wipe = true,
                    advice::KEEPONFORK => page.wipe = false,
                    advice::DONTFORK => page.dont_fork = true,
                    _ => page.dont_fork = false,
                }
            }
            assert_eq!(result, expected);
        }
        14 | 15 => remap(rng, w, s, first, n),
        16 if w.spaces.len() < 4 => {
            let child = mm
                .fork(
                    Arc::<Limits>::default(),
                    if rng.next(2) == 0 { Writers::None } else { Writers::Others },
                )
                .expect("a child");
            let mut model = w.spaces[s].1.clone();
            model.retain(|_, p| !p.dont_fork);
            for p in model.values_mut().filter(|p| p.wipe) {
                p.copy = None;
            }
            w.spaces.push((child, model));
        }
        17 if w.spaces.len() > 1 => {
            w.spaces.swap_remove(s);
        }
        18 => {
            // Shrinks the file, or lets it grow back with its old bytes (the fake keeps them).
            let len = rng.next(FILE_PAGES + 1);
            files.iter().for_each(|f| f.truncate(len));
            if len < w.file_len {
                for (_, model) in &mut w.spaces {
                    for p in model.values_mut() {
                        if p.object.is_some_and(|(o, i)| o <= 1 && i >= len && i < w.file_len) {
                            p.copy = None;
                        }
                    }
                }
            }
            w.file_len = len;
        }
        _ => {
            let _ = mm.prefault(addr..addr + len, None);
        }
    }
}

/// Reads or writes the first byte of a page, as a guest or as the sentry.
fn access(rng: &mut Rng, w: &mut World, s: usize, addr: u64, pages: std::ops::Range<u64>) {
    let p = pages.start;
    let mm = &w.spaces[s].0;
    let page = w.spaces[s].1.get(&p);
    let value = rng.next(256) as u8;
    let beyond = |page: &ModelPage| {
        page.copy.is_none()
            && page
                .object
                .is_some_and(|(o, i)| (o <= 1 && i >= w.file_len) || i as usize >= w.objects[o].len())
    };
    let readable = match page {
        None => Err("unmapped"),
        Some(page) => w.read(page).and_then(|v| if beyond(page) { Err("bus") } else { Ok(v) }),
    };
    let denied = readable == Err("denied");
    match rng.next(5) {
        0 => assert_eq!(load(mm, addr).map_err(|f| name(&f)), readable),
        1 => {
            let mut b = [0];
            let got = mm.copy_in(UserAddr(addr), &mut b).map(|_| b[0]);
            assert_eq!(got.ok(), readable.ok());
        }
        2 => {
            // Whatever the protection.
            let mut b = [0];
            let got = mm.peek(UserAddr(addr), &mut b).map(|_| b[0]).ok();
            let raw = page.filter(|page| !beyond(page)).map(|page| match (page.copy, page.object) {
                (Some(v), _) => v,
                (None, Some((o, i))) => w.objects[o][i as usize],
                (None, None) => 0,
            });
            assert_eq!(got, raw);
        }
        how => {
            let writable = match page {
                None => Err("unmapped"),
                Some(p) if !p.prot.contains(Prot::WRITE) || denied => Err("denied"),
                Some(p) if beyond(p) => Err("bus"),
                Some(_) => Ok(()),
            };
            if how == 3 {
                assert_eq!(store(mm, addr, value).map_err(|f| name(&f)), writable);
            } else {
                assert_eq!(mm.copy_out(UserAddr(addr), &[value]).is_ok(), writable.is_ok());
            }
            if writable.is_ok() {
                let Some(page) = w.spaces[s].1.get_mut(&p) else { return };
                match page.object {
                    Some((o, i)) if page.shared => w.objects[o][i as usize] = value,
                    _ => page.copy = Some(value),
                }
            }
        }
    }
}

/// A move of a range that begins with a mapped page.
fn remap(rng: &mut Rng, w: &mut World, s: usize, first: u64, n: u64) {
    let (mm, model) = &mut w.spaces[s];
    let to = rng.next(PAGES - n + 1);
    let dontunmap = rng.next(3) == 0;
    let mut flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    if dontunmap {
        flags |= RemapFlags::DONTUNMAP;
    }
    let result = mm.remap(ARENA + first * P, n * P, n * P, flags.bits(), ARENA + to * P, Privileges::empty());
    if first + n > to && to + n > first {
        assert_eq!(result, Err(abi::errno::EINVAL));
        return;
    }
    if !model.contains_key(&first) {
        assert_eq!(result, Err(abi::errno::EFAULT));
        return;
    }
    assert_eq!(result, Ok(ARENA + to * P));
    for i in 0..n {
        // Each area replaces what is at its target; holes stay as they are.
        if let Some(mut page) = model.get(&(first + i)).cloned() {
            model.insert(to + i, page.clone());
            if dontunmap {
                page.copy = None;
                model.insert(first + i, page);
            } else {
                model.remove(&(first + i));
            }
        }
    }
}

fn run(seed: u64, steps: usize) {
    let memory = FakeMemory::new();
    let files = [FakeFile::new(&memory, FILE_PAGES), FakeFile::new(&memory, FILE_PAGES)];
    let content: Vec<u8> = (0..FILE_PAGES).map(|i| i as u8 + 1).collect();
    let mut w = World {
        objects: vec![content.clone(), content],
        file_len: FILE_PAGES,
        spaces: vec![(manager(&memory), ModelSpace::new())],
    };
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for i in 0..steps {
        let s = rng.next(w.spaces.len() as u64) as usize;
        step(&mut rng, &mut w, s, &files);
        if i % 8 == 0 {
            for (mm, model) in &w.spaces {
                check(mm);
                let mapped: u64 = mm.memory_use().sizes.total;
                assert_eq!(mapped, model.len() as u64 * P);
            }
        }
    }
    for (mm, model) in &w.spaces {
        for (&p, page) in model {
            let mut b = [0];
            let got = mm.peek(UserAddr(ARENA + p * P), &mut b).map(|_| b[0]).ok();
            let beyond = page.copy.is_none()
                && page
                    .object
                    .is_some_and(|(o, i)| (o <= 1 && i >= w.file_len) || i as usize >= w.objects[o].len());
            let expected = (!beyond).then(|| match (page.copy, page.object) {
                (Some(v), _) => v,
                (None, Some((o, i))) => w.objects[o][i as usize],
                (None, None) => 0,
            });
            assert_eq!(got, expected, "seed {seed} page {p} object {:?} shared {}", page.object, page.shared);
        }
    }
    w.spaces.clear();
    assert!(files.iter().all(|f| f.mappings.lock().is_empty()));
    drop(files);
    assert_eq!(memory.in_use(), 0, "pages leaked");
}

#[test]
fn random_operations_agree_with_a_model_of_pages() {
    for seed in 1..=300 {
        run(seed, 400);
    }
}
