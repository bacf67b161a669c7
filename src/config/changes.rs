//! What is different in a configuration, for whoever has asked for a reload.

use std::collections::BTreeMap;

use super::types::Config;

/// What `now` has that `before` had not, one line each; no line has a value that may be a secret.
pub(crate) fn between(before: &Config, now: &Config) -> Vec<String> {
    let (was, is) = (before.show(), now.show());
    let differs = was.iter().zip(&is).filter(|(was, is)| was.1 != is.1);
    let mut found: Vec<String> =
        differs.map(|(was, is)| format!("{}: {} -> {}", is.0, shown(&was.1), shown(&is.1))).collect();
    entries("database", &before.databases, &now.databases, &mut found);
    entries("user", &before.users, &now.users, &mut found);
    entries("settings of user", &before.user_overrides, &now.user_overrides, &mut found);
    for (what, differs) in [
        ("auth_hba_file", before.hba != now.hba),
        ("auth_ident_file", before.ident_maps != now.ident_maps),
        ("certificates for clients", before.client_tls != now.client_tls),
        ("certificates for Postgres", before.server_tls != now.server_tls),
    ] {
        found.extend(differs.then(|| format!("{what}: changed")));
    }
    found
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "''" } else { value }
}

fn entries<T: PartialEq>(what: &str, before: &BTreeMap<String, T>, now: &BTreeMap<String, T>, found: &mut Vec<String>) {
    for (name, entry) in now {
        match before.get(name) {
            None => found.push(format!("{what} {name}: new")),
            Some(was) if was != entry => found.push(format!("{what} {name}: changed")),
            Some(_) => {}
        }
    }
    found.extend(before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{what} {name}: removed")));
}

#[cfg(test)]
mod tests {
    use super::super::types::{Database, UserSecret};
    use super::super::value::Secret;
    use super::*;

    #[test]
    fn each_difference_is_a_line_without_secrets() {
        let user = |password: &str| UserSecret::Plain(Secret::new(password.to_owned()));
        let mut before = Config { default_pool_size: 20, ..Config::default() };
        before.databases.insert("shop".into(), Database::default());
        before.databases.insert("old".into(), Database::default());
        before.users.insert("ann".into(), user("hush"));
        assert!(between(&before, &before).is_empty());
        let mut now = before.clone();
        now.default_pool_size = 30;
        now.databases.remove("old");
        now.databases.insert("new".into(), Database::default());
        now.databases.get_mut("shop").unwrap().password = Some(Secret::new("quiet".to_owned()));
        now.users.insert("ann".into(), user("silence"));
        assert_eq!(
            between(&before, &now),
            [
                "default_pool_size: 20 -> 30",
                "database new: new",
                "database shop: changed",
                "database old: removed",
                "user ann: changed",
            ]
        );
    }
}
