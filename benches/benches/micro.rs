//! `cargo bench`: the single operations, natively and in the sandbox.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Cargo adds `--bench`, which is not for us.
    let args = std::env::args().filter(|arg| arg != "--bench");
    ringfence_benches::main(args.chain(["--micro".to_owned()]))
}
