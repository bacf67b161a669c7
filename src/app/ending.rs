//! Signals, and the end of the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::admin::console::{self, Ending, Env};
use crate::admin::reload;
use crate::wire::reply::{Report, sqlstate};

/// The signals that mean something; none of them has its default effect any more.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Takes signals and the console's `SHUTDOWN` until the process is to end. As PgBouncer 1.23 and later: TERM waits for
/// clients, INT for servers, QUIT is at once; a second one of the first two is harder.
pub(super) async fn signals(env: &Env, mut ending: watch::Receiver<Ending>, mut heard: Signals) {
    let wish = |wish: Ending| {
        env.shutdown.send_modify(|now| *now = if *now >= wish { Ending::Now } else { wish });
    };
    let mut closing = Box::pin(close(env, env.shutdown.subscribe()));
    loop {
        tokio::select! {
            biased;
            () = &mut closing => return,
            // What it returns is a lock: whoever wants to tell an ending meanwhile would wait for it.
            () = async { drop(ending.wait_for(|ending| *ending == Ending::Now).await) } => {
                if env.front.door.way.load().is_none() {
                    env.notify.stopping();
                }
                env.front.door.closing.store(true, Ordering::Release);
                dismiss_all(env).await;
                return;
            }
            _ = heard.terminate.recv() => wish(Ending::WaitForClients),
            _ = heard.interrupt.recv() => wish(Ending::WaitForServers),
            _ = heard.quit.recv() => wish(Ending::Now),
            _ = heard.hangup.recv() => drop(tokio::spawn(reload::signalled(env.clone()))),
            _ = heard.user1.recv() => drop(tokio::spawn(console::pause_all(env.clone()))),
            _ = heard.user2.recv() => drop(tokio::spawn(console::resume_all(env.clone()))),
        }
    }
}

/// Waits until the process is asked to end, ends windows first, then waits for clients or servers.
async fn close(env: &Env, mut ending: watch::Receiver<Ending>) {
    /// How long connections that were accepted just before have to say who they are.
    const GREETING: Duration = Duration::from_secs(1);
    let _ = ending.wait_for(|ending| *ending > Ending::Moved).await;
    tracing::info!(how = ?*ending.borrow(), "shutting down");
    let since = env.front.clock.now();
    if env.front.door.way.load().is_none() {
        env.notify.stopping();
    }
    env.front.door.closing.store(true, Ordering::Release);
    // Nobody listens any more: who comes now is refused rather than left waiting.
    env.shares.store(Arc::default());
    env.registry.shut_down().await;
    let mut period = tokio::time::interval(Duration::from_millis(20));
    loop {
        period.tick().await;
        let how = *ending.borrow();
        let left = env.front.clients.count();
        let waited = env.front.clock.now().since(since);
        // Whoever is logging in is told; one that says nothing is not waited for.
        if left == 0 && (env.front.logging_in() == 0 || waited >= GREETING) {
            return;
        }
        if env.front.config().shutdown_timeout.is_some_and(|bound| waited >= bound) {
            tracing::warn!(clients = left, "shutdown_timeout: ending although clients are connected");
            env.shutdown.send_replace(Ending::Now);
            // What that means is seen to elsewhere.
            return std::future::pending().await;
        }
        if how == Ending::WaitForServers {
            // Those between transactions go now; the others at their next boundary.
            env.front.clients.list().iter().for_each(|client| client.dismiss_at_rest(farewell()));
        }
    }
}

fn farewell() -> Report {
    Report::new(sqlstate::ADMIN_SHUTDOWN, "pooler is shutting down")
}

async fn dismiss_all(env: &Env) {
    env.registry.shut_down().await;
    env.front.clients.list().iter().for_each(|client| client.dismiss(farewell()));
    // Farewells are short; whoever does not read his does not keep the process.
    let gone = async {
        while env.front.clients.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
}

/// Waits until the console has answered its commands: whoever runs a window is told how it ended.
pub(super) async fn answered(env: &Env) {
    let mut answering = env.answering.subscribe();
    let quiet = answering.wait_for(|count| *count == 0);
    let _ = tokio::time::timeout(Duration::from_secs(1), quiet).await;
}
