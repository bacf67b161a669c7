//! The verbs that act on clients, servers and the process: `RECONNECT`, `WAIT_CLOSE`, `KILL`, `KILL_CLIENT`, `DISABLE`,
//! `ENABLE`, `SHUTDOWN`.

use std::sync::Arc;
use std::time::Duration;

use super::command::{self, Command};
use super::console::{Answer, Ending, Env, Problem};
use super::operator::{Interrupt, Operator};
use super::{show, windows};
use crate::clients::Client;
use crate::wire::reply::{Report, sqlstate};

/// How long `KILL` waits until everybody has really gone, before it answers all the same.
const KILL_BOUND: Duration = Duration::from_secs(5);

/// Carries out one of them.
pub(super) async fn run(command: Command, operator: &mut Operator, env: &Env) -> Result<Answer, Problem> {
    match command {
        Command::Reconnect { database } => {
            show::scope(database.as_deref(), env)?.iter().for_each(|database| database.reconnect());
            Ok(Answer::Done("RECONNECT"))
        }
        Command::WaitClose { database } => {
            let databases = show::scope(database.as_deref(), env)?;
            let renewed = async {
                for database in &databases {
                    database.renewed().await;
                }
            };
            unless_interrupted(renewed, operator).await?;
            Ok(Answer::Done("WAIT_CLOSE"))
        }
        Command::Kill { database } => kill(database.as_deref(), operator, env).await,
        Command::KillClient(id) => kill_client(id, env),
        Command::Disable { database } => {
            show::scope(Some(&database), env)?.iter().for_each(|database| database.disable());
            Ok(Answer::Done("DISABLE"))
        }
        Command::Enable { database } => {
            show::scope(Some(&database), env)?.iter().for_each(|database| database.enable());
            Ok(Answer::Done("ENABLE"))
        }
        Command::Shutdown(how) => {
            use command::Shutdown;
            let ending = match how {
                Shutdown::WaitForClients => Ending::WaitForClients,
                Shutdown::WaitForServers => Ending::WaitForServers,
                Shutdown::Now => Ending::Now,
            };
            env.shutdown.send_if_modified(|now| std::mem::replace(now, ending.max(*now)) != *now);
            Ok(Answer::Done("SHUTDOWN"))
        }
        other => {
            let text = format!("{} is not in this version yet", windows::brief(&other));
            Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, text).into())
        }
    }
}

/// Waits for something while the operator is there and does not cancel.
pub(super) async fn unless_interrupted<T>(
    wait: impl Future<Output = T>,
    operator: &mut Operator,
) -> Result<T, Problem> {
    tokio::select! {
        biased;
        done = wait => Ok(done),
        interrupt = operator.interrupted() => Err(match interrupt {
            Interrupt::Gone => Problem::Gone,
            Interrupt::Cancelled => cancelled().into(),
        }),
    }
}

/// What Postgres says of a statement that was cancelled.
pub(super) fn cancelled() -> Report {
    Report::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

fn farewell() -> Report {
    Report::new(sqlstate::ADMIN_SHUTDOWN, "admin forced disconnect")
}

/// Drops all clients and servers, and leaves the databases paused as PgBouncer does: who comes back waits for `RESUME`,
/// and not for longer than `pause_max`. What the clients were doing is cancelled and rolled back.
async fn kill(database: Option<&str>, operator: &mut Operator, env: &Env) -> Result<Answer, Problem> {
    let databases = show::scope(database, env)?;
    windows::shut_for_kill(&databases, &operator.name, env)?;
    let ours = |client: &Arc<Client>| databases.iter().any(|database| database.name == client.database);
    env.front.clients.list().into_iter().filter(ours).for_each(|client| client.dismiss(farewell()));
    databases.iter().for_each(|database| database.reconnect());
    let gone = async {
        for database in &databases {
            database.renewed().await;
        }
    };
    match unless_interrupted(tokio::time::timeout(KILL_BOUND, gone), operator).await? {
        Ok(()) => {}
        Err(_) => {
            operator.notice("some servers are still being cleaned up: WAIT_CLOSE waits for them".to_owned()).await?
        }
    }
    Ok(Answer::Done("KILL"))
}

fn kill_client(id: u64, env: &Env) -> Result<Answer, Problem> {
    let mut everybody = env.front.clients.list();
    everybody.extend(env.front.clients.operators().list());
    let Some(client) = everybody.iter().find(|client| client.id.0 == id) else {
        return Err(Report::new(sqlstate::UNDEFINED_OBJECT, format!("no such client: {id}"))
            .hint("SHOW CLIENTS has their ids.")
            .into());
    };
    client.dismiss(farewell());
    Ok(Answer::Done("KILL_CLIENT"))
}
