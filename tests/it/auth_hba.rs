//! Rules of `auth_hba_file`: over which way, from where, which user may come by which method.

use crate::auth::refused;
use crate::support::postgres::Db;
use crate::support::proxy::{Spec, binary};
use crate::support::wire::Target;

fn spec(db: &Db, rules: &str) -> Spec {
    Spec::of(db).text("auth_type", "hba").text("auth_hba_file", "hba").file("hba", rules)
}

fn os_user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

#[test]
fn the_first_rule_that_fits_decides() {
    let db = Db::new();
    let rules = format!(
        "# type database user address method\n\
         host all evil all reject\n\
         host {0} boss 127.0.0.1/32 trust\n\
         host {0} all 127.0.0.0 255.0.0.0 scram-sha-256\n\
         host all all all trust\n\
         local all {1} password\n",
        db.name, db.user
    );
    let proxy = spec(&db, &rules).user("evil", "pw").start();
    let client = proxy.client();
    assert_eq!(client.login().one("SELECT 1"), "1");
    // A wrong password is wrong, although a laxer rule stands below.
    assert_eq!(refused(&Target { password: "wrong".to_owned(), ..client.clone() }).code, "28P01");
    let evil = refused(&Target { user: "evil".to_owned(), password: "pw".to_owned(), ..client.clone() });
    assert_eq!((evil.code.as_str(), evil.message.as_str()), ("28000", "login rejected"));
    Target { user: "boss".to_owned(), password: "any".to_owned(), ..client.clone() }.login();
    // The Unix socket has rules of its own.
    let unix = Target { addr: proxy.unix_addr(), ..client };
    assert_eq!(unix.login().one("SELECT 1"), "1");
    assert_eq!(refused(&Target { password: "wrong".to_owned(), ..unix.clone() }).code, "28P01");
    let nobody = refused(&Target { user: "boss".to_owned(), ..unix });
    assert_eq!((nobody.code.as_str(), nobody.message.as_str()), ("28000", "no authentication method is found"));
}

#[test]
fn the_kernel_says_who_a_peer_is() {
    let db = Db::new();
    let me = os_user();
    let rules = format!("local all {0} peer map=os\nlocal all all peer\n", db.user);
    let maps = format!("os {me} {}\nos {me} boss\nos somebody-else scribe\n", db.user);
    let spec = spec(&db, &rules).text("auth_ident_file", "ident").file("ident", &maps).user(&me, "pw of me");
    let proxy = spec.start();
    let peer = |user: &str| Target { addr: proxy.unix_addr(), user: user.to_owned(), ..proxy.client() };
    peer(&db.user).login();
    // Without a map the name must be the same; it is, and the forced user does the rest.
    assert_eq!(peer(&me).login().one("SELECT current_user"), db.user);
    let other = refused(&peer("boss"));
    assert_eq!(other.code, "28000");
    let unknown = refused(&peer("stranger"));
    assert_eq!(unknown.message, other.message.replace("boss", "stranger"));
    // No rule of this file is for TCP.
    assert_eq!(refused(&proxy.client()).message, "no authentication method is found");
}

/// A line that is not understood is never skipped: the one below it may be laxer.
#[test]
fn mistakes_in_the_rules_keep_the_proxy_from_starting() {
    let db = Db::new();
    let dir = tempfile::tempdir().unwrap();
    let rules =
        "host all all samehost md5\nhost all +admins all md5\nhost all all all ldap\nhost all all all peer map=x\n";
    std::fs::write(dir.path().join("hba"), rules).unwrap();
    std::fs::write(dir.path().join("users"), "\"a\" \"b\"\n").unwrap();
    let text = format!(
        "[pglull]\nauth_type = \"hba\"\nauth_hba_file = \"hba\"\nauth_file = \"users\"\n[databases.{}]\nhost = \"127.0.0.1\"\nport = 1\n",
        db.name
    );
    let file = dir.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let output = binary().arg("check").arg(&file).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for line in 1..=4 {
        assert!(said.contains(&format!("hba:{line}: hba: expected")), "{line}: {said}");
    }
}

/// The files of rules and maps are read again as a whole, or not at all.
#[test]
fn a_reload_brings_other_rules() {
    let db = Db::new();
    let proxy = spec(&db, "host all all all trust\n").start();
    let write = |rules: &str| std::fs::write(proxy.dir().join("hba"), rules).unwrap();
    let guess = Target { password: "wrong".to_owned(), ..proxy.client() };
    let mut before = guess.login();
    write("host all all all nonsense\n");
    assert!(proxy.admin_err("RELOAD").detail.contains("hba:1: hba: expected"));
    guess.login().close();
    write("host all all all scram-sha-256\n");
    proxy.admin("RELOAD");
    assert_eq!(refused(&guess).code, "28P01");
    proxy.client().login().close();
    // Who is in stays in.
    assert_eq!(before.one("SELECT 1"), "1");
}

/// The console has two names: a rule for one of them is for both, in whatever order they stand.
#[test]
fn a_rule_for_one_name_of_the_console_is_for_both() {
    let db = Db::new();
    for written in ["pgbouncer", "pglull"] {
        let rules = format!("host {written} all 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 trust\n");
        let proxy = spec(&db, &rules).start();
        for asked in ["pgbouncer", "pglull"] {
            let boss = Target { user: "boss".to_owned(), database: asked.to_owned(), ..proxy.client() };
            assert_eq!(refused(&boss).message, "login rejected", "{asked}, where {written} is rejected");
        }
        proxy.client().login().close();
    }
}
