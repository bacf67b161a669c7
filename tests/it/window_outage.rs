//! Postgres is stopped hard and comes back, or another server takes its place, in each phase of a window.

use pglull::demo::cluster::Cluster;

use crate::support::own::{Own, answers, can_have_standbys, options};
use crate::support::wait::{eventually, secs};
use crate::support::wire::Wire;

const FOR_LONG: &str = "; SELECT pg_sleep(20)";

impl Own {
    fn add(&self, column: &str) -> String {
        assert!(!self.has_column(column));
        format!("ALTER TABLE accounts ADD COLUMN {column} int")
    }

    fn held(&self) -> Wire {
        let mut wire = self.proxy.client().login();
        wire.start("SELECT 'served'").unwrap();
        self.proxy.until_held(1);
        wire
    }

    fn outcome(&self, id: &str) -> String {
        let window = self.proxy.closed(id);
        println!("{id}: {} after {} ms: {}", window["outcome"], window["hold_ms"], window["reason"]);
        window["outcome"].clone()
    }

    /// Clients are served, and the next window can do its work.
    fn goes_on(&self, id: &str, column: &str) {
        self.serves_again();
        eventually("the next window applies its change", secs(15), || {
            self.proxy.apply(id, "", &self.add(column)).finish().is_ok()
        });
        assert!(self.has_column(column));
    }
}

/// While the window holds or drains its change has not begun; in the change it is lost with its backend.
#[test]
fn w07_postgres_is_stopped_and_started_again_in_each_phase() {
    let mut own = Own::start();
    own.proxy.still_serves();

    let mut open = own.proxy.client().login();
    open.ok("BEGIN");
    let _window = own.proxy.apply("draining", "drain='8s', hold='10s'", &own.add("a"));
    own.proxy.until_phase("draining", "draining");
    let held = own.held();
    own.stop_and_start();
    assert_eq!(own.outcome("draining"), "aborted");
    println!("the held client got {:?}", answers(held));
    assert!(!own.has_column("a"));
    own.goes_on("draining", "a");

    let window = own.proxy.open("holding", "hold='30s', tenure='30s'");
    let held = own.held();
    own.cluster.halt();
    assert_eq!(own.proxy.window("holding")["phase"], "holding", "nothing of the window needs Postgres");
    own.cluster.start_again(own.cluster.port()).unwrap();
    own.proxy.close("holding", &window["token"]);
    assert_eq!(answers(held), Ok("served".to_owned()), "Postgres was back before the hold was over");
    assert_eq!(own.outcome("holding"), "applied");

    let mut window = own.proxy.apply("applying", "apply='8s', hold='10s'", &(own.add("b") + FOR_LONG));
    own.proxy.until_phase("applying", "applying");
    let held = own.held();
    own.stop_and_start();
    window.finish().unwrap_err();
    assert_eq!(own.outcome("applying"), "aborted", "Postgres is back, and says so");
    println!("the held client got {:?}", answers(held));
    assert!(!own.has_column("b"));
    own.goes_on("applying", "b");

    let window = own.proxy.open("releasing", "hold='30s', tenure='30s'");
    let ask = |_| {
        let mut wire = own.proxy.client().login();
        wire.start("SELECT pg_sleep(0.2)::text || 'served'").unwrap();
        wire
    };
    let held: Vec<Wire> = (0..20).map(ask).collect();
    own.proxy.until_held(20);
    own.proxy.close("releasing", &window["token"]);
    own.stop_and_start();
    let served = held.into_iter().map(answers).filter(Result::is_ok).count();
    println!("{served} of 20 were served");
    assert_eq!(own.outcome("releasing"), "applied");
    own.goes_on("next", "c");

    // The proxy dies as well, and is there again before Postgres is.
    let _window = own.proxy.apply("recovering", "apply='8s', hold='10s'", &(own.add("d") + FOR_LONG));
    own.proxy.until_phase("recovering", "applying");
    own.proxy.kill();
    own.cluster.halt();
    own.proxy.restart();
    assert_eq!(own.proxy.window("recovering")["phase"], "recovering");
    own.cluster.start_again(own.cluster.port()).unwrap();
    assert_eq!(own.outcome("recovering"), "aborted");
    own.goes_on("recovering", "d");
}

/// The standby takes over, once under the address that the primary had, once under its own, which the configuration says then.
#[test]
fn w07_a_standby_takes_over_in_the_change_and_in_the_hold() {
    if !can_have_standbys() {
        return;
    }
    let mut own = Own::start();
    let promote = |own: &Own, port: u16| {
        let mut wire = own.direct_at(port).login();
        wire.ok("SELECT pg_promote()");
        assert_eq!(wire.one("SELECT pg_is_in_recovery()::text"), "false");
        wire.close();
    };
    let standby_of = |cluster: &Cluster| cluster.standby(options()).unwrap();

    let mut standby = standby_of(&own.cluster);
    let mut window = own.proxy.apply("change", "apply='8s', hold='10s'", &(own.add("a") + FOR_LONG));
    own.proxy.until_phase("change", "applying");
    let held = own.held();
    let address = own.cluster.port();
    own.cluster.halt();
    standby.halt();
    standby.start_again(address).unwrap();
    own.cluster = standby;
    promote(&own, address);
    window.finish().unwrap_err();
    assert_eq!(own.outcome("change"), "aborted", "the new primary knows that it is not committed");
    println!("the held client got {:?}", answers(held));
    assert!(!own.has_column("a"));
    own.goes_on("change", "a");

    let mut standby = standby_of(&own.cluster);
    let window = own.proxy.open("hold", "hold='30s', tenure='30s'");
    let held = own.held();
    own.cluster.halt();
    promote(&own, standby.port());
    std::mem::swap(&mut own.cluster, &mut standby);
    let port = own.cluster.port();
    own.proxy.edit(|text| text.replace(&format!("port = {address}\n"), &format!("port = {port}\n")));
    own.proxy.admin("RELOAD");
    own.proxy.close("hold", &window["token"]);
    assert_eq!(answers(held), Ok("served".to_owned()), "by the new primary");
    assert_eq!(own.outcome("hold"), "applied");
    own.goes_on("next", "b");
}

/// Where a standby has to confirm a COMMIT and does not, Postgres gives up waiting when it is told to stop: the change is
/// there, and nobody knows whether it is elsewhere too.
#[test]
fn a_commit_that_no_standby_has_confirmed_says_so() {
    const WARNED: &str = "canceling wait for synchronous replication due to user request";
    let own = Own::start();
    // The change table is there from now on.
    own.proxy.apply("before", "", "SELECT 1").finish().unwrap();
    let mut root = own.direct();
    root.ok("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    root.ok("SELECT pg_reload_conf()");
    let mut asked = own.direct();
    eventually("it is in force", secs(10), || asked.one("SHOW synchronous_standby_names") == "nobody");
    let reply = own.proxy.apply("alone", "apply='2s'", "ALTER TABLE accounts ADD COLUMN extra int").finish().unwrap();
    assert!(own.has_extra());
    assert!(reply.notices.iter().any(|notice| notice.message.contains(WARNED)), "{:?}", reply.notices);
    let shown = own.proxy.closed("alone");
    assert_eq!(shown["outcome"], "applied");
    for part in [WARNED, "might not have been replicated"] {
        assert!(shown["reason"].contains(part), "{}", shown["reason"]);
    }
    let receipt: serde_json::Value = serde_json::from_str(&shown["receipt"]).unwrap();
    assert!(receipt["notices"].to_string().contains(WARNED) && receipt["reason"] == shown["reason"], "{receipt}");
}
