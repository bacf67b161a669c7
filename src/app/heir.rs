//! This process takes over from another one.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::StartError;
use crate::admin::console::{Ending, Env};
use crate::process::pidfile;
use crate::upgrade::Last;
use crate::upgrade::taking::{Inheritance, Parting};

/// Takes clients over, and, when the process before this one lets nobody in any more, what the operating system knows it by.
/// What is returned turns true when that one knows that this one ends, and closes when it has ended itself.
pub(super) async fn take_over(inheritance: Inheritance, env: &Env) -> Result<watch::Receiver<bool>, StartError> {
    let (owned, heir) = (inheritance.owned(), env.clone());
    let yours = move || {
        heir.shares.load().iter().zip(owned).for_each(|(share, ours)| share.set_ours(ours));
        Ending::comes_back(&heir.shutdown);
        if let Some(Err(error)) =
            heir.front.config().pidfile.as_deref().map(|path| pidfile::replace(path, std::process::id()))
        {
            tracing::warn!(%error, "the pidfile holds another process");
        }
        heir.notify.ready();
    };
    // The elder's clients would not be held.
    let _ = env.registry.bar();
    let registry = Arc::clone(&env.registry);
    let (lasts, told) = lasts(env);
    let alone = move || registry.unbar();
    inheritance.serve(env.front.clone(), yours, alone, lasts).await.map_err(StartError::Elder)?;
    Ok(told)
}

/// The ways in which this process is told to end, for the one before it; and whether that has been told of one.
fn lasts(env: &Env) -> (mpsc::Receiver<Parting>, watch::Receiver<bool>) {
    let (words, lasts) = mpsc::channel(1);
    let (told, known) = watch::channel(false);
    let mut ending = env.shutdown.subscribe();
    tokio::spawn(async move {
        loop {
            let last = match *ending.borrow_and_update() {
                Ending::Run | Ending::Moved => None,
                Ending::WaitForClients => Some(Last::WaitForClients),
                Ending::WaitForServers => Some(Last::WaitForServers),
                Ending::Now => Some(Last::Now),
            };
            if let Some(last) = last {
                let (sent, word) = oneshot::channel();
                if words.send((last, sent)).await.is_err() || word.await.is_err() {
                    return;
                }
                told.send_replace(true);
            }
            if ending.changed().await.is_err() {
                return;
            }
        }
    });
    (lasts, known)
}
