//! Databases that the entry `*` makes: for those who may log in only, not too many, and not for ever.

use crate::auth::refused;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};
use crate::support::wire::Target;

fn known(proxy: &Proxy) -> Vec<String> {
    proxy.admin("SHOW DATABASES").maps().into_iter().map(|row| row["name"].clone()).collect()
}

#[test]
fn automatic_databases_are_few_and_are_forgotten() {
    let (db, others) = (Db::new(), [Db::new(), Db::new(), Db::new()]);
    let spec = Spec::of(&db).fallback(&db).text("auth_type", "scram-sha-256");
    let spec = spec.num("max_auto_databases", 2).text("autodb_idle_timeout", "1s");
    let spec = others.iter().fold(spec, |spec, other| spec.user(&other.user, &other.password));
    let proxy = spec.start();
    // Whoever cannot log in makes none, whatever it asks for.
    for number in 0..5 {
        let name = format!("made_up_{number}");
        refused(&Target { database: name, password: "wrong".to_owned(), ..proxy.client() });
    }
    assert!(!known(&proxy).iter().any(|name| name.starts_with("made_up")));
    // Nor does whoever only looks.
    let mut scribe = Target::new(proxy.client().addr, "scribe", "scribe pw", "pgbouncer").login();
    for look in ["SHOW HELD made_up", "SHOW BLOCKERS made_up"] {
        assert_eq!(scribe.ok(look).rows.len(), 0);
    }
    assert!(!known(&proxy).iter().any(|name| name.starts_with("made_up")));
    let mut first = proxy.client_of(&others[0]).login();
    let mut second = proxy.client_of(&others[1]).login();
    assert_eq!(first.one("SELECT current_database()"), others[0].name);
    let labelled = |name: &str| proxy.metrics_text().matches(&format!("database=\"{name}\"")).count();
    assert!(labelled(&others[0].name) > 10 && labelled(&db.name) > 10);
    assert_eq!(proxy.metrics_text().matches("# TYPE pglull_transactions_total ").count(), 1);
    let error = refused(&proxy.client_of(&others[2]));
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("53300", "no more databases allowed (max_auto_databases)")
    );
    first.close();
    eventually("the first is forgotten", secs(20), || !known(&proxy).contains(&others[0].name));
    eventually("its servers are closed", secs(10), || others[0].servers() == 0);
    // And its figures are no more: whoever may choose names does not fill the memory with them.
    eventually("its figures are gone", secs(10), || labelled(&others[0].name) == 0);
    assert!(labelled(&others[1].name) > 10 && labelled(&db.name) > 10);
    let mut third = proxy.client_of(&others[2]).login();
    assert_eq!(third.one("SELECT current_database()"), others[2].name);
    // One that is used stays, and one with a section of its own always does.
    assert_eq!(second.one("SELECT current_database()"), others[1].name);
    assert!(known(&proxy).contains(&db.name));
}
