use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use abi::errno::E2BIG;
use ringfence_loader::stack::{MAX_ARG_STRLEN, check_sizes};

use crate::Dir;
use crate::craft::File;

/// The soft limit of this process's stack.
fn stack_limit() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits.lines().find(|l| l.starts_with("Max stack size")).expect("a stack limit");
    line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
}

#[test]
fn arguments_that_are_too_large() {
    let dir = Dir::new("arguments");
    let program = dir.write("program", &File::good(abi::elf::ET_EXEC).build());
    let path = program.as_os_str().as_bytes();
    let fits = |args: &[Vec<u8>], env: &[Vec<u8>]| {
        let mine = match check_sizes(path, args, env, stack_limit()) {
            Ok(()) => 0,
            Err(e) => e.raw(),
        };
        let mut command = Command::new(&program);
        command.args(args[1..].iter().map(|a| std::ffi::OsStr::from_bytes(a))).env_clear();
        for e in env {
            // An environment string is a name, "=" and a value.
            command.env(std::ffi::OsStr::from_bytes(&e[..e.len() - 1]), "");
        }
        let child = command.stdout(Stdio::null()).spawn();
        let native = match child.map(|mut c| c.wait()) {
            Ok(_) => 0,
            Err(e) => e.raw_os_error().expect("an errno"),
        };
        let what = format!("{} arguments, {} strings in the environment", args.len(), env.len());
        assert_eq!(mine, native, "{what}: the host says the latter");
        mine == 0
    };
    let args = |n: usize, len: usize| {
        let mut args = vec![vec![b'x'; len]; n + 1];
        args[0] = path.to_vec();
        args
    };
    let env = |n: usize, len: usize| -> Vec<_> {
        // Names differ, lengths do not.
        let name = |i: usize| [format!("{i:03}").as_bytes(), &vec![b'x'; len - 3], b"="].concat();
        (0..n).map(name).collect()
    };

    assert!(fits(&args(1, MAX_ARG_STRLEN - 1), &[]));
    assert!(!fits(&args(1, MAX_ARG_STRLEN), &[]));
    assert!(fits(&args(1, 1), &env(1, MAX_ARG_STRLEN - 2)));
    assert!(!fits(&args(1, 1), &env(1, MAX_ARG_STRLEN - 1)));

    // The number of strings at which it becomes too much, to the byte.
    for (strings, len) in [(1 << 20, 3), (1 << 16, 100), (64, 100_000)] {
        let (mut low, mut high) = (1, strings);
        while high - low > 1 {
            let middle = (low + high) / 2;
            let known = check_sizes(path, &args(middle, len), &env(3, 5), stack_limit());
            if known == Err(E2BIG) { high = middle } else { low = middle }
        }
        let mut largest = args(low, len);
        assert!(fits(&largest, &env(3, 5)));
        assert!(!fits(&args(high, len), &env(3, 5)));
        // One more byte at a time in the last string.
        while check_sizes(path, &largest, &env(3, 5), stack_limit()).is_ok()
            && largest[1].len() < len + 200_000
        {
            let last = largest.len() - 1;
            if largest[last].len() + 1 >= MAX_ARG_STRLEN {
                break;
            }
            largest[last].push(b'y');
        }
        fits(&largest, &env(3, 5));
        let last = largest.len() - 1;
        largest[last].pop();
        fits(&largest, &env(3, 5));
    }
}
