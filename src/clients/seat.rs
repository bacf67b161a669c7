//! Where a client's task is woken, and where it gets the answer that it waits for. One for its life: a channel for each waiting
//! would be made and thrown away as often as a transaction begins.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::ids::WaiterId;
use crate::server::conn::Rested;
use crate::wire::reply::Report;

/// What a client that waits to begin a transaction is told in the end.
#[derive(Debug)]
pub enum Word {
    /// Begin.
    Go {
        /// A server, if one was needed. It counts as lent.
        server: Option<Rested>,
        /// How long a shut gate kept the client, if one did.
        stall: Option<Duration>,
    },
    /// There is no server to be had.
    No(Box<Report>),
}

/// See the module's text. `A` is what is told: a [`Word`].
#[derive(Debug)]
pub struct Seat<A> {
    /// The number of the waiting that is to be answered; [`NOBODY`] where none is.
    turn: AtomicU64,
    /// There is an answer, or was: a look at this is enough where there is none.
    answered: AtomicBool,
    place: Mutex<Place<A>>,
}

#[derive(Debug)]
struct Place<A> {
    /// Of its task. Stays when it is used: a task that has given it once is woken at every word.
    waker: Option<Waker>,
    answer: Option<A>,
}

/// No waiting has this number.
const NOBODY: u64 = 0;

impl<A> Default for Seat<A> {
    fn default() -> Self {
        let place = Mutex::new(Place { waker: None, answer: None });
        Self { turn: AtomicU64::new(NOBODY), answered: AtomicBool::new(false), place }
    }
}

impl<A> Seat<A> {
    fn place(&self) -> MutexGuard<'_, Place<A>> {
        // Each write below is a plain assignment: a panic elsewhere leaves nothing half done.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this one is woken.
    pub fn listen(&self, waker: &Waker) {
        let mut place = self.place();
        if !place.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            place.waker = Some(waker.clone());
        }
    }

    /// Wakes the task.
    pub fn wake(&self) {
        let place = self.place();
        if let Some(waker) = &place.waker {
            waker.wake_by_ref();
        }
    }

    /// For its own task, or on its behalf: it begins to wait under this number. Before anybody can know that number.
    pub fn sit(&self, turn: WaiterId) {
        self.turn.store(turn.0, Ordering::Release);
    }

    /// Answers that waiting, and wakes the task.
    ///
    /// # Errors
    /// The answer itself, where nobody waits under that number any more.
    pub fn answer(&self, turn: WaiterId, answer: A) -> Result<(), A> {
        let mut place = self.place();
        if self.turn.load(Ordering::Acquire) != turn.0 {
            return Err(answer);
        }
        self.turn.store(NOBODY, Ordering::Release);
        place.answer = Some(answer);
        self.answered.store(true, Ordering::Release);
        if let Some(waker) = &place.waker {
            waker.wake_by_ref();
        }
        Ok(())
    }

    /// For its own task, which [listens](Self::listen): the answer, once.
    pub fn answered(&self) -> Option<A> {
        if self.answered.load(Ordering::Acquire) { self.rise() } else { None }
    }

    /// For its own task: it does not wait any more. The answer, if it has got one; from now on it gets none.
    pub fn rise(&self) -> Option<A> {
        let mut place = self.place();
        self.turn.store(NOBODY, Ordering::Release);
        self.answered.store(false, Ordering::Release);
        place.answer.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn an_answer_is_had_once_and_only_by_the_waiting_that_it_is_for() {
        let (seat, bell) = (Seat::default(), Arc::new(Bell::default()));
        seat.listen(&Waker::from(Arc::clone(&bell)));
        let rung = || bell.0.load(Ordering::SeqCst);
        assert_eq!(seat.answer(WaiterId(1), "too early"), Err("too early"));
        seat.sit(WaiterId(1));
        assert_eq!((seat.answered(), rung()), (None, 0));
        assert_eq!((seat.answer(WaiterId(1), "first"), rung()), (Ok(()), 1));
        assert_eq!(seat.answer(WaiterId(1), "again"), Err("again"));
        assert_eq!((seat.answered(), seat.answered(), seat.rise()), (Some("first"), None, None));
        // Given up before the answer, and after.
        seat.sit(WaiterId(2));
        assert_eq!(seat.rise(), None);
        assert_eq!(seat.answer(WaiterId(2), "late"), Err("late"));
        seat.sit(WaiterId(3));
        assert_eq!(seat.answer(WaiterId(2), "later"), Err("later"));
        assert_eq!(seat.answer(WaiterId(3), "third"), Ok(()));
        assert_eq!((seat.rise(), seat.answered(), rung()), (Some("third"), None, 2));
        seat.wake();
        assert_eq!(rung(), 3);
    }

    /// An answer is either had by its waiting or comes back to the one who gave it, whatever happens between the two.
    #[test]
    fn no_answer_is_lost_between_two_threads() {
        let seat = Arc::new(Seat::default());
        let (to, turns) = std::sync::mpsc::channel();
        let answers = Arc::clone(&seat);
        let giver = std::thread::spawn(move || {
            turns.into_iter().filter(|turn| answers.answer(WaiterId(*turn), *turn).is_err()).collect::<Vec<u64>>()
        });
        let mut had = Vec::new();
        for turn in 1..=20_000 {
            seat.sit(WaiterId(turn));
            to.send(turn).unwrap();
            let mut answer = None;
            // Some give up at once, others look for a while.
            for _ in 0..turn % 40 {
                answer = answer.or_else(|| seat.answered());
            }
            had.extend(answer.or_else(|| seat.rise()));
        }
        drop(to);
        let mut all = giver.join().unwrap();
        assert!(had.iter().all(|turn| !all.contains(turn)));
        all.append(&mut had);
        all.sort_unstable();
        assert_eq!(all, (1..=20_000).collect::<Vec<_>>());
    }
}
