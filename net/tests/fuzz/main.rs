//! Five seconds of the fuzzer in every test run; `cargo run -p ringfence-net --example fuzz_net` runs it for longer.

mod fuzzer;

use std::time::Duration;

#[test]
fn five_seconds_of_mutated_messages() {
    let report = fuzzer::run(1, Duration::from_secs(5));
    println!("{report}");
    assert!(report.sent > 0 && report.refused > 0 && report.answers > 0 && report.options > 0, "{report}");
}
