//! The pure machines at work on fixed input: each call of what is made here does the same, about a hundred times.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use pglull::ids::Moment;
use pglull::pool::ledger::{Begin, GroupIx, Ledger, Need, PoolIx, Size};
use pglull::prepared::catalog::Catalog;
use pglull::prepared::names::{Found, Names};
use pglull::prepared::slots::{Slots, State};
use pglull::server::progress::Progress;
use pglull::window::event::{Event, Verdict as Ended};
use pglull::window::machine::{Window, step};
use pglull::window::plan::{Bounds, Form, Stragglers};
use pglull::wire::frame::{BadLength, Flow, Verdict};

use crate::wire;

/// How often each does what it does, in one call.
const TIMES: u64 = 100;

/// Something that can be called again and again.
pub(crate) type Work = Box<dyn FnMut()>;

/// All of them, by their names.
pub(crate) fn all() -> Vec<(&'static str, Work)> {
    vec![
        ("framing", Box::new(framing())),
        ("framing, rewritten", Box::new(rewriting())),
        ("reply queue", Box::new(replies())),
        ("ledger", Box::new(admitting())),
        ("ledger, queue", Box::new(queueing())),
        ("statement map", Box::new(statements())),
        ("window step", Box::new(window())),
    ]
}

/// So many messages of one kind, as they come from a socket.
fn messages(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    (0..TIMES).for_each(|_| wire::message(&mut out, tag, |out| out.extend_from_slice(body)));
    out
}

/// Rows that are let through.
fn framing() -> impl FnMut() {
    let rows = messages(b'D', &[7; 30]);
    let mut flow = Flow::default();
    move || {
        flow.buf.extend_from_slice(&rows);
        let walked = flow.walk(|_, _, _| Ok::<_, BadLength>(Verdict::Pass));
        assert!(walked == Ok(false) && flow.pending().len() == rows.len());
        flow.written(rows.len());
    }
}

/// Requests, each with its first bytes replaced.
fn rewriting() -> impl FnMut() {
    let binds = messages(b'B', b"\0P_0\0\0\0\0\x01\0\0\0\x044711\0\x01\0\0");
    let mut flow = Flow::default();
    move || {
        flow.buf.extend_from_slice(&binds);
        let walked = flow.walk(|head, _, out| {
            out.put_u8(head.tag);
            out.put_u32(u32::try_from(head.body + 8).unwrap_or_default());
            out.put_slice(b"\0pglull_1\0");
            Ok::<_, BadLength>(Verdict::Without(10))
        });
        assert!(walked == Ok(false) && flow.buf.is_empty());
        flow.written(flow.pending().len());
    }
}

/// Pipelines of eight batches: all is sent, then all is answered.
fn replies() -> impl FnMut() {
    let (mut progress, _) = Progress::fresh();
    let idle = Flow::default();
    move || {
        for _ in 0..TIMES / 8 {
            (0..8).flat_map(|_| *b"PBDES").for_each(|tag| progress.sent(tag));
            for tag in (0..8).flat_map(|_| *b"12TDCZ") {
                let body: &[u8] = if tag == b'Z' { b"I" } else { b"" };
                assert!(progress.received(tag, body).is_ok());
            }
        }
        assert!(progress.boundary(Some(&idle), &idle).is_some());
    }
}

/// The books of a database with one pool and so many idle servers.
pub(crate) fn books(servers: u32) -> (Ledger<u32, u64>, PoolIx) {
    let mut ledger = Ledger::default();
    let pool = ledger.add_pool(Size::new(servers as usize, 0));
    for server in 0..servers {
        assert!(ledger.put_back(pool, server, true, Moment(0)).is_none(), "nobody waits yet");
    }
    (ledger, pool)
}

/// One transaction in the books: a server is there, and comes back.
pub(crate) fn admit(ledger: &mut Ledger<u32, u64>, pool: PoolIx) {
    match ledger.begin(pool, (GroupIx::OTHERS, Need::Server), Moment(1), || 0) {
        Begin::Now(Some(server)) => {
            ledger.finish(GroupIx::OTHERS);
            black_box(ledger.put_back(pool, server, false, Moment(2)));
        }
        other => assert!(matches!(other, Begin::Wait(_)), "a server was asked for"),
    }
}

fn admitting() -> impl FnMut() {
    let (mut ledger, pool) = books(20);
    move || (0..TIMES).for_each(|_| admit(&mut ledger, pool))
}

/// Many clients on few servers: who comes back serves who waits.
fn queueing() -> impl FnMut() {
    let (mut ledger, pool) = books(20);
    move || {
        let mut busy = Vec::with_capacity(20);
        for client in 0..TIMES {
            match ledger.begin(pool, (GroupIx::OTHERS, Need::Server), Moment(client), || client) {
                Begin::Now(server) => busy.extend(server),
                Begin::Wait(_) => {}
            }
        }
        let mut now = TIMES;
        while let Some(server) = busy.pop() {
            now += 1;
            ledger.finish(GroupIx::OTHERS);
            let granted = ledger.put_back(pool, server, false, Moment(now));
            busy.extend(granted.and_then(|grant| grant.server));
        }
        assert!(ledger.running() == 0 && now == 2 * TIMES);
    }
}

/// Statements that are known to all three tables: to all clients, to this one, to the server.
fn statements() -> impl FnMut() {
    let (catalog, mut names, mut slots) = (Catalog::new(1 << 20), Names::default(), Slots::default());
    let texts: Vec<String> = (0..TIMES).map(|n| format!("SELECT abalance FROM t{n} WHERE aid = $1\0\0\0")).collect();
    let known: Vec<String> = (0..TIMES).map(|n| format!("P_{n}")).collect();
    for (text, name) in texts.iter().zip(&known) {
        let Some(statement) = catalog.intern(text.as_bytes(), 0) else { continue };
        let (bound, ticket) = names.define(name.as_bytes(), Arc::clone(&statement), 0);
        names.confirm(name.as_bytes(), ticket, Some(bound));
        slots.sent(&statement);
        slots.parsed(statement.id);
    }
    let mut out = BytesMut::new();
    move || {
        for (text, name) in texts.iter().zip(&known) {
            let found = names.find(name.as_bytes(), 1);
            let interned = catalog.intern(text.as_bytes(), 0);
            assert!(matches!((found, interned), (Found::Known(bound), Some(same))
                if bound.statement.id == same.id && slots.state(&same) == State::Ready));
            pglull::prepared::slots::write_name(slots.batch, &mut out);
            out.clear();
        }
    }
}

/// Whole windows, from preflight to the receipt.
fn window() -> impl FnMut() {
    let second = Some(Duration::from_secs(1));
    let bounds = Bounds {
        drain: second,
        apply: Duration::from_secs(4),
        hold: Some(Duration::from_secs(10)),
        tenure: Some(Duration::from_secs(25)),
        stragglers: Stragglers::Abort,
        max_held: 1000,
    };
    let events = [
        Event::Passed,
        Event::Recorded,
        Event::Tick,
        Event::Drained,
        Event::Tick,
        Event::Renew,
        Event::ApplyEnded(Ended::Applied),
        Event::Healed,
        Event::Tick,
        Event::Released,
    ];
    let mut effects = Vec::new();
    move || {
        for _ in 0..TIMES / 10 {
            let (mut window, _) = Window::begin(Form::Apply, bounds.clone(), Moment(0));
            for (event, now) in events.iter().zip(1..) {
                window = step(window, event.clone(), Moment(now), &mut effects);
                black_box(window.next_deadline());
            }
            assert_eq!(window.phase.as_str(), "closed");
            effects.clear();
        }
    }
}
