use super::*;

#[test]
fn replies_that_are_too_short_are_errors() {
    let mut reply = Reply(b"abc");
    assert_eq!(reply.u32(), Err(EIO));
    let mut reply = Reply(&[1, 0, 0, 0, 2]);
    assert_eq!(reply.u32(), Ok(1));
    assert_eq!(reply.u64(), Err(EIO));
}

#[test]
fn a_server_of_another_version_is_not_believed() {
    let connection = Connection::default();
    connection.begin();
    connection.init(&Ok(vec![6, 0, 0, 0, 1, 0, 0, 0]));
    assert!(connection.state.lock().is_over);
}
