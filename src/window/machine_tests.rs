//! The machine by hand: each phase, each bound, each way out.

use super::*;

fn bounds() -> Bounds {
    Bounds {
        drain: Some(Duration::from_secs(2)),
        apply: Duration::from_secs(4),
        hold: Some(Duration::from_secs(10)),
        tenure: Some(Duration::from_secs(25)),
        stragglers: Stragglers::Abort,
        max_held: 1000,
    }
}

/// Plays events at their times; returns the window and all effects.
fn play(form: Form, bounds: Bounds, events: &[(u64, Event)]) -> (Window, Vec<Effect>) {
    let (mut window, first) = Window::begin(form, bounds, Moment(0));
    let mut effects = vec![first];
    for (at, event) in events {
        window = step(window, event.clone(), Moment(*at), &mut effects);
        if *event == Event::Passed && window.phase == Phase::Recording {
            window = step(window, Event::Recorded, Moment(*at), &mut effects);
        }
    }
    (window, effects)
}

fn failed() -> Verdict {
    Verdict::Failed { sqlstate: "42601".into(), message: "syntax error".into() }
}

#[test]
fn the_whole_way() {
    let events = [
        (5, Event::Passed),
        (100, Event::Drained),
        (900, Event::ApplyEnded(Verdict::Applied)),
        (901, Event::Healed),
        (930, Event::Released),
    ];
    let (window, effects) = play(Form::Apply, bounds(), &events);
    assert_eq!(window.phase, Phase::Closed { outcome: Outcome::Applied });
    assert_eq!(
        effects,
        [
            Effect::Preflight,
            Effect::Record,
            Effect::Shut { bound: Some(Moment(10_005)) },
            Effect::StartApply { deadline: Moment(4100) },
            Effect::Heal,
            Effect::Open,
        ]
    );
    assert_eq!(window.next_deadline(), None);
}

#[test]
fn stragglers_that_nobody_may_cut_end_the_window_at_once() {
    let by_class = Bounds { stragglers: Stragglers::ByClass, ..bounds() };
    let early = [(0, Event::Passed), (1999, Event::Unmoved)];
    let (window, _) = play(Form::Apply, by_class.clone(), &early);
    assert_eq!(window.phase.as_str(), "draining", "it is said in answer to the effect only");
    let told = [(0, Event::Passed), (2000, Event::Tick), (2001, Event::Unmoved)];
    let (window, effects) = play(Form::Apply, by_class, &told);
    assert!(effects.contains(&Effect::Straggle(Stragglers::ByClass)));
    assert_eq!(window.phase.outcome(), Some(&Outcome::Aborted(Reason::DrainBound)));
    let (window, _) = play(Form::Apply, bounds(), &[(0, Event::Passed), (1, Event::Drained), (2, Event::Unmoved)]);
    assert_eq!(window.phase.as_str(), "applying");
}

#[test]
fn a_drill_lets_go_at_once_and_a_trial_when_it_is_rolled_back() {
    let begun = [(5, Event::Passed), (100, Event::Drained)];
    let (window, effects) = play(Form::Drill, bounds(), &begun);
    assert_eq!(window.phase.outcome(), Some(&Outcome::Rehearsed));
    assert_eq!(effects, [Effect::Preflight, Effect::Shut { bound: Some(Moment(10_005)) }, Effect::Open]);

    let rolled_back =
        [begun.to_vec(), vec![(300, Event::ApplyEnded(Verdict::Rehearsed)), (310, Event::Released)]].concat();
    let (window, effects) = play(Form::Trial, bounds(), &rolled_back);
    assert_eq!(window.phase, Phase::Closed { outcome: Outcome::Rehearsed });
    assert!(effects.contains(&Effect::StartApply { deadline: Moment(4100) }) && !effects.contains(&Effect::Heal));
    // One that was told to stop is no measure, whatever it says.
    let stopped = [begun.to_vec(), vec![(300, Event::Abort), (310, Event::ApplyEnded(Verdict::Rehearsed))]].concat();
    let (window, _) = play(Form::Trial, bounds(), &stopped);
    assert_eq!(window.phase.outcome(), Some(&Outcome::Aborted(Reason::Operator)));
}

#[test]
fn nobody_is_held_before_the_record_is_written() {
    for form in [Form::Apply, Form::Open] {
        let mut effects = Vec::new();
        let recording = step(Window::begin(form, bounds(), Moment(0)).0, Event::Passed, Moment(1), &mut effects);
        assert_eq!((&recording.phase, &effects[..]), (&Phase::Recording, &[Effect::Record][..]));
        for (event, outcome) in [
            (Event::NotRecorded("full".into()), Outcome::Refused("full".into())),
            (Event::Abort, Outcome::Aborted(Reason::Operator)),
            (Event::OwnerGone, Outcome::Aborted(Reason::OwnerGone)),
            (Event::Shutdown, Outcome::Aborted(Reason::Shutdown)),
            (Event::Tick, Outcome::Refused("preflight did not end in time".into())),
        ] {
            let mut effects = Vec::new();
            let over = step(recording.clone(), event.clone(), Moment(10_000), &mut effects);
            assert_eq!(over.phase, Phase::Closed { outcome }, "{event:?}");
            assert_eq!(effects, [], "{event:?}");
            // What is written too late has no effect.
            let late = step(over.clone(), Event::Recorded, Moment(10_001), &mut effects);
            assert_eq!((late, &effects[..]), (over, &[][..]));
        }
    }
    // A PAUSE leaves nothing to be decided.
    let mut effects = Vec::new();
    let pause = step(Window::begin(Form::Pause, bounds(), Moment(0)).0, Event::Passed, Moment(1), &mut effects);
    assert!(matches!((pause.phase, &effects[..]), (Phase::Draining { .. }, [Effect::Shut { .. }])));
}

#[test]
fn every_bound_leads_back_to_the_old_schema() {
    let passed = (0, Event::Passed);
    for (form, events, reason) in [
        (Form::Apply, vec![passed.clone(), (2000, Event::Tick)], Reason::DrainBound),
        (Form::Open, vec![passed.clone(), (1, Event::Drained), (9500, Event::Tick)], Reason::HoldBound),
        (Form::Open, vec![passed.clone(), (1, Event::Drained), (5, Event::OwnerGone)], Reason::OwnerGone),
        (Form::Open, vec![passed.clone(), (1, Event::Drained), (5, Event::Abort)], Reason::Operator),
        (Form::Open, vec![passed.clone(), (1, Event::Overheld)], Reason::TooManyHeld),
        (Form::Open, vec![passed.clone(), (1, Event::Shutdown)], Reason::Shutdown),
        (Form::Open, vec![passed.clone(), (1, Event::GateLost)], Reason::Watchdog),
        (
            Form::Apply,
            vec![passed.clone(), (1, Event::Drained), (4001, Event::Tick), (4050, Event::ApplyEnded(failed()))],
            Reason::ApplyBound,
        ),
        (
            Form::Apply,
            vec![passed, (1, Event::Drained), (2, Event::ApplyEnded(failed()))],
            Reason::ApplyFailed { sqlstate: "42601".into(), message: "syntax error".into() },
        ),
    ] {
        let (window, effects) = play(form, bounds(), &events);
        assert_eq!(window.phase.outcome(), Some(&Outcome::Aborted(reason)), "{events:?}");
        assert_eq!(effects.iter().filter(|effect| **effect == Effect::Open).count(), 1, "{events:?}");
    }
}

#[test]
fn a_silent_owner_loses_the_window() {
    let mut short = bounds();
    short.tenure = Some(Duration::from_secs(3));
    let events = [(0, Event::Passed), (1, Event::Drained), (2000, Event::Renew), (4999, Event::Tick)];
    let (window, _) = play(Form::Open, short.clone(), &events);
    assert_eq!(window.phase, Phase::Holding, "renewed");
    let (window, _) = play(Form::Open, short, &[(0, Event::Passed), (1, Event::Drained), (3000, Event::Tick)]);
    assert_eq!(window.phase.outcome(), Some(&Outcome::Aborted(Reason::TenureOver)));
}

#[test]
fn the_hold_bound_leaves_room_for_the_way_back() {
    let mut tight = bounds();
    tight.apply = Duration::from_secs(60);
    let (window, _) = play(Form::Apply, tight, &[(0, Event::Passed), (1, Event::Drained)]);
    assert_eq!(window.phase, Phase::Applying { deadline: Moment(9500) });
    let mut effects = Vec::new();
    let window = step(window, Event::Tick, Moment(9500), &mut effects);
    assert_eq!(effects, [Effect::StopApply]);
    assert_eq!(window.phase, Phase::Aborting { reason: Reason::HoldBound, deadline: Moment(10_000) });
    let window = step(window, Event::Tick, Moment(10_000), &mut effects);
    assert!(matches!(window.phase.outcome(), Some(Outcome::Unknown(_))), "the gate does not wait");
    let window = step(window, Event::ApplyEnded(failed()), Moment(10_020), &mut effects);
    let told = Outcome::Aborted(Reason::HoldBound);
    assert_eq!(
        window.phase.outcome(),
        Some(&told),
        "the receipt gets the truth all the same, and why it was told to stop"
    );
}

#[test]
fn a_commit_that_won_the_race_counts() {
    let events = [
        (0, Event::Passed),
        (1, Event::Drained),
        (50, Event::Abort),
        (51, Event::ApplyEnded(Verdict::Applied)),
        (52, Event::Healed),
    ];
    let (window, _) = play(Form::Apply, bounds(), &events);
    assert_eq!(window.phase.outcome(), Some(&Outcome::Applied));
}

#[test]
fn stragglers_get_one_grace() {
    for policy in [Stragglers::Cancel, Stragglers::Terminate] {
        let mut strict = bounds();
        strict.stragglers = policy;
        let (window, effects) =
            play(Form::Apply, strict.clone(), &[(0, Event::Passed), (2000, Event::Tick), (2001, Event::Tick)]);
        assert_eq!(effects.last(), Some(&Effect::Straggle(policy)));
        assert_eq!(window.phase, Phase::Draining { deadline: Some(Moment(3000)), escalated: true });
        let (window, _) = play(Form::Apply, strict, &[(0, Event::Passed), (2000, Event::Tick), (3000, Event::Tick)]);
        assert_eq!(window.phase.outcome(), Some(&Outcome::Aborted(Reason::DrainBound)));
    }
}

#[test]
fn pause_and_resume() {
    let mut pause = bounds();
    (pause.drain, pause.hold, pause.tenure) = (None, None, None);
    let (window, _) = play(Form::Pause, pause.clone(), &[(0, Event::Passed), (1_000_000, Event::Tick)]);
    assert!(matches!(window.phase, Phase::Draining { .. }), "waits as long as it takes");
    assert_eq!(window.next_deadline(), None);
    for events in [
        vec![(0, Event::Passed), (5, Event::Close)],
        vec![(0, Event::Passed), (5, Event::Drained), (9, Event::Close), (10, Event::Close)],
    ] {
        let (window, effects) = play(Form::Pause, pause.clone(), &events);
        assert_eq!(window.phase.outcome(), Some(&Outcome::Resumed));
        assert_eq!(effects.iter().filter(|effect| **effect == Effect::Open).count(), 1);
    }
}

#[test]
fn events_out_of_place_change_nothing() {
    for event in [
        Event::Drained,
        Event::Healed,
        Event::Released,
        Event::ApplyEnded(Verdict::Applied),
        Event::Close,
        Event::GateLost,
    ] {
        let (window, effects) = play(Form::Apply, bounds(), &[(1, event.clone())]);
        assert_eq!(window.phase, Phase::Preflight, "{event:?}");
        assert_eq!(effects, [Effect::Preflight], "{event:?}");
    }
    let (window, _) =
        play(Form::Apply, bounds(), &[(1, Event::Refused("no".into())), (2, Event::Passed), (3, Event::Abort)]);
    assert_eq!(window.phase, Phase::Closed { outcome: Outcome::Refused("no".into()) });
}

#[test]
fn a_late_drain_starts_no_change() {
    let passed = (0, Event::Passed);
    let mut owned = bounds();
    owned.tenure = Some(Duration::from_secs(5));
    for (bounds, at, reason) in
        [(bounds(), 9500, Reason::HoldBound), (bounds(), 12_000, Reason::HoldBound), (owned, 5000, Reason::TenureOver)]
    {
        let (window, effects) = play(Form::Apply, bounds, &[passed.clone(), (at, Event::Drained)]);
        assert_eq!(window.phase.outcome(), Some(&Outcome::Aborted(reason)));
        let starts = |effect: &Effect| matches!(effect, Effect::StartApply { .. });
        assert!(!effects.iter().any(starts), "{effects:?}");
    }
}

#[test]
fn what_may_be_committed_is_healed() {
    let unknown = Event::ApplyEnded(Verdict::Unknown("lost".into()));
    let begun = [(0, Event::Passed), (1, Event::Drained)];
    let (_, effects) = play(Form::Apply, bounds(), &[&begun[..], &[(2, unknown)]].concat());
    assert_eq!(effects[4..], [Effect::Heal, Effect::Open]);

    let late = [(50, Event::Abort), (1050, Event::Tick), (1060, Event::ApplyEnded(Verdict::Applied))];
    let (window, effects) = play(Form::Apply, bounds(), &[&begun[..], &late[..]].concat());
    assert_eq!(window.phase.outcome(), Some(&Outcome::Applied));
    assert_eq!(window.times.apply_ended, Some(Moment(1060)));
    assert_eq!(effects[5..], [Effect::Heal, Effect::Open, Effect::Heal]);

    let too_late =
        [(50, Event::Abort), (1050, Event::Tick), (1051, Event::Released), (1060, Event::ApplyEnded(Verdict::Applied))];
    let (window, effects) = play(Form::Apply, bounds(), &[&begun[..], &too_late[..]].concat());
    assert!(matches!(window.phase.outcome(), Some(Outcome::Unknown(_))));
    assert_eq!(effects.last(), Some(&Effect::Heal));
}
