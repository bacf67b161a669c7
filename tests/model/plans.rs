//! The worlds that are explored: small enough to be seen whole, and together every form, bound and fault.

use std::time::Duration;

use pglull::window::plan::{Bounds, Form, Stragglers};

use crate::moves::Word;
use crate::world::Plan;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn bounds() -> Bounds {
    Bounds {
        drain: Some(secs(2)),
        apply: secs(4),
        hold: Some(secs(10)),
        tenure: Some(secs(5)),
        stragglers: Stragglers::Abort,
        max_held: 10,
    }
}

fn plan(name: &'static str, windows: Vec<(Form, Bounds)>) -> Plan {
    Plan {
        name,
        windows,
        prompt: true,
        trouble: 2,
        words: &[Word::Abort],
        begins: [1, 1, 1],
        patience: None,
        old_timers: false,
        leaves_free: &[],
        crash: false,
    }
}

pub(crate) fn plans() -> Vec<Plan> {
    let apply = (Form::Apply, bounds());
    let open = (Form::Open, Bounds { tenure: Some(secs(7)), ..bounds() });
    let pause = Bounds { drain: None, tenure: None, hold: None, ..bounds() };
    let endless = (Form::Pause, pause.clone());
    let bounded = (Form::Pause, Bounds { hold: Some(secs(10)), ..pause });
    let tight = Bounds { hold: Some(secs(5)), tenure: None, ..bounds() };
    let strict = |stragglers| Bounds { stragglers, ..tight.clone() };
    let no_tenure = (Form::Apply, Bounds { tenure: None, ..bounds() });
    let all: &[Word] = &[Word::Abort, Word::OwnerGone, Word::Shutdown, Word::Renew];
    let slow = |name, windows| Plan { prompt: false, ..plan(name, windows) };
    let mut plans = scopes_and_crashes(&tight);
    plans.extend([
        Plan { trouble: 0, ..plan("apply", vec![no_tenure.clone()]) },
        Plan { begins: [1, 0, 0], words: all, ..plan("apply, all words", vec![apply.clone()]) },
        Plan { begins: [1, 0, 0], ..slow("apply, slow driver", vec![no_tenure]) },
        Plan { begins: [1, 0, 1], words: all, ..plan("open", vec![open.clone()]) },
        Plan {
            begins: [1, 0, 0],
            words: &[Word::OwnerGone, Word::Renew],
            ..slow("open, slow driver", vec![open.clone()])
        },
        Plan { begins: [1, 1, 0], words: all, trouble: 1, ..plan("pause without end", vec![endless.clone()]) },
        Plan { begins: [1, 0, 1], trouble: 1, ..slow("pause with a bound, slow driver", vec![bounded.clone()]) },
        Plan {
            begins: [1, 0, 1],
            trouble: 0,
            ..plan("tight hold, cancel", vec![(Form::Apply, strict(Stragglers::Cancel))])
        },
        Plan {
            begins: [1, 0, 0],
            trouble: 2,
            words: &[],
            ..slow(
                "tight hold, terminate, slow driver",
                vec![(Form::Apply, Bounds { drain: Some(secs(4)), ..strict(Stragglers::Terminate) })],
            )
        },
        Plan {
            begins: [1, 1, 0],
            trouble: 0,
            ..plan("tight hold, by class", vec![(Form::Apply, strict(Stragglers::ByClass))])
        },
        Plan { begins: [1, 0, 1], words: all, ..plan("drill", vec![(Form::Drill, bounds())]) },
        Plan { begins: [1, 0, 0], words: all, ..plan("trial", vec![(Form::Trial, bounds())]) },
        Plan {
            begins: [1, 0, 0],
            words: &[],
            ..slow("trial, slow driver", vec![(Form::Trial, Bounds { tenure: None, ..bounds() })])
        },
        Plan { trouble: 0, ..plan("one may be held", vec![(Form::Open, Bounds { max_held: 1, ..tight.clone() })]) },
        Plan {
            patience: Some(secs(3)),
            begins: [1, 1, 0],
            words: &[],
            ..plan("little patience", vec![(Form::Open, tight.clone())])
        },
        Plan { begins: [1, 0, 0], trouble: 1, ..plan("two windows", vec![endless, apply]) },
        Plan {
            begins: [0, 0, 0],
            trouble: 0,
            ..plan("two changes", vec![(Form::Apply, tight.clone()), (Form::Apply, tight.clone())])
        },
        Plan {
            begins: [0, 0, 1],
            trouble: 1,
            old_timers: true,
            ..slow("two windows, slow drivers", vec![bounded, open])
        },
    ]);
    plans
}

/// Windows that leave some clients free, and processes that die.
fn scopes_and_crashes(tight: &Bounds) -> Vec<Plan> {
    let change = (Form::Apply, tight.clone());
    let cutting = (Form::Apply, Bounds { stragglers: Stragglers::Terminate, ..tight.clone() });
    let dies = |name, windows| Plan { crash: true, begins: [0, 0, 0], trouble: 1, words: &[], ..plan(name, windows) };
    vec![
        Plan {
            begins: [1, 1, 0],
            trouble: 0,
            words: &[],
            leaves_free: &[true],
            ..plan("the second client is free", vec![cutting.clone()])
        },
        Plan {
            begins: [0, 1, 1],
            trouble: 0,
            words: &[],
            leaves_free: &[true],
            ..plan("the second client is free, the third runs", vec![cutting])
        },
        Plan {
            begins: [0, 2, 0],
            trouble: 0,
            words: &[],
            leaves_free: &[true, false],
            patience: Some(secs(3)),
            ..plan("free of the first window only", vec![(Form::Open, tight.clone()), (Form::Open, tight.clone())])
        },
        Plan { begins: [1, 0, 1], ..dies("a crash among clients", vec![change.clone()]) },
        dies("a crash, then another operator", vec![change.clone(), change.clone()]),
        dies("a crash in a window by hand, then a change", vec![(Form::Open, tight.clone()), change.clone()]),
        Plan { trouble: 2, ..dies("two crashes", vec![change]) },
    ]
}
