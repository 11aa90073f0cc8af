//! A guest thread that waits awake lends its processor to the stub's thread that changes mappings.
//!
//! A change that takes something away must reach all processors that the process runs on. Where the guest thread waits awake
//! on another one, the host interrupts it there and waits until it has flushed: in a virtual machine that costs several times
//! what the change itself does. So the guest thread is asked to wake the thread that changes mappings, on its own processor,
//! and to sleep until that is done, while the sentry waits awake for the report. That is a help and no more: a guest thread
//! that does not do what it is asked to is waited for a little, then the sentry wakes that thread itself.
//!
//! One guest thread waits for each thread of the sentry, so who may be asked is noted by thread.

use std::cell::Cell;

use host::mapping::Mapping;
use platform::ThreadPage;
use platform::window::mailbox::{Mailbox, State};

use crate::layout::area;
use crate::shared::Shared;
use crate::stub::turn;

/// How long help is waited for awake, in ticks of the time stamp counter.
const PATIENCE: u64 = 50_000;
/// A guest thread that waits awake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// The command page of its process.
    pub(crate) process: u64,
    /// Where its area is in the control file.
    pub(crate) area: u64,
    /// Where it waits in the window for the answer to a request; `None`: in the handler.
    pub(crate) mailbox: Option<ThreadPage>,
    /// It was asked to lend its processor.
    pub(crate) was_asked: bool,
}

thread_local! {
    static OFFER: Cell<Option<Offer>> = const { Cell::new(None) };
}

/// Notes who waits awake for the calling thread.
pub(crate) fn offer(shared: &Shared, offer: Offer) {
    if shared.lends {
        OFFER.set(Some(offer));
    }
}

/// It does not wait any more, or sleeps. Says whether it was asked to lend its processor.
pub(crate) fn withdraw() -> bool {
    OFFER.take().is_some_and(|offer| offer.was_asked)
}

/// The guest thread of the process with this command page that waits awake for the calling thread.
pub(crate) fn offered(process: u64, shared: &Shared) -> Option<Lender<'_>> {
    let offer = OFFER.get().filter(|offer| offer.process == process)?;
    let lender = Lender { offer, shared, control: &shared.family.control.mapping };
    if offer.was_asked
        && let Some(mailbox) = lender.mailbox()
    {
        // It may not be back yet.
        until(|| mailbox.state() != State::Busy);
    }
    lender.is_awake().then_some(lender)
}

/// Waits awake for a while until something holds; says whether it does.
pub(crate) fn until(holds: impl Fn() -> bool) -> bool {
    if holds() {
        return true;
    }
    let began = host::clock::tsc();
    while host::clock::tsc().wrapping_sub(began) < PATIENCE {
        if holds() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

/// A guest thread that can be asked.
pub(crate) struct Lender<'a> {
    offer: Offer,
    shared: &'a Shared,
    control: &'a Mapping,
}

impl Lender<'_> {
    fn mailbox(&self) -> Option<Mailbox<'_>> {
        self.offer.mailbox.map(|page| Mailbox::new(&*self.shared.memory, page))
    }

    fn is_awake(&self) -> bool {
        match self.mailbox() {
            Some(mailbox) => !mailbox.sleeps(),
            None => self.control.load_u32(self.offer.area + area::GUEST_SLEEPS) == 0,
        }
    }

    /// The processor that it lent the last time, as it says.
    pub(crate) fn processor(&self) -> Option<usize> {
        area::processor(self.control.load_u32(self.offer.area + area::LENT))
    }

    /// Asks it. False: it sleeps, or does something else.
    pub(crate) fn ask(&self) -> bool {
        OFFER.set(Some(Offer { was_asked: true, ..self.offer }));
        match self.mailbox() {
            Some(mailbox) => {
                if !mailbox.ask_to_lend() {
                    return false;
                }
                if mailbox.sleeps() {
                    // It has just fallen asleep, and must not miss that the state has changed.
                    self.shared.memory.wake(mailbox.word_to_wake());
                    return false;
                }
                true
            }
            None => {
                let turn_at = self.offer.area + area::TURN;
                let asked = self.control.compare_exchange_u32(turn_at, turn::SENTRY, turn::LEND);
                // Who has just fallen asleep is woken when its turn comes.
                asked == turn::SENTRY && self.is_awake()
            }
        }
    }
}
