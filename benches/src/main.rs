//! The benchmarks' command line; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringfence_benches::main(std::env::args())
}
