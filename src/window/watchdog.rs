//! The last line: a thread of its own that opens every gate that is shut past its bound, whatever has died.
//!
//! It does not depend on the runtime's timers or on any task; a driver that is stuck, a runtime without a free thread or
//! a timer that is late (tokio#8334) cannot keep clients held.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::clock::Clock;
use crate::pool::databases::Databases;
use crate::pool::gate::Gate;

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(20);
/// How long after the bound it waits for the driver, which should have opened the gate by then.
const GRACE: Duration = Duration::from_millis(30);

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    /// Starts it. Must be called inside the runtime whose tasks the opened gates wake.
    ///
    /// # Errors
    /// If the thread cannot be started; the proxy must not run without it.
    pub fn start(databases: Arc<Databases>, clock: Clock) -> std::io::Result<Self> {
        let (alive, watched) = mpsc::channel();
        let runtime = tokio::runtime::Handle::current();
        let look = move || {
            let _inside = runtime.enter();
            while watched.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
                for database in databases.list() {
                    let (gate, ..) = database.pulse();
                    if let Gate::Shut { epoch, bound: Some(bound), .. } = gate
                        && clock.now() >= bound.plus(GRACE)
                        && database.open(epoch)
                    {
                        tracing::error!(database = %database.name, "the watchdog opened a gate that was shut past its bound");
                    }
                }
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(look)?;
        Ok(Self { _alive: alive })
    }
}
