use super::*;

fn head(text: &[u8]) -> [u8; HEAD_SIZE] {
    let mut head = [0; HEAD_SIZE];
    let n = text.len().min(HEAD_SIZE);
    head[..n].copy_from_slice(&text[..n]);
    head
}

fn parsed(text: &[u8]) -> Result<(String, Option<String>), Errno> {
    let s = parse(&head(text))?;
    let text = |v: Vec<u8>| String::from_utf8(v).unwrap();
    Ok((text(s.interpreter), s.argument.map(text)))
}

#[test]
fn the_line_is_an_interpreter_and_one_argument() {
    assert_eq!(parsed(b"#!/bin/sh\n"), Ok(("/bin/sh".into(), None)));
    assert_eq!(parsed(b"#! \t/bin/sh \t \n"), Ok(("/bin/sh".into(), None)));
    assert_eq!(parsed(b"#!/usr/bin/env -S a  b \nrest"), Ok(("/usr/bin/env".into(), Some("-S a  b".into()))));
    assert_eq!(parsed(b"#!/bin/sh"), Ok(("/bin/sh".into(), None)));
}

#[test]
fn a_line_without_a_name_is_no_script() {
    for text in [&b"#!\n"[..], b"#!  \t\n", b"#", b"", b"!#/bin/sh\n"] {
        assert_eq!(parsed(text), Err(ENOEXEC), "{text:?}");
    }
    assert_eq!(parsed(&[b"#!".to_vec(), vec![b' '; 300]].concat()), Err(ENOEXEC));
}

#[test]
fn a_path_cut_off_by_the_buffer_is_refused_but_an_argument_is_cut() {
    assert_eq!(parsed(&[b"#!/".to_vec(), vec![b'a'; 300]].concat()), Err(ENOEXEC));
    let (path, argument) = parsed(&[b"#!/bin/sh ".to_vec(), vec![b'a'; 300]].concat()).unwrap();
    assert_eq!(path, "/bin/sh");
    assert_eq!(argument.unwrap(), "a".repeat(255 - 10));
}

#[test]
fn the_script_path_replaces_the_first_argument() {
    let script = Script { interpreter: b"/bin/sh".to_vec(), argument: Some(b"-x".to_vec()) };
    let args = script.arguments(b"./s", &[b"zero".to_vec(), b"one".to_vec()]);
    assert_eq!(args, [&b"/bin/sh"[..], b"-x", b"./s", b"one"]);
}
