//! What to do when a window did not apply its change, for somebody who is tired: what is the case now, and the next command.
//!
//! Pure: the last that was told of the window goes in, lines come out.

use super::live::Status;
use super::table::visible;

/// How the reason of an outcome begins, and what helps. The reasons are those of `docs/runbook.md`.
const NEXT: [(&str, &str); 8] = [
    (
        "drain bound reached",
        "`pglull window blockers DB` tells who has a transaction open now; then again, with a longer --drain, or with \
         --start-within 30min, which waits for a good moment",
    ),
    (
        "apply bound reached",
        "`pglull window rehearse DB --rollback` with the change tells how long it takes; then again, with a longer --apply",
    ),
    (
        "hold bound reached",
        "then again, with a longer --hold, if the clients have the patience; or with a shorter change",
    ),
    ("more clients held", "again in a quieter hour, or with a larger max_held in the configuration"),
    (
        "the change failed",
        "mend the change, and again; `pglull window rehearse DB --rollback` tries it and keeps nothing",
    ),
    ("tenure over", "see why this terminal or job fell silent; then again"),
    ("the owner's connection", "see why this terminal or job has died; then again"),
    ("pooler is shutting down", "again, when pglull has started"),
];

/// The lines to say, for a window whose change is not applied.
#[must_use]
pub(super) fn advice(status: &Status) -> Vec<String> {
    let (reason, database) = (status.text("reason"), visible(status.text("database")));
    let by_hand = status.text("form") == "open";
    let now = match status.text("outcome") {
        "refused" => "nobody was held, and nothing is changed",
        "aborted" if by_hand => "the clients go on. What the command has committed by itself is there: look",
        "aborted" => "nothing is changed: the old schema stays, and the clients go on",
        "unknown" => {
            "nobody knows yet whether the change is committed, and the clients go on. Look before you apply it again"
        }
        _ => return Vec::new(),
    };
    let next = match status.text("outcome") {
        "refused" => {
            Some("`pglull window rehearse DB` tells every check; --force starts in spite of those that you name")
        }
        "unknown" => {
            Some("`SELECT * FROM pglull.change` in the database: a row with the window's id and applied_at is a commit")
        }
        _ => NEXT.iter().find(|(begin, _)| reason.starts_with(begin)).map(|(_, next)| *next),
    };
    let next = next.map(|text| format!("next: {}", text.replace("DB", &database)));
    [now.to_owned()].into_iter().chain(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::Rows;

    fn told(pairs: &[(&str, &str)]) -> String {
        let rows = pairs.iter().map(|(key, value)| vec![Some((*key).to_owned()), Some((*value).to_owned())]).collect();
        advice(&Status::from_rows(&Rows { rows, ..Rows::default() })).join("\n")
    }

    #[test]
    fn it_says_what_is_the_case_and_what_comes_next() {
        let of = |outcome, reason| {
            told(&[("database", "shop"), ("form", "apply"), ("outcome", outcome), ("reason", reason)])
        };
        for (outcome, reason, expect) in [
            (
                "aborted",
                "drain bound reached: transactions were still open: client 3",
                ["old schema stays", "blockers shop"],
            ),
            ("aborted", "apply bound reached: the change was not committed in time", ["old schema stays", "--apply"]),
            (
                "aborted",
                "the change failed: relation \"x\" does not exist (42P01)",
                ["old schema stays", "rehearse shop"],
            ),
            ("refused", "sessions: process 7", ["nobody was held", "--force"]),
            ("unknown", "the answer to COMMIT was lost", ["nobody knows", "pglull.change"]),
        ] {
            let text = of(outcome, reason);
            assert!(expect.iter().all(|part| text.contains(part)), "{text}");
        }
        assert_eq!(of("aborted", "aborted by the operator").lines().count(), 1);
        assert_eq!(of("applied", ""), "");
    }

    #[test]
    fn of_a_command_nothing_is_promised_that_pglull_does_not_know() {
        let text = told(&[
            ("form", "open"),
            ("outcome", "aborted"),
            ("reason", "aborted by the operator: the command ended with exit code 1"),
        ]);
        assert!(text.contains("committed by itself") && !text.contains("old schema"), "{text}");
    }

    #[test]
    fn every_reason_stands_in_the_runbook() {
        let runbook = include_str!("../../docs/runbook.md");
        for (begin, _) in NEXT {
            assert!(runbook.contains(&format!("`{begin}")), "{begin}");
        }
    }
}
