//! Scripts of tags: `>` sent by the client, `<` received from the server. ReadyForQuery is written `ZI`, `ZT`, `ZE`.

use super::*;

/// Plays a script such as `>Q <T <D <C <ZI` and says how it ended.
fn play(script: &str) -> (Progress, Result<(), Unexpected>) {
    let (mut progress, _boundary) = Progress::fresh();
    for word in script.split_whitespace() {
        let bytes = word.as_bytes();
        let (direction, tag, status) = (bytes[0], bytes[1], &bytes[2..]);
        match direction {
            b'>' => progress.sent(tag),
            b'<' => {
                let amid = progress.is_amid(tag).then(|| format!("{progress:?}"));
                match progress.received(tag, status) {
                    Ok(heard) => assert!(
                        amid.is_none_or(|before| heard == Heard::Plain && before == format!("{progress:?}")),
                        "{script}: {word} changes something"
                    ),
                    Err(_) if amid.is_some() => panic!("{script}: {word} is unexpected"),
                    Err(unexpected) => return (progress, Err(unexpected)),
                }
            }
            other => panic!("bad word {}", other as char),
        }
    }
    (progress, Ok(()))
}

fn is_boundary(progress: &Progress) -> bool {
    progress.boundary(None, &Flow::default()).is_some()
}

/// The script is as Postgres would answer it, and the server is clean at its end, not before.
#[track_caller]
fn clean_at_the_end(script: &str) {
    let words: Vec<&str> = script.split_whitespace().collect();
    for n in 1..=words.len() {
        let (progress, result) = play(&words[..n].join(" "));
        assert_eq!(result, Ok(()), "{script}: at word {n}");
        assert_eq!(is_boundary(&progress), n == words.len(), "{script}: boundary after word {n}");
    }
}

#[track_caller]
fn never_clean(script: &str) {
    let (progress, _) = play(script);
    assert!(!is_boundary(&progress), "{script}");
}

#[test]
fn an_end_of_copy_data_that_nobody_reads_is_forgotten_with_what_was_before_it() {
    let (mut progress, _boundary) = Progress::fresh();
    progress.owe_own();
    progress.sent(client::COPY_DONE);
    progress.sent(client::SYNC);
    assert!(progress.next_is_own());
    assert_eq!(progress.received(server::READY_FOR_QUERY, b"I"), Ok(Heard::Plain));
    assert!(is_boundary(&progress));
}

#[test]
fn ordinary_requests() {
    clean_at_the_end(">Q <T <D <C <ZI");
    clean_at_the_end(">Q <I <ZI");
    clean_at_the_end(">Q <T <D <C <T <D <C <C <ZI");
    clean_at_the_end(">Q <N <S <A <C <ZI");
    clean_at_the_end(">Q <E <ZI");
    clean_at_the_end(">F <V <ZI");
    clean_at_the_end(">P >B >D >E >S <1 <2 <T <D <C <ZI");
    clean_at_the_end(">P >D >H <1 <t <n >B >E >S <2 <C <ZI");
    clean_at_the_end(">E >S <D <s <ZI");
    clean_at_the_end(">S <ZI");
    clean_at_the_end(">Q <C <ZT >Q <E <ZE >Q <C <ZI");
}

#[test]
fn replies_without_a_sync_are_no_boundary() {
    never_clean(">P >D >H <1 <t <T");
    never_clean(">P <1");
    never_clean(">P <E");
}

#[test]
fn pipelines_count_every_ready_for_query() {
    clean_at_the_end(">P >B >E >S >P >B >E >S <1 <2 <C <ZI <1 <2 <C <ZI");
    clean_at_the_end(">Q >Q >Q <C <ZI <C <ZI <C <ZI");
    never_clean(">S >S <ZI");
}

#[test]
fn an_error_skips_to_the_next_sync_only() {
    clean_at_the_end(">P >B >E >S >P >B >E >S <E <ZI <1 <2 <C <ZI");
    // The error is known before the Sync is sent: what comes between gets no reply.
    clean_at_the_end(">P >B <E >E >D >S <ZI");
    // A simple query inside the skipped range is skipped with it (Postgrex does this).
    clean_at_the_end(">B >E >Q >S <E <ZI");
    clean_at_the_end(">B <E >Q >S <ZI");
    // An error in a simple query skips nothing.
    clean_at_the_end(">Q >P >B >E >S <E <ZI <1 <2 <C <ZI");
    // An error at the Sync itself (a deferred constraint).
    clean_at_the_end(">P >B >E >S <1 <2 <C <E <ZI");
}

#[test]
fn copy() {
    clean_at_the_end(">Q <G >d >d >c <C <ZI");
    clean_at_the_end(">Q <G >d >f <E <ZI");
    clean_at_the_end(">Q <H <d <d <c <C <ZI");
    clean_at_the_end(">P >B >E >S <1 <2 <G >d >c >S <C <ZI");
    // The same with all of it sent before the first reply (tokio-postgres, bulk loaders).
    clean_at_the_end(">P >B >E >S >d >c >S <1 <2 <G <C <ZI");
    // Two COPYs in one simple query.
    clean_at_the_end(">Q <G >d >c <C <G >d >c <C <ZI");
    // Sync and Flush are ignored while the server reads data.
    clean_at_the_end(">P >B >E <1 <2 <G >d >S >H >d >c >S <C <ZI");
    // COPY fails before it begins: the end marker is nobody's.
    clean_at_the_end(">Q >d >c <E <ZI");
    clean_at_the_end(">Q <E >d >c <ZI");
    clean_at_the_end(">P >B >E >d >c >S <1 <2 <E <ZI");
}

#[test]
fn an_error_in_copy_data() {
    // Known while the client is still sending: the rest of its data is ignored by the server.
    clean_at_the_end(">Q <G >d <E <ZI");
    let (progress, result) = play(">Q <G >d <E <ZI >d >c");
    assert_eq!(result, Ok(()));
    assert!(is_boundary(&progress));
    clean_at_the_end(">P >B >E <1 <2 <G >d <E >d >c >S <ZI");
    never_clean(">Q <G >d >c");
    never_clean(">P >B >E <1 <2 <G >d >c <C");
}

/// A Sync sent ahead of COPY data is answered if the COPY fails before it has read that far (a statement trigger).
#[test]
fn a_copy_that_fails_may_answer_the_sync_that_it_should_have_ignored() {
    let (progress, _) = play(">P >B >E >S <1 <2 <G <E");
    assert!(!is_boundary(&progress) && progress.may_say_more());
    let (progress, result) = play(">P >B >E >S <1 <2 <G <E <ZI");
    assert!(result.is_ok() && is_boundary(&progress) && !progress.may_say_more());
    // The last Sync is under way already: is this the answer to the first or the last?
    let (progress, result) = play(">P >B >E >S <1 <2 <G >d >c >S <E <ZI");
    assert!(result.is_ok() && is_boundary(&progress) && progress.may_say_more());
    let (progress, result) = play(">P >B >E >S <1 <2 <G >d >c >S <E <ZI <ZI");
    assert!(result.is_ok() && is_boundary(&progress) && !progress.may_say_more());
    let (progress, _) = play(">P >B >E >S <1 <2 <G >d >c >S <C <ZI");
    assert!(is_boundary(&progress) && !progress.may_say_more());
}

#[test]
fn a_request_inside_copy_is_never_clean_again() {
    never_clean(">Q <G >Q <E <ZI");
    never_clean(">Q >Q <G <E <ZI <C <ZI");
}

#[test]
fn what_nobody_asked_for_breaks_the_server() {
    for script in [
        "<ZI",
        "<E",
        "<C",
        "<D",
        "<1",
        ">Q <1",
        ">P <2",
        ">Q <C <ZX",
        ">Q <C <Z",
        ">Q <ZI <ZI",
        ">P >S <C",
        ">S <D",
        ">Q <K",
        ">Q <R",
        ">Q <W",
        ">Q <y",
        ">P >B >E >S <1 <2 <C <ZI <E",
    ] {
        let (progress, result) = play(script);
        assert!(result.is_err() && progress.broken(), "{script}");
        assert!(!is_boundary(&progress), "{script}");
    }
}

#[test]
fn half_sent_bytes_are_no_boundary() {
    let (progress, _) = play(">Q <C <ZI");
    let mut flow = Flow::default();
    flow.buf.extend_from_slice(b"d\0\0\0\x08ab");
    let _ = flow.walk(|_, _, _| Ok::<_, crate::wire::frame::BadLength>(crate::wire::frame::Verdict::Pass));
    assert!(progress.boundary(Some(&flow), &Flow::default()).is_none());
    assert!(progress.boundary(None, &flow).is_none());
    assert!(is_boundary(&progress));
}

#[test]
fn a_shut_gate_may_stop_the_client_between_requests_only() {
    for (script, expected) in [
        (">Q", true),
        (">P >B >E >S", true),
        (">P >B", false),
        (">P <E", false),
        (">Q <G", false),
        (">P >B >E >S <1 <2 <G", false),
        // Answered, but the answer is not with the client yet: the next transaction must not slip past.
        (">Q <C <ZI", true),
        // In a transaction whose status is known: go on.
        (">Q <C <ZT", false),
    ] {
        assert_eq!(play(script).0.between_requests(), expected, "{script}");
    }
}

/// Arbitrary tag sequences never panic, and never give a boundary while a reply is owed.
#[test]
fn random_scripts_never_panic() {
    let mut seed = 0x5eed_u64;
    let mut next = move |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % n
    };
    let tags = b"QPBDECFHSdcfXp123nTtDCIsZGHdcVENASWKR?";
    for _ in 0..20_000 {
        let (mut progress, _boundary) = Progress::fresh();
        for _ in 0..next(24) {
            let tag = tags[next(tags.len())];
            if next(2) == 0 {
                progress.sent(tag);
            } else if progress.received(tag, [&b"I"[..], b"T", b"E", b""][next(4)]).is_err() {
                assert!(!is_boundary(&progress));
            }
        }
    }
}

/// Notes are kept on the messages in upper case behind `*`; `o` is one that the server never sees.
fn heard(script: &str) -> Vec<Heard> {
    let (mut progress, _boundary) = Progress::fresh();
    let mut heard = Vec::new();
    for word in script.split_whitespace() {
        let bytes = word.as_bytes();
        match (bytes[0], bytes[1]) {
            (b'>', b'o') => progress.owe_own(),
            (b'>', tag) => progress.sent(tag),
            (b'*', tag) => progress.sent_noted(tag),
            (_, tag) => {
                if progress.next_is_own() {
                    heard.push(Heard::Noted(true));
                }
                heard.push(progress.received(tag, &bytes[2..]).unwrap());
            }
        }
    }
    assert!(is_boundary(&progress), "{script}");
    heard
}

#[test]
fn notes_are_found_again_at_their_answers() {
    use Heard::{Failed, Noted, Plain};
    assert_eq!(heard("*P >B >E >S <1 <2 <C <ZI"), [Noted(true), Plain, Plain, Plain]);
    assert_eq!(heard("*D >S <t <T <ZI"), [Noted(false), Noted(true), Plain]);
    assert_eq!(heard("*Q <T <N <D <C <ZI"), [Noted(false), Plain, Noted(false), Noted(false), Noted(true)]);
    // The failing one, the skipped ones behind it, and not those behind the Sync.
    assert_eq!(heard("*P *P >B *C >S *P >S <E <ZI <1 <ZI"), [Failed(3, true), Plain, Noted(true), Plain]);
    assert_eq!(heard(">P *P >B *C >S <E <ZI"), [Failed(2, false), Plain]);
    assert_eq!(heard("*Q <E <ZI"), [Noted(false), Noted(true)]);
    // One that the server does not see is answered in its place, or skipped with the others.
    assert_eq!(heard(">D >o >B >S <t <T <2 <ZI"), [Plain, Plain, Noted(true), Plain, Plain]);
    assert_eq!(heard(">D >o >B >S <E <ZI"), [Failed(1, false), Plain]);
    // A COPY that has Syncs sent ahead of its data is not over when it begins.
    assert_eq!(heard("*Q >S <G >d >c <C <ZI"), [Noted(false), Noted(false), Noted(true)]);
}

#[test]
fn what_is_kept_from_the_server_still_needs_its_sync() {
    let (mut progress, _boundary) = Progress::fresh();
    progress.owe_own();
    assert!(progress.next_is_own() && !progress.at_rest());
    progress.sent(b'S');
    assert!(!progress.earlier_answered());
    progress.received(b'Z', b"I").unwrap();
    assert!(progress.earlier_answered() && is_boundary(&progress));
}
