//! Five seconds of the fuzzer in every test run; `cargo run -p ringfence-loader --example fuzz_loader` runs it for longer.

mod fuzzer;

use std::time::Duration;

#[test]
fn five_seconds_of_mutated_programs() {
    let report = fuzzer::run(1, Duration::from_secs(5));
    println!("{report}");
    assert!(report.parsed > 0 && report.placed > 0 && report.refused > 0 && report.scripts > 0, "{report}");
}
