//! A relay between the proxy and Postgres: it holds back what a test wants held back, and counts cancel requests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::postgres::cluster;
use super::wait::{eventually, secs};

/// Where a message that is waited for is caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Catch {
    /// Postgres does not get it.
    Before,
    /// Postgres gets it; what it says from then on is held back.
    After,
}

/// What becomes of what was caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It goes on, whoever is still there.
    GoesOn,
    /// It is lost, and so is its connection, on both sides.
    IsLost,
}

/// A message that is waited for.
struct Trap {
    text: Vec<u8>,
    catch: Catch,
    caught: usize,
    fate: Option<Fate>,
}

/// What is held back, and what was seen.
#[derive(Default)]
struct State {
    trap: Option<Trap>,
    cancels_held: bool,
    answers_held: bool,
    cancels: usize,
    over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, held: impl Fn(&State) -> bool) {
        let state = self.state();
        drop(self.changed.wait_while(state, |state| held(state) && !state.over));
    }
}

/// A running relay to the tests' Postgres; it lets go of everything when it is dropped.
pub(crate) struct Between {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

impl Between {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let of_all = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), shared) = (stream, Arc::clone(&of_all)) else { return };
                if shared.state().over {
                    return;
                }
                thread::spawn(move || relay(stream, &shared));
            }
        });
        Self { port, shared }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.shared.changed.notify_all();
    }

    /// From now on cancel requests wait here before they reach Postgres, or go on.
    pub(crate) fn hold_cancels(&self, held: bool) {
        self.set(|state| state.cancels_held = held);
    }

    /// From now on what Postgres answers waits here, or goes on.
    pub(crate) fn hold_answers(&self, held: bool) {
        self.set(|state| state.answers_held = held);
    }

    /// From now on a connection stands still where the proxy sends this text.
    pub(crate) fn trap(&self, text: &str, catch: Catch) {
        let text = text.as_bytes().to_vec();
        self.set(|state| state.trap = Some(Trap { text, catch, caught: 0, fate: None }));
    }

    /// Waits until something is caught.
    pub(crate) fn caught(&self) {
        eventually("it is caught between proxy and Postgres", secs(20), || {
            self.shared.state().trap.as_ref().is_some_and(|trap| trap.caught > 0)
        });
    }

    /// Nothing more is caught; what was, stands still.
    pub(crate) fn sated(&self) {
        self.set(|state| {
            if let Some(trap) = &mut state.trap {
                trap.text = Vec::new();
            }
        });
    }

    /// What becomes of what was caught; nothing is caught any more.
    pub(crate) fn fate(&self, fate: Fate) {
        self.set(|state| {
            if let Some(trap) = &mut state.trap {
                (trap.fate, trap.text) = (Some(fate), Vec::new());
            }
        });
    }

    /// How many cancel requests have come.
    pub(crate) fn cancels(&self) -> usize {
        self.shared.state().cancels
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.set(|state| state.over = true);
        // The listener's thread looks at it when somebody connects.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn relay(mut proxy: TcpStream, shared: &Arc<Shared>) {
    let mut first = [0; 8];
    if proxy.read_exact(&mut first).is_err() {
        return;
    }
    if first[4..] == 80_877_102_u32.to_be_bytes() {
        shared.state().cancels += 1;
        shared.wait_while(|state| state.cancels_held);
    }
    let Ok(mut postgres) = TcpStream::connect(("127.0.0.1", cluster().port())) else { return };
    let _ = (proxy.set_nodelay(true), postgres.set_nodelay(true));
    if postgres.write_all(&first).is_err() {
        return;
    }
    let (Ok(from), Ok(to)) = (proxy.try_clone(), postgres.try_clone()) else { return };
    // Set when this connection has sent what is waited for, and Postgres got it.
    let mute = Arc::new(AtomicBool::new(false));
    let (asked, asking) = (Arc::clone(shared), Arc::clone(&mute));
    thread::spawn(move || copy(from, to, |bytes| asked.look_for(bytes, &asking)));
    let shared = Arc::clone(shared);
    copy(postgres, proxy, move |_| {
        shared.wait_while(|state| state.answers_held);
        !mute.load(Ordering::Acquire) || shared.await_fate()
    });
}

impl Shared {
    /// Whether these bytes may go on to Postgres; waits for it where they are what is waited for.
    fn look_for(&self, bytes: &[u8], mute: &AtomicBool) -> bool {
        let mut state = self.state();
        let Some(trap) = &mut state.trap else { return true };
        let text = &trap.text;
        if text.is_empty() || !bytes.windows(text.len()).any(|window| window == text) {
            return true;
        }
        trap.caught += 1;
        let catch = trap.catch;
        // Before the bytes go on, so that no answer can be faster.
        mute.store(catch == Catch::After, Ordering::Release);
        drop(state);
        catch == Catch::After || self.await_fate()
    }

    fn await_fate(&self) -> bool {
        let fate = |state: &State| state.trap.as_ref().and_then(|trap| trap.fate);
        self.wait_while(|state| fate(state).is_none());
        fate(&self.state()) == Some(Fate::GoesOn)
    }
}

/// Copies what `before` lets go on; ends both sides where it does not.
fn copy(mut from: TcpStream, mut to: TcpStream, before: impl Fn(&[u8]) -> bool) {
    let mut chunk = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if !before(&chunk[..count]) {
            let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
            return;
        }
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
