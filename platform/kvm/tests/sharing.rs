//! More threads than vCPUs, and what people are told when KVM cannot be had.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/sharing.rs"]
mod contract;

use std::time::{Duration, Instant};

use guest::*;
use platform::Platform;
use ringfence_platform_kvm::{KvmPlatform, Options};

fn moves(p: &KvmPlatform) -> u64 {
    p.counters().iter().find(|(name, _)| *name == "vcpu_moves").unwrap().1
}

#[test]
fn threads_share_the_vcpus_that_there_are() {
    if platform().is_none() {
        return;
    }
    let options = Options { vcpu_limit: 2, ..Options::default() };
    let p = KvmPlatform::new(&options).unwrap();
    let slowest = contract::take_turns(&p, || {
        // A busy host takes longer until every thread has had its turns.
        let started = Instant::now();
        while moves(&p) <= 10 && started.elapsed() < Duration::from_secs(40) {
            std::thread::sleep(Duration::from_secs(2));
        }
    });
    let counters = p.counters();
    assert!(moves(&p) > 10, "{counters:?}");
    assert!(slowest >= 3, "a thread starved: {counters:?}");
}

fn refusal(device: &str) -> String {
    let options = Options { device: device.into(), ..Options::default() };
    KvmPlatform::new(&options).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn without_kvm_one_line_says_what_to_do() {
    let absent = refusal("/nonexistent/kvm");
    assert!(absent.starts_with("kvm: /nonexistent/kvm: not present: load kvm_intel or kvm_amd"), "{absent}");
    let other = refusal("/dev/null");
    assert!(other.contains("API version -1 instead of 12"), "{other}");
    for text in [absent, other] {
        assert!(!text.contains('\n'));
    }
}
