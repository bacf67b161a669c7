//! The drain bound has passed, and the operator has named a policy: who of those who are still inside is cut, and how.

use std::sync::Arc;
use std::time::Duration;

use super::people::in_transaction;
use super::plan::Stragglers;
use super::receipt::Cut;
use super::registry::{Handle, Registry};
use crate::clients::{Cancel, Client, State};
use crate::config::{Class, Classes, Who};
use crate::server::cancel;
use crate::wire::reply::{Report, sqlstate};

/// How long a cancel may take to be sent.
const SEND: Duration = Duration::from_secs(1);

/// Cuts them. `None`: one of them may not be cut, so that no cut of another would help, and nobody was.
pub(super) fn straggle(registry: &Registry, handle: &Handle, policy: Stragglers) -> Option<Vec<Cut>> {
    let classes = registry.databases.config().window.classes.clone();
    let inside = in_transaction(registry, &handle.databases);
    let fates: Option<Vec<_>> = inside.iter().map(|client| fate(client, &classes, policy)).collect();
    let cut = |(client, fate): (&Arc<Client>, Class)| cut(client, fate, handle);
    Some(inside.iter().zip(fates?).filter_map(cut).collect())
}

/// How this one may be cut: its class says, or else the policy of the window. `None`: not at all.
fn fate(client: &Client, classes: &Classes, policy: Stragglers) -> Option<Class> {
    let application = client.application_name();
    let who = Who { user: &client.user, database: &client.database, application: &application };
    let of_window = match policy {
        Stragglers::Abort | Stragglers::ByClass => None,
        Stragglers::Cancel => Some(Class::Cancel),
        Stragglers::Terminate => Some(Class::Terminate),
    };
    classes.of(who).or(of_window).filter(|class| class.may_be_cut())
}

fn cut(client: &Arc<Client>, fate: Class, handle: &Handle) -> Option<Cut> {
    if fate == Class::Terminate {
        let text = format!("terminating connection: it kept window {} from draining", handle.id);
        client.dismiss(Report::new(sqlstate::ADMIN_SHUTDOWN, text));
    } else {
        // There is nothing to cancel in a silent one: it is its client that keeps it open.
        if client.view().state == State::IdleInTransaction {
            return None;
        }
        let Cancel::Send(link, under_way) = client.cancel() else { return None };
        tokio::spawn(async move {
            if cancel::send(&link, SEND).await.is_ok() {
                under_way.done();
            }
        });
    }
    let policy = fate.as_str();
    tracing::warn!(window = %handle.id, client = client.id.0, user = %client.user, policy, "straggler cut");
    if let Some(database) = handle.databases.iter().find(|database| database.name == client.database) {
        database.metrics.cut(policy);
    }
    Some(Cut {
        database: client.database.clone(),
        kind: "client".into(),
        id: client.id.0,
        user: client.user.clone(),
        application_name: client.application_name(),
        policy: policy.into(),
    })
}
