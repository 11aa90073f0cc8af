//! Calls through patched sites.
#![allow(clippy::unwrap_used, reason = "an error fails the test")]

mod guest;

#[path = "../../contract/mailbox.rs"]
mod contract;
