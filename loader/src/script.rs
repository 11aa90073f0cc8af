//! `#!` scripts.

use abi::Errno;
use abi::errno::ENOEXEC;

use crate::elf::{ReadAt, read_up_to};

/// Bytes at the head of a file that Linux looks at: `BINPRM_BUF_SIZE`.
pub const HEAD_SIZE: usize = 256;

/// How often an execve(2) may go from a script to its interpreter; the next time is `ELOOP`.
pub const MAX_DEPTH: usize = 5;

/// The first line of a script, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Path of the interpreter; empty when a NUL follows the `#!`.
    pub interpreter: Vec<u8>,
    /// The one optional argument: the rest of the line, blanks inside included.
    pub argument: Option<Vec<u8>>,
}

/// Reads the head of a file into a zeroed buffer, as Linux's `prepare_binprm` does.
///
/// # Errors
/// Those of reading.
pub fn read_head(file: &dyn ReadAt) -> Result<[u8; HEAD_SIZE], Errno> {
    let mut head = [0; HEAD_SIZE];
    read_up_to(file, 0, &mut head)?;
    Ok(head)
}

/// Whether the file says that it is a script.
pub fn is_script(head: &[u8; HEAD_SIZE]) -> bool {
    head.starts_with(b"#!")
}

/// Takes the first line of a script apart.
///
/// # Errors
/// `ENOEXEC`: not a script, no interpreter in the line, or its path is cut off by the end of the head.
///
/// Source: Linux 6.18 fs/binfmt_script.c, `load_script`.
pub fn parse(head: &[u8; HEAD_SIZE]) -> Result<Script, Errno> {
    if !is_script(head) {
        return Err(ENOEXEC);
    }
    let last = HEAD_SIZE - 1;
    // The search for the newline ends at a NUL.
    let newline = head.iter().position(|&b| b == b'\n' || b == 0).filter(|&i| head[i] == b'\n');
    let mut end = match newline {
        Some(i) => i,
        None => {
            let path = skip_blanks(head, 2, last).ok_or(ENOEXEC)?;
            find_terminator(head, path, last).ok_or(ENOEXEC)?;
            last
        }
    };
    // Ends at the '!' at the latest.
    while is_blank(head[end - 1]) {
        end -= 1;
    }
    let path = skip_blanks(head, 2, end).filter(|&i| i != end).ok_or(ENOEXEC)?;
    let separator = find_terminator(head, path, end).filter(|&i| head[i] != 0);
    let argument = separator.and_then(|i| skip_blanks(head, i, end));
    let interpreter = c_string(&head[path..separator.filter(|_| argument.is_some()).unwrap_or(end)]);
    Ok(Script { interpreter, argument: argument.map(|i| c_string(&head[i..end])) })
}

impl Script {
    /// The arguments with which the interpreter is executed: its path, the optional argument, the path of the script,
    /// then the script's own arguments without its `argv[0]`.
    pub fn arguments(&self, script_path: &[u8], args: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut all = Vec::with_capacity(args.len() + 2);
        all.push(self.interpreter.clone());
        all.extend(self.argument.clone());
        all.push(script_path.to_vec());
        all.extend(args.iter().skip(1).cloned());
        all
    }
}

const fn is_blank(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

/// First byte in `from..=last` that is no blank.
fn skip_blanks(head: &[u8], from: usize, last: usize) -> Option<usize> {
    (from..=last).find(|&i| !is_blank(head[i]))
}

/// First blank or NUL in `from..=last`.
fn find_terminator(head: &[u8], from: usize, last: usize) -> Option<usize> {
    (from..=last).find(|&i| is_blank(head[i]) || head[i] == 0)
}

fn c_string(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|&b| b == 0).next().unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests;
