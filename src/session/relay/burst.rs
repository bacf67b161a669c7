//! Answers that follow each other closely are written one behind the other, when all that has come with them is read: what a write
//! needs of the kernel stays in the processor's caches, and whoever reads them is woken once.

use std::cell::Cell;
use std::pin::pin;
use std::task::Context;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::ids::Tick;

/// An answer that is read no later than this after another one is put off. About what two transactions take: where answers
/// come less often, whoever waits for one is not made to wait for others. Without optimisation everything takes longer.
const CLOSE: Duration = Duration::from_micros(if cfg!(debug_assertions) { 1000 } else { 20 });

thread_local! {
    /// When this worker has read its last answer.
    static LAST: Cell<Tick> = const { Cell::new(Tick(0)) };
    /// Whether it is the only one.
    static ALONE: bool = Handle::try_current().is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::CurrentThread);
}

/// Whether the answer that was read just now, at `now`, is to be written later. If so, the task is polled again behind what can run
/// now; where there are several workers, and to be woken would call another one if it sleeps, also behind what has come when this
/// one looks at its sockets next, after 61 polls or so at the latest (tokio's `event_interval`).
pub(super) fn puts_off(now: Tick, cx: &mut Context<'_>) -> bool {
    let last = LAST.replace(now);
    if now.since(last) >= CLOSE {
        return false;
    }
    if !ALONE.with(|alone| *alone) {
        return pin!(tokio::task::yield_now()).poll(cx).is_pending();
    }
    cx.waker().wake_by_ref();
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// How often a task's waker is woken at once for an answer that is put off.
    async fn woken_at_once() -> usize {
        struct Counter(AtomicUsize);
        impl Wake for Counter {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        assert!(puts_off(LAST.get(), &mut Context::from_waker(&Waker::from(Arc::clone(&counter)))));
        counter.0.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn the_only_worker_takes_what_can_run_first() {
        assert_eq!(woken_at_once().await, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_other_worker_is_called_for_what_is_put_off() {
        assert_eq!(tokio::spawn(woken_at_once()).await.unwrap(), 0);
    }

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
