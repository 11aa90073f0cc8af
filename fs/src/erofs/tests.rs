use super::*;
use crate::file::oflag;
use crate::vfs::testing::TestMemory;

struct Bytes(Vec<u8>);

impl Image for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let at = usize::try_from(offset).map_err(|_| EIO)?;
        buf.copy_from_slice(self.0.get(at..at + buf.len()).ok_or(EIO)?);
        Ok(())
    }
}

/// Blocks of 4096 bytes: 0 the super block, 1 inodes, 2 the root's names, 3 a file's first block.
fn image() -> Vec<u8> {
    let mut image = vec![0u8; 4 * 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(1024, &MAGIC.to_le_bytes());
    put(1024 + 12, &[12]);
    put(1024 + 36, &4u32.to_le_bytes());
    put(1024 + 40, &1u32.to_le_bytes());
    let inode = |layout: u16, mode: u16, size: u32, block: u32| {
        let mut raw = [0u8; 32];
        raw[..2].copy_from_slice(&(layout << 1).to_le_bytes());
        raw[4..6].copy_from_slice(&mode.to_le_bytes());
        raw[6..8].copy_from_slice(&1u16.to_le_bytes());
        raw[8..12].copy_from_slice(&size.to_le_bytes());
        raw[16..20].copy_from_slice(&block.to_le_bytes());
        raw
    };
    put(4096, &inode(0, 0o040_755, 4096, 2));
    put(4096 + 32, &inode(2, 0o100_644, 4096 + 5, 3));
    put(4096 + 64, b"tail!");
    put(4096 + 96, &inode(2, 0o120_777, 6, 0));
    put(4096 + 128, b"target");
    let names: [(u64, u8, &[u8]); 4] = [(0, 2, b"."), (0, 2, b".."), (1, 1, b"file"), (3, 7, b"link")];
    let mut at = names.len() * 12;
    for (i, (nid, kind, name)) in names.iter().enumerate() {
        let entry = 2 * 4096 + i * 12;
        put(entry, &nid.to_le_bytes());
        put(entry + 8, &(at as u16).to_le_bytes());
        put(entry + 10, &[*kind]);
        put(2 * 4096 + at, name);
        at += name.len();
    }
    put(3 * 4096, &[b'x'; 4096]);
    image
}

/// Looks at everything that is in an image, as far as it can be reached.
fn walk(root: &Arc<dyn Inode>, depth: u32, left: &mut u32) {
    let _ = root.metadata();
    let _ = root.list_xattrs();
    let _ = root.read_link();
    let _ = root.xattr(b"user.a");
    let Ok(open) = root.clone().open(oflag::RDONLY | oflag::NONBLOCK) else { return };
    let mut buf = [0u8; 9000];
    let _ = open.read_at(0, &mut buf.as_mut_slice());
    let _ = open.read_at(4090, &mut buf.as_mut_slice());
    let _ = open.seek_data(0, 1 << 20);
    let mut names = Vec::new();
    let _ = open.read_dir(0, &mut |entry| {
        names.push(entry.name.to_vec());
        names.len() < 100
    });
    for name in names.iter().filter(|n| !matches!(n.as_slice(), b"." | b"..")) {
        if depth == 0 || *left == 0 {
            return;
        }
        *left -= 1;
        if let Ok(child) = root.lookup(name) {
            walk(&child, depth - 1, left);
        }
    }
}

#[test]
fn files_names_and_links_are_read() {
    let memory = TestMemory::new();
    let root = from_image(memory, Box::new(Bytes(image()))).unwrap();
    let file = root.lookup(b"file").unwrap();
    let open = file.open(oflag::RDONLY).unwrap();
    let mut text = Vec::new();
    assert_eq!(open.read_at(4090, &mut text), Ok(11));
    assert_eq!(text, b"xxxxxxtail!");
    assert_eq!(root.lookup(b"link").unwrap().read_link().unwrap(), b"target");
    assert_eq!(root.lookup(b"none").map(drop), Err(ENOENT));
    assert_eq!(root.create(b"new", 0o644, Owner { uid: 0, gid: 0 }).map(drop), Err(EROFS));
}

#[test]
fn damaged_images_give_errors() {
    let good = image();
    // Each byte that means something, set to several values; a deterministic walk through what is left.
    let places = (1024..1152).chain(4096..4096 + 140).chain(2 * 4096..2 * 4096 + 70);
    for at in places {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            if let Ok(root) = from_image(TestMemory::new(), Box::new(Bytes(bad))) {
                walk(&root, 4, &mut 200);
            }
        }
    }
    for len in (0..good.len()).step_by(97) {
        let mut cut = good.clone();
        cut.truncate(len);
        if let Ok(root) = from_image(TestMemory::new(), Box::new(Bytes(cut))) {
            walk(&root, 4, &mut 200);
        }
    }
}

/// A compressed image of Debian's `mkfs.erofs`, where that is at hand.
fn compressed() -> Option<Vec<u8>> {
    let dir = std::env::temp_dir().join(format!("ringfence-erofs-{}", std::process::id()));
    let tree = dir.join("tree");
    std::fs::create_dir_all(&tree).ok()?;
    let text: String = (0..20_000).map(|n| format!("{n} ")).collect();
    std::fs::write(tree.join("text"), &text).ok()?;
    std::fs::write(tree.join("zeros"), vec![0; 300_000]).ok()?;
    let image = dir.join("image");
    let mut command = std::process::Command::new("mkfs.erofs");
    let made = command.args(["-zlz4hc", "-C16384"]).arg(&image).arg(&tree).output();
    let bytes = made.ok().filter(|made| made.status.success()).and_then(|_| std::fs::read(&image).ok());
    let _ = std::fs::remove_dir_all(&dir);
    bytes
}

#[test]
fn damaged_compressed_images_harm_nobody() {
    let Some(good) = compressed() else { return };
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let read = |image: Vec<u8>| -> Result<usize, Errno> {
        let root = from_image(TestMemory::new(), Box::new(Bytes(image)))?;
        let mut total = 0;
        for name in [&b"text"[..], b"zeros"] {
            let file = root.lookup(name)?;
            let inode = file.as_any().downcast_ref::<ErofsInode>().ok_or(EIO)?;
            let size = usize::try_from(inode.size.min(1 << 20)).map_err(|_| EIO)?;
            let mut bytes = vec![0; size];
            inode.read_bytes(0, &mut bytes)?;
            total += bytes.len();
        }
        Ok(total)
    };
    assert_eq!(read(good.clone()), Ok(108_890 + 300_000));
    for _ in 0..400 {
        let mut bad = good.clone();
        for _ in 0..=random(6) {
            // Most of an image is what says where the bytes are.
            let end = bad.len().min(if random(4) == 0 { usize::MAX } else { 12_288 });
            bad[random(end)] = random(256) as u8;
        }
        let _ = read(bad);
    }
}
