use abi::elf::ET_EXEC;

use crate::craft::File;
use crate::predict::predict;
use crate::{Dir, execute};

#[test]
fn first_lines() {
    let dir = Dir::new("scripts");
    let interp = dir.write("i", &File::good(ET_EXEC).build());
    let i = interp.to_str().expect("a path in UTF-8");
    let long = "x".repeat(300);
    let fill = |n: usize| "y".repeat(n - i.len());
    let lines = [
        format!("#!{i}\n"),
        format!("#!{i}"),
        format!("#! \t {i} \t \n"),
        format!("#!{i} one\n"),
        format!("#!{i} one two  three \t\n"),
        format!("#!{i} "),
        format!("#!{i}\t"),
        format!("#!{i} x"),
        format!("#!{i}  \n\n"),
        format!("#!{i}\r\n"),
        format!("#!{i}\0\n"),
        format!("#!{i}\0x\n"),
        format!("#!{i} a\0b\n"),
        format!("#!{i} \0\n"),
        format!("#!\0{i}\n"),
        format!("#!{i} {long}\n"),
        format!("#!{i} {long}"),
        format!("#!{i} {} \n", fill(252)),
        // The newline at the last places that are looked at.
        format!("#!{i} {}\n", fill(252)),
        format!("#!{i} {}\n", fill(253)),
        format!("#!{i} {}\n", fill(254)),
        format!("#!{i}{}{long}", " ".repeat(253 - i.len())),
        format!("#!{i}{}{long}", " ".repeat(254 - i.len())),
        format!("#!/{long}\n"),
        format!("#!/{long}"),
        format!("#!{}{i}\n", " ".repeat(252 - i.len())),
        format!("#!{}{i}\n", " ".repeat(253 - i.len())),
        format!("#!{}{i}\n", " ".repeat(254 - i.len())),
        format!("#!{}\n", " ".repeat(300)),
        "#!\n".into(),
        "#!".into(),
        "#! \n".into(),
        "#!\t".into(),
        "#".into(),
        "\n#!/bin/true".into(),
        "#!nonexistent\n".into(),
        "#!/\n".into(),
        "#!/dev/null\n".into(),
    ];
    for line in &lines {
        let path = dir.write("script", line.as_bytes());
        for args in [&["zero", "one", ""][..], &["zero"]] {
            let expected = execute(&path, args);
            assert_eq!(predict(&path, args), expected, "{line:?}: the host says the latter");
        }
    }
}

#[test]
fn scripts_of_scripts() {
    let dir = Dir::new("nested");
    let mut below = dir.write("i", &File::good(ET_EXEC).build());
    for depth in 1..=7 {
        let path = dir.path.join(format!("s{depth}"));
        below = dir.write(&format!("s{depth}"), format!("#!{} arg{depth}\n", below.display()).as_bytes());
        assert_eq!(path, below);
        let expected = execute(&below, &["zero", "one"]);
        assert_eq!(predict(&below, &["zero", "one"]), expected, "depth {depth}: the host says the latter");
    }
}
