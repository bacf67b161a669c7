//! A relay between the proxy and Postgres: it holds back what a test wants held back, and counts cancel requests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::postgres::cluster;

/// What is held back, and what was seen.
#[derive(Default)]
struct State {
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
    thread::spawn(move || copy(from, to, || {}));
    let shared = Arc::clone(shared);
    copy(postgres, proxy, move || shared.wait_while(|state| state.answers_held));
}

fn copy(mut from: TcpStream, mut to: TcpStream, before: impl Fn()) {
    let mut chunk = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        before();
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
