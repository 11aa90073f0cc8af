//! Tests of bytes, holes and names.

use base::memmap::MapError;

use super::*;
use crate::file::oflag;
use crate::vfs::testing::TestMemory;

const ROOT: Owner = Owner { uid: 0, gid: 0 };

#[test]
fn bytes_holes_and_truncation() {
    let memory = TestMemory::new();
    let root = new(memory.clone(), 0o755);
    let file = root.create(b"f", 0o644, ROOT).unwrap().open(oflag::RDWR).unwrap();
    let text = vec![7u8; 10_000];
    assert_eq!(file.write_at(20_000, &mut text.as_slice()).unwrap(), 10_000);
    let mut got = Vec::new();
    assert_eq!(file.read_at(15_000, &mut got).unwrap(), 15_000);
    assert!(got[..5000].iter().all(|&b| b == 0) && got[5000..].iter().all(|&b| b == 7));
    file.truncate(20_100).unwrap();
    file.truncate(40_000).unwrap();
    let mut got = Vec::new();
    assert_eq!(file.read_at(0, &mut got).unwrap(), 40_000);
    assert_eq!(got.iter().filter(|&&b| b == 7).count(), 100);
    let pages = file.mappable().unwrap();
    assert_eq!(pages.translate(40_960, 4096, false), Err(MapError::Bus));
    let run = pages.translate(16_384, 8192, false).unwrap();
    let mut byte = [0];
    memory.read(run.offset + 20_000 - 16_384, &mut byte);
    assert_eq!(byte, [7]);
    memory.dec_ref(run);
    file.truncate(0).unwrap();
    assert_eq!(memory.used(), 0);
    let big = zero_pages(memory.clone());
    memory.dec_ref(big.translate(1 << 40, 4096, true).unwrap());
    drop(big);
    assert_eq!(memory.used(), 0);
}

#[test]
fn a_position_in_a_directory_stays_valid_while_names_go() {
    let root = new(TestMemory::new(), 0o755);
    for i in 0..10u8 {
        root.create(&[b'a' + i], 0o644, ROOT).unwrap();
    }
    let dir = root.clone().open(oflag::RDONLY).unwrap();
    let (mut next, mut seen) = (0, Vec::new());
    loop {
        let mut last = None;
        dir.read_dir(next, &mut |entry| {
            last.is_none() && {
                last = Some((entry.next, entry.name.to_vec()));
                true
            }
        })
        .unwrap();
        let Some((position, name)) = last else { break };
        next = position;
        if name.first() != Some(&b'.') {
            root.unlink(&name).unwrap();
            seen.push(name);
        }
    }
    assert_eq!(seen.len(), 10);
}
