//! What is left when a driver ends before its window: nothing.

use std::time::Duration;

use super::*;
use crate::auth::users::Users;
use crate::clients::Clients;
use crate::clock::Clock;
use crate::config;
use crate::pool::databases::Databases;
use crate::server::tls::Connector;
use crate::telemetry::metrics;
use crate::window::plan::{Bounds, Stragglers};
use crate::window::registry::{Denied, Refusal, Request};

fn registry() -> Arc<Registry> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pglull.toml");
    std::fs::write(&file, "[pglull]\nauth_type = \"trust\"\n[databases.d]\nhost = \"127.0.0.1\"\n").unwrap();
    let config = config::load(&file).unwrap();
    let clock = Clock::start();
    let users = Users::new(&config);
    let databases = Databases::new(config::Running::new(config), clock, metrics::install(), Connector::default());
    Registry::new(databases, Arc::<Clients>::default(), users, clock, None)
}

fn request(id: &str) -> Request {
    let bounds = Bounds {
        drain: None,
        apply: Duration::from_secs(4),
        hold: None,
        tenure: None,
        stragglers: Stragglers::Abort,
        max_held: 10,
    };
    let request = Request::new(Form::Pause, vec!["d".to_owned()], bounds, "o".to_owned());
    Request { id: Some(id.to_owned()), ..request }
}

/// A window without any bound: the watchdog would never open its gate.
#[tokio::test]
async fn a_dead_driver_leaves_no_gate_shut_and_no_database_taken() {
    let registry = registry();
    let driver = registry.begin_undriven(request("first")).unwrap();
    let (handle, database) = (Arc::clone(&driver.0.handle), Arc::clone(&driver.0.handle.databases[0]));
    let task = tokio::spawn(driver.0.run(driver.1));
    handle.until(|status| status.window.phase == Phase::Holding).await;
    assert!(database.is_shut());
    assert!(matches!(registry.begin(request("second")), Err(Refusal::Busy { .. })));

    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(!database.is_shut(), "the gate is shut for ever");
    let status = handle.until(|status| matches!(status.window.phase, Phase::Closed { .. })).await;
    assert_eq!(status.window.phase.outcome(), Some(&Outcome::Aborted(Reason::DriverDied)));
    assert_eq!(handle.receipt().reason, "the window's driver died");
    assert!(matches!(handle.close(), Err(Denied::Over { .. })));
    registry.begin(request("second")).expect("the database is free");
}

/// A change whose verdict is not known keeps the database from the next window, however its own has ended.
#[tokio::test]
async fn a_change_that_may_still_run_keeps_the_database() {
    let registry = registry();
    let (mut driver, first) = registry.begin_undriven(request("first")).unwrap();
    driver.perform(first);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    driver.applying = Some(tokio::spawn(async move { drop(ended.await) }));
    driver.verdict_due = true;
    let handle = Arc::clone(&driver.handle);
    drop(driver);
    assert_eq!(handle.receipt().outcome, "unknown");
    assert!(registry.live().is_empty());
    let refused = registry.begin(request("second")).expect_err("its change may still run").to_string();
    assert!(refused.contains("has not ended yet"), "{refused}");
    drop(end);
    while registry.begin(request("second")).is_err() {
        tokio::task::yield_now().await;
    }
}

/// A `CLOSE` that would be passed over is refused: whoever has sent it waits for the end.
#[tokio::test]
async fn a_window_by_hand_is_closed_only_when_it_holds() {
    let registry = registry();
    let (mut driver, _) = registry.begin_undriven(Request { form: Form::Open, ..request("hand") }).unwrap();
    let handle = Arc::clone(&driver.handle);
    let way = [(None, "preflight"), (Some(Event::Passed), "recording"), (Some(Event::Recorded), "draining")];
    for (event, expected) in way {
        event.into_iter().for_each(|event| driver.step(event, &mut Vec::new()));
        assert_eq!(driver.phase().as_str(), expected);
        assert!(matches!(handle.close(), Err(Denied::NotNow { phase, .. }) if phase == expected), "{expected}");
    }
    driver.step(Event::Drained, &mut Vec::new());
    assert_eq!((driver.phase().as_str(), handle.close().is_ok()), ("holding", true));
}
