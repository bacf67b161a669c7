//! Answers that follow each other closely are written one behind the other, when all that has come with them is read: what a write
//! needs of the kernel stays in the processor's caches, and whoever reads them is woken once.

use std::cell::Cell;
use std::pin::pin;
use std::task::Context;
use std::time::Duration;

use crate::ids::Tick;

/// An answer that is read no later than this after another one is put off. About what two transactions take: where answers
/// come less often, whoever waits for one is not made to wait for others.
const CLOSE: Duration = Duration::from_micros(20);

thread_local! {
    /// When this worker has read its last answer.
    static LAST: Cell<Tick> = const { Cell::new(Tick(0)) };
}

/// Whether the answer that was read just now, at `now`, is to be written later. If so, the task's waker is called when this worker
/// has nothing else to do and has looked for what has come, or after 61 polls of other tasks, tokio's `event_interval`. Its
/// `wake_by_ref` would call another worker for it, if one sleeps.
pub(super) fn puts_off(now: Tick, cx: &mut Context<'_>) -> bool {
    let last = LAST.replace(now);
    now.since(last) < CLOSE && pin!(tokio::task::yield_now()).poll(cx).is_pending()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_on_the_heels_of_another_is_put_off_for_one_turn() {
        let put_off = |at: Tick| {
            let mut turns = 0;
            std::future::poll_fn(move |cx| {
                turns += 1;
                if turns == 1 && puts_off(at, cx) { std::task::Poll::Pending } else { std::task::Poll::Ready(turns) }
            })
        };
        let start = 1_000_000_000;
        for (at, turns) in [(0, 1), (19_999, 2), (40_000, 1), (50_000, 2), (1_000_000, 1)] {
            assert_eq!(put_off(Tick(start + at)).await, turns, "{at} ns after the first");
        }
    }
}
