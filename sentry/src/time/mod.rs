//! Time: the clocks that guests read, with and without a system call, and timers.
//!
//! Reading order: `clock.rs` (how the guest's clocks follow the host's), `vvar.rs` (how readers get at them), `alarms.rs`
//! (the thread that waits for times), `cpu.rs` (processor time), `timers.rs` (the timers of processes).

use base::alarm::AlarmClock;

pub mod alarms;
pub mod clock;
pub mod cpu;
pub mod timers;
pub mod vvar;

pub use alarms::AlarmService;
pub use clock::{Calibration, Clock, Timekeeper};

/// A clock as system calls name it.
#[derive(Clone, Debug)]
pub enum ClockId {
    /// One that timers run by.
    Alarm {
        /// The clock.
        alarm: AlarmClock,
        /// Whether it would wake the machine.
        wakes: bool,
        /// What it is ahead of `alarm`, ns.
        ahead_ns: i64,
    },
    /// Processor time.
    Cpu(cpu::CpuClock),
    /// One that can only be read.
    Plain(Clock),
}
