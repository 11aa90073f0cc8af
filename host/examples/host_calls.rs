//! Prints the page `docs/host-calls.md`.

fn main() {
    print!("{}", ringfence_host::calls::page());
}
