//! The status page on the metrics port: what it shows, that it only shows, and that whatever comes from outside is text.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use nix::sys::signal::Signal;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::{Db, cluster};
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, secs};

const EVIL: &str = "</td><script>alert('x')</script><img src=x onerror=alert(1)>&";

/// The head and the body of the answer.
fn ask(proxy: &Proxy, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.metrics)).unwrap();
    stream.set_read_timeout(Some(secs(10))).unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: it\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

fn page(proxy: &Proxy, path: &str) -> String {
    let (head, body) = ask(proxy, "GET", path);
    assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
    harmless(&body);
    body
}

/// Nothing that a browser would run or fetch.
fn harmless(body: &str) {
    let text = body.to_lowercase();
    for word in ["<script", "<img", "<iframe", "<link", "<object", "<form", "javascript:", "src=\"", "url("] {
        assert!(!text.contains(word), "{word}: {body}");
    }
}

#[test]
fn the_page_shows_pools_traffic_and_windows() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    assert!(page(&proxy, "/").contains("No pool yet"));
    let mut wire = proxy.client().login();
    wire.ok("SELECT 1");
    let body = page(&proxy, "/status");
    for part in [&*db.name, &*db.user, "open", "transaction", "None yet"] {
        assert!(body.contains(part), "{part}: {body}");
    }
    assert!(body.contains("http-equiv=\"refresh\" content=\"10\""), "{body}");
    assert!(!page(&proxy, "/?refresh=off").contains("http-equiv"));

    // A window that runs: its phase, its clocks, who is held.
    let open = proxy.open("w-1", "hold='30s'");
    wire.start("SELECT 2").unwrap();
    proxy.until_held(1);
    let body = page(&proxy, "/");
    for part in [
        "A window is running",
        "href=\"/window/w-1\"",
        ">holding<",
        "of 30.00 s",
        "left of",
        "1 client held now",
        "shut",
    ] {
        assert!(body.contains(part), "{part}: {body}");
    }
    let body = page(&proxy, "/window/w-1");
    assert!(body.contains("1 client held now") && body.contains("content=\"1\""), "{body}");
    assert!(!body.contains(&open["token"]), "a secret on a page");
    assert!(ask(&proxy, "GET", "/window/w-1/timeline.svg").0.starts_with("http/1.1 404"), "it has not ended");
    proxy.close("w-1", &open["token"]);
    wire.finish().unwrap();

    // And one that has run: what SHOW WINDOW says, and its drawing.
    proxy.apply("w:2", "", "SELECT 1/0").finish().unwrap_err();
    let body = page(&proxy, "/");
    for part in ["href=\"/window/w-1\"", "href=\"/window/w%3A2\"", "applied", "aborted", "division by zero"] {
        assert!(body.contains(part), "{part}: {body}");
    }
    assert!(!body.contains("A window is running"));
    let body = page(&proxy, "/window/w-1");
    for (key, value) in proxy.window("w-1") {
        let apart = ["preflight", "blockers", "receipt"].contains(&&*key) || value.is_empty();
        assert!(apart || body.contains(&format!("<dt>{key}</dt><dd>{value}</dd>")), "{key} {value}: {body}");
    }
    let (head, svg) = ask(&proxy, "GET", "/window/w-1/timeline.svg");
    assert!(head.contains("content-type: image/svg+xml") && svg.starts_with("<svg"), "{head}");
    assert!(body.contains(&svg), "the same drawing stands in the page");
    assert!(page(&proxy, "/window/w%3A2").contains("division by zero"));
}

#[test]
fn whatever_comes_from_outside_is_text() {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    // A database with such a name, and somebody who asks for it.
    let there = cluster().port();
    let entry = format!(
        "\n[databases.{EVIL:?}]\nhost = \"127.0.0.1\"\nport = {there}\ndbname = {:?}\nuser = {:?}\npassword = {:?}\n",
        db.name, db.user, db.password
    );
    proxy.edit(|text| format!("{text}{entry}"));
    proxy.admin("RELOAD");
    let mut target = proxy.client().app(EVIL);
    target.database = EVIL.to_owned();
    let mut wire = target.login();
    wire.ok("BEGIN");
    wire.ok(&format!("SELECT $t${EVIL}$t$"));
    let text =
        |id: &str, with: &str| format!("WINDOW APPLY \"{EVIL}\" WITH (id='{id}', {with}) AS $x$ RAISE '{EVIL}' $x$");
    let running = proxy.admin_start(&text("slow", "drain='20s', hold='30s'"));
    proxy.until_phase("slow", "draining");
    for path in ["/", "/window/slow"] {
        let body = page(&proxy, path);
        assert!(body.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"), "{body}");
        assert!(body.contains("The drain waits for"), "{body}");
    }
    proxy.admin("WINDOW ABORT slow");
    drop(running);
    proxy.closed("slow");
    proxy.admin_start(&text("quick", "drain='10ms'")).finish().unwrap_err();
    wire.ok("COMMIT");
    let verify = format!("verify='SELECT false, $t${EVIL}$t$'").replace("'x'", "''x''");
    let _ = proxy.admin_start(&text("verified", &verify)).finish();
    for path in ["/", "/window/slow", "/window/quick"] {
        assert!(page(&proxy, path).contains("&lt;script&gt;"), "{path}");
    }
    for path in ["/window/slow/timeline.svg", "/window/quick/timeline.svg"] {
        harmless(&ask(&proxy, "GET", path).1);
    }
    // What is asked for comes from outside too.
    for path in ["/window/%3Cscript%3Ealert(1)%3C/script%3E", "/window/%22%3E%3Cscript%3E", "/window/<script>"] {
        let (head, body) = ask(&proxy, "GET", path);
        assert!(head.starts_with("http/1.1 40"), "{head}");
        harmless(&body);
    }
}

#[test]
fn the_page_is_read_only_and_says_so_to_browsers() {
    let db = Db::new();
    let mut proxy = Spec::of(&db).start();
    for path in ["/", "/status", "/window/none"] {
        let (head, _) = ask(&proxy, "GET", path);
        for header in [
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "content-type: text/html; charset=utf-8",
        ] {
            assert!(head.contains(header), "{path}: {header}: {head}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let (head, _) = ask(&proxy, method, path);
            assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head"), "{method} {path}: {head}");
        }
        assert_eq!(ask(&proxy, "HEAD", path).1, "");
    }
    for path in [
        "/window/",
        "/window/none",
        "/window/none/x",
        "/windows",
        "/status/",
        "/window/%ff",
        "//",
        "/window/../metrics",
    ] {
        assert!(ask(&proxy, "GET", path).0.starts_with("http/1.1 404"), "{path}");
    }
    // While it shuts down, too.
    let _client = proxy.client().login();
    proxy.signal(Signal::SIGTERM);
    eventually("the page says that it ends", secs(10), || page(&proxy, "/").contains("Shutting down"));
}

#[test]
fn the_page_can_be_turned_off() {
    let db = Db::new();
    let proxy = Spec::of(&db).start();
    assert!(ask(&proxy, "GET", "/").0.starts_with("http/1.1 200"));
    proxy.edit(|text| text.replacen("[pglull]", "[pglull]\nstatus_page = false", 1));
    proxy.admin("RELOAD");
    for path in ["/", "/status", "/window/w-1"] {
        assert!(ask(&proxy, "GET", path).0.starts_with("http/1.1 404"), "{path}");
    }
    assert!(ask(&proxy, "GET", "/healthz").0.starts_with("http/1.1 200"));
}
