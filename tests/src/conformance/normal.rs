//! Takes out of a case's output what differs from run to run: addresses, process numbers, times, inodes, the scratch folder.

/// How a number is announced, and what stands for it: `pid 123` becomes `pid N`.
const NUMBERS: [&str; 6] = ["pid", "tid", "pgid", "sid", "ino", "dev"];

/// Hexadecimal numbers of at least this many digits are addresses.
const ADDRESS_DIGITS: usize = 9;

/// The output with everything that may differ replaced by a name; `scratch` is the folder that the cases ran in.
pub fn normalise(output: &str, scratch: &str) -> String {
    let output = if scratch.is_empty() { output.to_owned() } else { output.replace(scratch, "$DIR") };
    let mut text = String::with_capacity(output.len());
    for line in output.split_inclusive('\n') {
        text += &seconds(&numbers(&addresses(line)));
    }
    text
}

/// `0x7f12_3456_7000` becomes `ADDRESS`.
fn addresses(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("0x") {
        let digits = rest[at + 2..].bytes().take_while(u8::is_ascii_hexdigit).count();
        text += &rest[..at];
        if (ADDRESS_DIGITS..=16).contains(&digits) && is_user_address(&rest[at + 2..at + 2 + digits]) {
            text += "ADDRESS";
        } else {
            text += &rest[at..at + 2 + digits];
        }
        rest = &rest[at + 2 + digits..];
    }
    text + rest
}

/// Whether the digits are an address that a program may have, beyond the first 4 GiB.
fn is_user_address(digits: &str) -> bool {
    u64::from_str_radix(digits, 16).is_ok_and(|n| (1 << 32..1 << 47).contains(&n) && !n.is_power_of_two())
}

/// `pid 123`, `pid=123` become `pid N`, `pid=N`. Numbers below 1 stay: they have a meaning.
fn numbers(line: &str) -> String {
    let mut text = line.to_owned();
    for name in NUMBERS {
        let mut from = 0;
        while let Some(at) = text[from..].find(name).map(|at| at + from) {
            let before = text[..at].chars().next_back();
            let start = at + name.len() + 1;
            from = at + name.len();
            let is_word = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
            if !is_word || !matches!(text.as_bytes().get(start - 1), Some(b' ' | b'=')) {
                continue;
            }
            let digits = text[start..].bytes().take_while(u8::is_ascii_digit).count();
            let ends = !text[start + digits..].starts_with(|c: char| c.is_alphanumeric() || c == '.');
            if digits > 0 && ends && &text[start..start + digits] != "0" {
                text.replace_range(start..start + digits, "N");
            }
        }
    }
    text
}

/// `1.234 s`, `12.5ms` become `TIME`.
fn seconds(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let number = rest[at..].bytes().take_while(|c| c.is_ascii_digit() || *c == b'.').count();
        let after = &rest[at + number..];
        let unit = ["s", "ms", "us", "ns"].into_iter().find_map(|unit| {
            let tail = after.strip_prefix(' ').unwrap_or(after).strip_prefix(unit)?;
            (!tail.starts_with(|c: char| c.is_alphanumeric() || c == '_')).then_some(tail)
        });
        let joined = rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        text += &rest[..at];
        match unit {
            Some(tail) if !joined && rest[at..at + number].contains('.') => {
                text += "TIME";
                rest = tail;
            }
            _ => {
                text += &rest[at..at + number];
                rest = after;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn addresses_are_replaced_and_flags_stay() {
        assert_eq!(normalise("mmap = 0x7f5e91a2b000\n", ""), "mmap = ADDRESS\n");
        assert_eq!(normalise("heap 0x55d0c0ffee10 next", ""), "heap ADDRESS next");
        assert_eq!(normalise("mode = 0x1a4 flags = 0x80000001", ""), "mode = 0x1a4 flags = 0x80000001");
        assert_eq!(normalise("mask = 0xffffffffffffffff", ""), "mask = 0xffffffffffffffff");
        assert_eq!(normalise("bit = 0x100000000", ""), "bit = 0x100000000");
    }

    #[test]
    fn process_numbers_are_replaced_where_they_are_announced() {
        assert_eq!(normalise("pid 4711 tid=12\n", ""), "pid N tid=N\n");
        assert_eq!(normalise("pid 0, pid -1", ""), "pid 0, pid -1");
        assert_eq!(normalise("pid_max 4711 stupid 3", ""), "pid_max 4711 stupid 3");
        assert_eq!(normalise("exit 3", ""), "exit 3");
    }

    #[test]
    fn times_are_replaced_only_with_fraction_and_unit() {
        assert_eq!(normalise("slept 1.0312 s, then 20.5ms", ""), "slept TIME, then TIME");
        assert_eq!(normalise("takes 20 ms or more", ""), "takes 20 ms or more");
        assert_eq!(normalise("version 6.18 says", ""), "version 6.18 says");
    }

    #[test]
    fn the_scratch_folder_has_one_name() {
        assert_eq!(normalise("cwd /tmp/x.1/read.all/d\n", "/tmp/x.1"), "cwd $DIR/read.all/d\n");
    }

    #[test]
    fn text_without_any_of_it_stays_byte_for_byte() {
        let text = "read(fd, buf, 10) = -EBADF\nöäü 0x 0xg\n";
        assert_eq!(normalise(text, ""), text);
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        let once = normalise("0x7f5e91a2b000 pid 12 1.5 s ino=99", "");
        assert_eq!(normalise(&once, ""), once);
    }
}
