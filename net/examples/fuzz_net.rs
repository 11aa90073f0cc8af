//! Feeds sockets with mutated messages: `cargo run -p ringfence-net --example fuzz_net -- [--seconds N] [--seed S]`.
//!
//! The same seed gives the same messages. It stops at the first broken promise, by a panic whose message names the round.

#[path = "../tests/fuzz/fuzzer.rs"]
mod fuzzer;

use std::time::Duration;

fn main() -> Result<(), String> {
    let (mut seconds, mut seed) = (60, 1);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value =
            args.next().and_then(|v| v.parse().ok()).ok_or(format!("{option}: a number must follow"))?;
        match option.as_str() {
            "--seconds" => seconds = value,
            "--seed" => seed = value,
            _ => return Err(format!("{option}: unknown option (known: --seconds N, --seed S)")),
        }
    }
    println!("{}", fuzzer::run(seed, Duration::from_secs(seconds)));
    Ok(())
}
