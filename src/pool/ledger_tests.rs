//! The ledger by hand: each rule once. All orders of everything are explored in `tests/model.rs`.

use super::*;

type Books = Ledger<u32, &'static str>;

fn books(limit: usize, servers: &[u32]) -> (Books, PoolIx) {
    let mut ledger = Books::default();
    let pool = ledger.add_pool(Size::new(limit, 0));
    for server in servers {
        ledger.want_server(pool);
        assert_eq!(ledger.start_connects(pool, Moment(0)).min(1), usize::from(ledger.counts(pool).idle == 0));
        if ledger.counts(pool).connecting == 0 {
            ledger.pool(pool).connecting = 1;
        }
        assert!(ledger.put_back(pool, *server, true, Moment(0)).is_none());
    }
    (ledger, pool)
}

fn begin(ledger: &mut Books, pool: PoolIx, name: &'static str, now: u64) -> Begin<u32> {
    let begun = ledger.begin(pool, (GroupIx::OTHERS, Need::Server), Moment(now), || name);
    assert_eq!(ledger.audit(), Ok(()));
    begun
}

#[test]
fn servers_go_to_those_who_waited_longest() {
    let (mut ledger, pool) = books(1, &[7]);
    assert_eq!(begin(&mut ledger, pool, "a", 0), Begin::Now(Some(7)));
    assert!(matches!(begin(&mut ledger, pool, "b", 1), Begin::Wait(_)));
    assert!(matches!(begin(&mut ledger, pool, "c", 2), Begin::Wait(_)));
    for (name, now) in [("b", 5), ("c", 6)] {
        assert!(!ledger.finish(GroupIx::OTHERS));
        let grant = ledger.put_back(pool, 7, false, Moment(now)).unwrap();
        assert_eq!((grant.ticket, grant.server, grant.stall), (name, Some(7), None));
    }
    assert_eq!(ledger.running(), 1);
}

#[test]
fn a_shut_gate_holds_and_says_when_it_is_drained() {
    let (mut ledger, pool) = books(2, &[1, 2]);
    assert!(matches!(begin(&mut ledger, pool, "a", 0), Begin::Now(_)));
    let epoch = ledger.shut(Some(Moment(1000)), Moment(10), |_| false).unwrap();
    assert_eq!(ledger.shut(None, Moment(10), |_| false), None, "one shutting at a time");
    assert!(matches!(begin(&mut ledger, pool, "b", 20), Begin::Wait(_)), "an idle server is no excuse");
    assert!(ledger.finish(GroupIx::OTHERS), "drained");
    assert_eq!(ledger.put_back(pool, 1, false, Moment(30)), None, "nobody begins at a shut gate");
    assert_eq!(ledger.open(Epoch(epoch.0 + 1), Moment(40)), vec![], "a wrong number has no effect");
    let grants = ledger.open(epoch, Moment(50));
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0].stall, Some(Duration::from_millis(30)));
    assert_eq!((ledger.tally().held, ledger.tally().released, ledger.tally().peak), (1, 1, 1));
    assert_eq!(ledger.open(epoch, Moment(60)), vec![], "a second time has no effect");
}

#[test]
fn those_who_waited_before_the_shut_are_held_from_then_on() {
    let (mut ledger, pool) = books(1, &[1]);
    begin(&mut ledger, pool, "a", 0);
    let Begin::Wait(b) = begin(&mut ledger, pool, "b", 0) else { panic!() };
    let limit = Duration::from_millis(100);
    assert_eq!(ledger.wait_left(pool, b, limit, Moment(40)), Some(Duration::from_millis(60)));
    let epoch = ledger.shut(None, Moment(50), |_| false).unwrap();
    assert_eq!(ledger.wait_left(pool, b, limit, Moment(5000)), Some(limit), "held time does not count");
    assert!(ledger.open(epoch, Moment(5000)).is_empty(), "the server is still lent");
    assert_eq!(ledger.wait_left(pool, b, limit, Moment(5030)), Some(Duration::from_millis(70)));
    ledger.finish(GroupIx::OTHERS);
    let grant = ledger.put_back(pool, 1, false, Moment(5040)).unwrap();
    assert_eq!(grant.stall, Some(Duration::from_millis(4990)));
}

#[test]
fn a_session_that_keeps_its_server_needs_only_leave() {
    let (mut ledger, pool) = books(1, &[1]);
    assert!(matches!(begin(&mut ledger, pool, "a", 0), Begin::Now(Some(1))));
    ledger.finish(GroupIx::OTHERS);
    let epoch = ledger.shut(None, Moment(1), |_| false).unwrap();
    assert_eq!(ledger.running(), 0, "it keeps its server and has no transaction");
    assert!(matches!(ledger.begin(pool, (GroupIx::OTHERS, Need::Leave), Moment(2), || "a"), Begin::Wait(_)));
    let grants = ledger.open(epoch, Moment(3));
    assert_eq!((grants.len(), grants[0].server), (1, None));
    assert_eq!(ledger.running(), 1);
}

#[test]
fn each_held_client_leaves_once() {
    let (mut ledger, pool) = books(1, &[1]);
    let epoch = ledger.shut(None, Moment(0), |_| false).unwrap();
    let ids: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| match begin(&mut ledger, pool, name, 1) {
            Begin::Wait(id) => id,
            Begin::Now(_) => panic!("let through a shut gate"),
        })
        .collect();
    assert_eq!(ledger.leave(pool, ids[1], Why::Cancelled), Some("b"));
    assert_eq!(ledger.leave(pool, ids[1], Why::Cancelled), None);
    assert_eq!(ledger.leave(pool, ids[2], Why::Left), Some("c"));
    assert_eq!(ledger.open(epoch, Moment(9)).len(), 1);
    assert_eq!(ledger.leave(pool, ids[0], Why::Left), None, "granted already");
    let tally = ledger.tally();
    assert_eq!(
        (tally.held, tally.released, tally.cancelled, tally.left, tally.waiting(), tally.peak),
        (3, 1, 1, 1, 0, 3)
    );
}

#[test]
fn connects_are_bounded_and_back_off() {
    let mut ledger = Books::default();
    let pool = ledger.add_pool(Size::new(20, 3));
    assert_eq!(ledger.start_connects(pool, Moment(0)), 3, "up to the minimum");
    assert_eq!(ledger.start_connects(pool, Moment(0)), 0, "they are on their way");
    for name in ["a"; 30] {
        begin(&mut ledger, pool, name, 0);
    }
    assert_eq!(ledger.start_connects(pool, Moment(0)), 5, "never more than eight at once");
    ledger.connect_failed(pool, Moment(100));
    assert_eq!(ledger.start_connects(pool, Moment(99)), 0, "not before the back-off is over");
    assert_eq!(ledger.start_connects(pool, Moment(100)), 1);
    for n in 0..8 {
        assert!(ledger.put_back(pool, n, true, Moment(101)).is_some());
    }
    let mut total = 8;
    while let n @ 1.. = ledger.start_connects(pool, Moment(200)) {
        total += n;
        for _ in 0..n {
            ledger.put_back(pool, 0, true, Moment(201));
        }
    }
    assert_eq!(total, 20, "never more than the limit");
    assert_eq!(ledger.audit(), Ok(()));
}

#[test]
fn a_login_that_needs_a_welcome_gets_one_connect() {
    let mut ledger = Books::default();
    let pool = ledger.add_pool(Size::new(5, 0));
    ledger.want_server(pool);
    assert_eq!(ledger.start_connects(pool, Moment(0)), 1);
    assert_eq!(ledger.start_connects(pool, Moment(0)), 0);
    assert!(ledger.put_back(pool, 1, true, Moment(0)).is_none());
    assert_eq!(ledger.retry_at(pool), None);
}

#[test]
fn another_size() {
    let (mut ledger, pool) = (Ledger::<u8, u8>::default(), PoolIx(0));
    ledger.add_pool(Size::new(1, 0));
    let wait =
        |ledger: &mut Ledger<u8, u8>, ticket| ledger.begin(pool, (GroupIx::OTHERS, Need::Server), Moment(0), || ticket);
    (0..3).for_each(|ticket| assert!(matches!(wait(&mut ledger, ticket), Begin::Wait(_))));
    assert_eq!(ledger.start_connects(pool, Moment(0)), 1);
    ledger.connect_failed(pool, Moment(1000));
    ledger.resize(pool, Size::new(3, 2));
    assert_eq!(ledger.start_connects(pool, Moment(0)), 0);
    ledger.retry_now(pool);
    assert_eq!(ledger.start_connects(pool, Moment(0)), 3);
    ledger.resize(pool, Size::new(1, 0));
    assert_eq!(ledger.surplus(pool), 2);
    (0..3).for_each(|server| assert!(ledger.put_back(pool, server, true, Moment(0)).is_some()));
    assert_eq!(ledger.surplus(pool), 2);
    ledger.lost(pool);
    ledger.lost(pool);
    assert_eq!((ledger.surplus(pool), ledger.start_connects(pool, Moment(0))), (0, 0));
}

/// A held client takes a server that is free for all, and none from other databases that need theirs meanwhile.
#[test]
fn who_is_held_stands_in_no_line() {
    let (mut ledger, pool) = books(3, &[1]);
    let free = ledger.add_group(true);
    let epoch = ledger.shut(None, Moment(0), |group| group == free).unwrap();
    begin(&mut ledger, pool, "held", 1);
    begin(&mut ledger, pool, "held too", 1);
    assert!(!ledger.is_short(pool, Moment(1)));
    assert_eq!(ledger.start_connects(pool, Moment(1)), 1, "if there is a place");
    ledger.connects_denied(pool, 1);
    for name in ["free", "waits"] {
        assert!(!ledger.is_short(pool, Moment(2)), "{name}");
        let _ = ledger.begin(pool, (free, Need::Server), Moment(2), || name);
    }
    assert!(ledger.is_short(pool, Moment(2)), "whom the gate leaves free waits for a server");
    assert!(!ledger.finish(free));
    assert_eq!(ledger.put_back(pool, 1, false, Moment(3)).unwrap().ticket, "waits");
    assert!(!ledger.is_short(pool, Moment(3)));
    assert!(ledger.open(epoch, Moment(4)).is_empty());
    assert!(ledger.is_short(pool, Moment(4)), "nobody is held any more");
}

/// Two groups, one server: whom a shut gate does not concern goes on, in order, past those who are held.
#[test]
fn a_shut_gate_may_leave_groups_free() {
    let (mut ledger, pool) = books(1, &[1]);
    let (kept, free) = (ledger.add_group(true), ledger.add_group(true));
    let begin = |ledger: &mut Books, group, need, name, now| {
        let begun = ledger.begin(pool, (group, need), Moment(now), || name);
        assert_eq!(ledger.audit(), Ok(()));
        begun
    };
    assert!(matches!(begin(&mut ledger, free, Need::Server, "a", 0), Begin::Now(Some(1))));
    assert!(matches!(begin(&mut ledger, free, Need::Server, "waits from before", 1), Begin::Wait(_)));
    let epoch = ledger.shut(None, Moment(2), |group| group == free).unwrap();
    assert_eq!((ledger.running(), ledger.audit()), (0, Ok(())), "what is free is not waited for");
    assert!(matches!(begin(&mut ledger, kept, Need::Server, "held", 3), Begin::Wait(_)));
    assert!(matches!(begin(&mut ledger, GroupIx::OTHERS, Need::Leave, "held too", 3), Begin::Wait(_)));
    assert!(matches!(begin(&mut ledger, free, Need::Server, "waits", 4), Begin::Wait(_)));
    for name in ["waits from before", "waits"] {
        assert!(!ledger.finish(free));
        let grant = ledger.put_back(pool, 1, false, Moment(5)).unwrap();
        assert_eq!((grant.ticket, grant.stall, ledger.audit()), (name, None, Ok(())));
    }
    assert!(!ledger.finish(free));
    assert_eq!(ledger.put_back(pool, 1, false, Moment(6)), None);
    assert_eq!(begin(&mut ledger, free, Need::Leave, "keeps its server", 7), Begin::Now(None));
    assert!(ledger.is_shut_for(kept) && !ledger.is_shut_for(free));
    assert!(ledger.add_group(true) > free && ledger.tally().held == 2);
    let grants = ledger.open(epoch, Moment(9));
    let names: Vec<_> = grants.iter().map(|grant| grant.ticket).collect();
    assert_eq!((names, ledger.running(), ledger.audit()), (vec!["held too", "held"], 3, Ok(())));
    assert_eq!((ledger.finish(kept), ledger.finish(free)), (false, false));
    ledger.shut(None, Moment(10), |_| false).unwrap();
    assert!(ledger.is_shut_for(free), "each shutting has its own scope");
}

/// A transaction that runs when the gate is shut counts for its group, and the last one that counts is told.
#[test]
fn a_drain_waits_for_those_that_it_keeps() {
    let (mut ledger, pool) = books(2, &[1, 2]);
    let (kept, free) = (ledger.add_group(false), ledger.add_group(false));
    for group in [kept, free] {
        assert!(matches!(ledger.begin(pool, (group, Need::Server), Moment(0), || "x"), Begin::Now(Some(_))));
    }
    ledger.shut(None, Moment(1), |group| group == free).unwrap();
    assert_eq!(ledger.running(), 1);
    assert!(!ledger.finish(free), "nobody waits for it");
    assert!(ledger.finish(kept), "drained");
}
