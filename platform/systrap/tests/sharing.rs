//! More threads than processors.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/sharing.rs"]
mod contract;

use std::time::Duration;

use guest::platform;
use platform::Platform;

#[test]
fn more_threads_than_processors_keep_their_registers_and_get_their_turns() {
    let Some(p) = platform() else { return };
    let slowest = contract::take_turns(&p, || std::thread::sleep(Duration::from_secs(2)));
    assert!(slowest >= 3, "a thread starved: {:?}", p.counters());
}
