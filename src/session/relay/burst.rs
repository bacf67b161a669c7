//! Answers that follow each other closely are written one behind the other, when all that has come with them is read: what a write
//! needs of the kernel stays in the processor's caches, and whoever reads them is woken once.

use std::cell::Cell;
use std::pin::pin;
use std::task::Context;
use std::time::Duration;

use crate::ids::Tick;

/// An answer that is read no later than this after another one is put off. About what two transactions take: where answers
/// come less often, whoever waits for one is not made to wait for others. Without optimisation everything takes longer.
const CLOSE: Duration = Duration::from_micros(if cfg!(debug_assertions) { 1000 } else { 20 });

thread_local! {
    /// When this worker has read its last answer.
    static LAST: Cell<Tick> = const { Cell::new(Tick(0)) };
}

/// Whether the answer that was read just now, at `now`, is to be written later. If so, the task is polled again behind what can run
/// now and what has come when this worker looks at its sockets next, after 61 polls or so at the latest (tokio's `event_interval`).
/// Its `wake_by_ref` would call another worker for it, if one sleeps.
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
        let close = CLOSE.as_nanos() as u64;
        for (at, turns) in [(0, 1), (close - 1, 2), (2 * close, 1), (2 * close + 1, 2), (9 * close, 1)] {
            assert_eq!(put_off(Tick(start + at)).await, turns, "{at} ns after the first");
        }
    }
}
