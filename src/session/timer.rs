//! The timer of a client that waits. One for its life, and not set anew for each waiting: a transaction that waits for a server for
//! less than a millisecond would be dearer by what a timer wheel takes to forget and to learn.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep};

/// Made when it is first needed. For one task, the same for its life.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Pin<Box<Alarm>>>);

pin_project! {
    #[derive(Debug)]
    struct Alarm {
        #[pin]
        sleep: Sleep,
        // It wakes its task, without being polled again.
        armed: bool,
    }
}

impl Timer {
    /// Lets it fire at `due`, or sooner, where it was set for sooner.
    pub(super) fn fires_by(&mut self, due: Instant) {
        if self.0.as_ref().is_none_or(|alarm| alarm.sleep.deadline() > due) {
            self.set(due);
        }
    }

    /// Lets it fire at `due`.
    pub(super) fn set(&mut self, due: Instant) {
        match &mut self.0 {
            Some(alarm) => {
                let alarm = alarm.as_mut().project();
                *alarm.armed = false;
                alarm.sleep.reset(due);
            }
            none => *none = Some(Box::pin(Alarm { sleep: tokio::time::sleep_until(due), armed: false })),
        }
    }

    /// Ready from when it has fired until it is set; never before it is set for the first time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(alarm) = &mut self.0 else { return Poll::Pending };
        if alarm.armed && !alarm.sleep.is_elapsed() {
            return Poll::Pending;
        }
        let alarm = alarm.as_mut().project();
        // One that is pending because this task has had its share has not looked at the time.
        *alarm.armed = has_budget_remaining();
        ready!(alarm.sleep.poll(cx));
        *alarm.armed = false;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_pending(timer: &mut Timer) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(timer.poll(cx).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn it_fires_when_it_is_due_however_often_it_is_polled() {
        let (mut timer, begun) = (Timer::default(), Instant::now());
        assert!(is_pending(&mut timer).await, "never set");
        for (seconds, at) in [(5, 5), (9, 14), (2, 16)] {
            timer.set(Instant::now() + Duration::from_secs(seconds));
            timer.fires_by(Instant::now() + Duration::from_secs(60));
            for _ in 0..3 {
                assert!(is_pending(&mut timer).await);
            }
            std::future::poll_fn(|cx| timer.poll(cx)).await;
            assert_eq!(begun.elapsed(), Duration::from_secs(at));
            std::future::poll_fn(|cx| timer.poll(cx)).await;
        }
        timer.set(Instant::now() + Duration::from_secs(60));
        timer.fires_by(Instant::now() + Duration::from_secs(1));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(17));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_had_its_share_is_woken_too() {
        let mut timer = Timer::default();
        timer.set(Instant::now() + Duration::from_secs(1));
        std::future::poll_fn(|cx| {
            // As a task does that has read and written a lot before it comes here.
            while has_budget_remaining() {
                std::task::ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
            }
            Poll::Ready(())
        })
        .await;
        std::future::poll_fn(|cx| timer.poll(cx)).await;
    }
}
