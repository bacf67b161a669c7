//! A client's messages in, a server's messages out, in a short notation, with the answers in between.

use super::*;
use crate::server::parameters::Parameters;
use crate::server::progress::{Heard, Progress};
use crate::session::answers::Answers;
use crate::wire::frame::header;

/// One client and one server, joined by the two machines under test.
struct Pair {
    names: Names,
    slots: Slots,
    progress: Progress,
    catalog: Catalog,
    parameters: Parameters,
    leaves: Leaves,
    counts: Counts,
    limit: usize,
}

fn pair() -> Pair {
    let (progress, _boundary) = Progress::fresh();
    Pair {
        names: Names::default(),
        slots: Slots::default(),
        progress,
        catalog: Catalog::new(1 << 20),
        parameters: Parameters::default(),
        leaves: Leaves::default(),
        counts: Counts::default(),
        limit: 200,
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend(body);
    out
}

/// `Ps:text` `Bs` `Ds` `Cs` `Qtext` and tags alone; the unnamed statement has an empty name. `Bs*2`: with formats for two columns,
/// `Dportal`: of the unnamed portal.
fn request(word: &str) -> (u8, Vec<u8>) {
    let (tag, rest) = (word.as_bytes()[0], &word[1..]);
    let (rest, formats) = rest.split_once('*').unwrap_or((rest, "0"));
    let body = match tag {
        b'P' => {
            let (name, text) = rest.split_once(':').unwrap();
            [name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat()
        }
        b'B' => {
            let formats = formats.parse::<u8>().unwrap();
            [b"\0", rest.as_bytes(), b"\0\0\0\0\0\0", &[formats], &vec![0; 2 * usize::from(formats)]].concat()
        }
        b'D' if rest == "portal" => b"P\0".to_vec(),
        b'D' | b'C' => [b"S", rest.as_bytes(), b"\0"].concat(),
        b'Q' => [rest.as_bytes(), b"\0"].concat(),
        b'E' => b"\0\0\0\0\0".to_vec(),
        _ => Vec::new(),
    };
    (tag, body)
}

/// The same notation for what goes out; it is checked to be whole messages on the way.
fn notation(mut bytes: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(head) = header(bytes).unwrap() {
        let body = &bytes[HEADER..HEADER + head.body];
        let text = |bytes: &[u8]| String::from_utf8_lossy(string(bytes).unwrap()).into_owned();
        words.push(match head.tag {
            b'P' => {
                let name = text(body);
                format!("P{name}:{}", text(&body[name.len() + 1..]))
            }
            b'B' => format!("B{}", text(&body[text(body).len() + 1..])),
            b'D' if body[0] == b'P' => "Dportal".to_owned(),
            b'D' | b'C' => format!("{}{}", char::from(head.tag), text(&body[1..])),
            b'Q' => format!("Q{}", text(body)),
            tag => char::from(tag).to_string(),
        });
        bytes = &bytes[HEADER + head.body..];
    }
    assert!(bytes.is_empty());
    words
}

impl Pair {
    /// One message of the client's; what goes out, and `...` if it has to wait.
    fn send(&mut self, word: &str) -> Vec<String> {
        let (tag, body) = request(word);
        let mut out = BytesMut::new();
        let verdict = Translate {
            names: &mut self.names,
            slots: &mut self.slots,
            progress: &mut self.progress,
            catalog: &self.catalog,
            reading: Reading(&self.parameters, None),
            client: SessionId(1),
            limit: self.limit,
            leaves: &mut self.leaves,
            counts: &mut self.counts,
            fresh: false,
            asks_sequences: false,
            may_ask: true,
            errand: &mut false,
        }
        .judge(Header { tag, body: body.len() }, &body, &mut out);
        let whole = message(tag, &body);
        match verdict {
            Verdict::Pass => out.extend_from_slice(&whole),
            Verdict::Without(first) => out.extend_from_slice(&whole[first..]),
            Verdict::Drop => {}
            Verdict::Stop => return [notation(&out), vec!["...".to_owned()]].concat(),
            Verdict::Whole => panic!("all of it is there"),
        }
        notation(&out)
    }

    /// Messages of the client's, none of which may wait.
    fn sends(&mut self, words: &str) -> String {
        words.split(' ').flat_map(|word| self.send(word)).collect::<Vec<_>>().join(" ")
    }

    /// Messages of the server's; what the client gets of them, by their tags. `E26000:text` is an error.
    fn gets(&mut self, words: &str) -> String {
        let mut got = Vec::new();
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            let mut out = BytesMut::new();
            let mut answers = Answers { names: &mut self.names, slots: &mut self.slots };
            answers.own(&mut self.progress, &mut out);
            let (tag, rest) = (word.as_bytes()[0], &word[1..]);
            let body = match tag {
                b'E' => {
                    let (code, text) = rest.split_once(':').unwrap_or((rest, ""));
                    format!("SERROR\0C{code}\0M{}\0RRevalidateCachedQuery\0\0", text.replace('+', " ")).into_bytes()
                }
                b'T' => [b"\0\x01", rest.as_bytes(), b"\0", &[0; 18][..]].concat(),
                b'C' => [rest.replace('+', " ").as_bytes(), b"\0"].concat(),
                _ => rest.as_bytes().to_vec(),
            };
            let kept = answers.keeps(tag);
            let heard: Heard = self.progress.received(tag, &body).unwrap();
            let verdict = answers.judge(heard, (Header { tag, body: body.len() }, &body), &mut out);
            if tag == b'C' {
                answers.command(&body);
            }
            if verdict == Verdict::Pass && !kept {
                out.extend_from_slice(&message(tag, &body));
            }
            answers.own(&mut self.progress, &mut out);
            got.push(out);
        }
        let mut text = String::new();
        let mut bytes = &got.concat()[..];
        while let Some(head) = header(bytes).unwrap() {
            text.push(char::from(head.tag));
            if head.tag == b'E' {
                let body = &bytes[HEADER..HEADER + head.body];
                let fields = body.split(|&byte| byte == 0).filter(|field| matches!(field.first(), Some(b'C' | b'M')));
                text += &fields
                    .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
                    .collect::<Vec<_>>()
                    .join(" ");
            }
            bytes = &bytes[HEADER + head.body..];
        }
        text
    }

    /// What is to be sent again.
    fn again(&mut self) -> String {
        assert!(self.slots.replay.is_due() && self.progress.at_rest());
        notation(&self.slots.replay.take()).join(" ")
    }

    fn rests(&mut self) {
        Answers { names: &mut self.names, slots: &mut self.slots }.batch_ends(self.progress.batches_owed());
    }

    fn own(&mut self) -> usize {
        let mut out = BytesMut::new();
        Answers { names: &mut self.names, slots: &mut self.slots }.own(&mut self.progress, &mut out);
        out.len() / HEADER
    }

    /// The same client on another server.
    fn moves(&mut self) {
        assert!(self.slots.notes.is_empty() && !self.slots.doubtful());
        self.slots = Slots::default();
        (self.progress, _) = Progress::fresh();
    }
}

#[test]
fn trap_14_names_become_ours_and_portals_keep_theirs() {
    let mut pair = pair();
    assert_eq!(pair.sends("Ps:one Ds Bs E S"), "Ppglull_1:one Dpglull_1 Bpglull_1 E S");
    assert_eq!(pair.gets("1 t Ta 2 Cx ZI"), "1tT2CZ");
    assert_eq!(pair.sends("Bs E S"), "Bpglull_1 E S");
    assert_eq!(pair.gets("2 Cx ZI"), "2CZ");
    assert_eq!(pair.counts, Counts { client_parses: 1, server_parses: 1, binds: 2 });
}

#[test]
fn trap_14_a_statement_follows_its_client_to_another_server() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    pair.moves();
    assert_eq!(pair.sends("Bs E S"), "Ppglull_1:one Bpglull_1 E S");
    assert_eq!(pair.gets("1 2 Cx ZI"), "2CZ");
    assert_eq!(pair.sends("Bs S"), "Bpglull_1 S");
}

#[test]
fn trap_15_what_the_server_has_is_answered_in_its_place() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    // Another name, the same text: between two answers of the server's, the Describe's and the Bind's.
    assert_eq!(pair.sends("Ds Pt:one Bt S"), "Dpglull_1 Bpglull_1 S");
    assert_eq!(pair.gets("t n 2 ZI"), "tn12Z");
    // At the front of a batch it is answered at once.
    pair.sends("Pu:one");
    assert_eq!(pair.own(), 1);
    assert_eq!(pair.sends("H S"), "H S");
    assert_eq!(pair.gets("ZI"), "Z");
}

#[test]
fn trap_15_a_failing_parse_of_ours_is_the_binds_error() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    pair.moves();
    pair.sends("Bs E S");
    assert_eq!(pair.gets("E42P01:gone ZI"), "E42P01 goneZ");
    // It is not taken to be there.
    assert_eq!(pair.sends("Bs S"), "Ppglull_1:one Bpglull_1 S");
}

#[test]
fn trap_16_a_name_in_use_is_refused_by_postgres_in_the_clients_words() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    assert_eq!(pair.sends("Ps:two S"), "Ppglull_1:two S");
    assert_eq!(pair.gets("E42P05:statement+\"pglull_1\"+exists ZI"), "E42P05 statement \"s\" existsZ");
    assert_eq!(pair.sends("Bs S"), "Bpglull_1 S");
}

#[test]
fn a_name_of_a_failed_batch_is_not_defined() {
    let mut pair = pair();
    pair.sends("Pbad:x Ps:one S");
    assert_eq!(pair.gets("E42601:syntax ZI"), "E42601 syntaxZ");
    assert_eq!(pair.sends("Bs S"), "Bs S", "Postgres says that there is no such name");
    assert!(pair.names.is_empty() && pair.slots.is_empty());
}

#[test]
fn a_later_batch_waits_for_what_it_depends_on() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    assert_eq!(pair.send("Bs"), ["..."]);
    pair.gets("1 ZI");
    assert_eq!(pair.send("Bs"), ["Bpglull_1"]);
}

#[test]
fn close_is_answered_here_and_the_server_keeps_the_statement() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    assert_eq!(pair.sends("Cs S"), "S");
    assert_eq!(pair.gets("ZI"), "3Z");
    assert_eq!(pair.sends("Bs S"), "Bs S");
    pair.gets("E26000 ZI");
    assert_eq!(pair.sends("Ps:one S"), "S", "known on the server");
    assert_eq!(pair.sends("Cunknown S"), "Cunknown S", "it may be one that SQL has prepared");
}

#[test]
fn trap_17_the_longest_unused_is_closed_first_inside_the_batch() {
    let mut pair = pair();
    pair.limit = 2;
    for (name, text) in [("a", "one"), ("b", "two")] {
        pair.sends(&format!("P{name}:{text} S"));
        pair.gets("1 ZI");
    }
    assert_eq!(pair.sends("Ba Pc:three Bc S"), "Bpglull_1 Cpglull_2 Ppglull_3:three Bpglull_3 S");
    assert_eq!(pair.gets("2 3 1 2 ZI"), "212Z");
    assert_eq!(pair.sends("Bb S"), "Cpglull_1 Ppglull_2:two Bpglull_2 S");
    // Both were skipped: the one is still there, the other is not.
    assert_eq!(pair.gets("E42601:x ZI"), "E42601 xZ");
    assert_eq!(pair.sends("Bb S"), "Cpglull_1 Ppglull_2:two Bpglull_2 S");
    assert_eq!(pair.gets("3 1 2 ZI"), "2Z");
}

#[test]
fn trap_13_the_unnamed_statement_follows_its_client() {
    let mut pair = pair();
    pair.sends("P:one S");
    pair.gets("1 ZI");
    assert_eq!(pair.sends("B E S"), "B E S");
    pair.gets("2 Cx ZI");
    pair.moves();
    assert_eq!(pair.sends("B E S"), "P:one B E S");
    assert_eq!(pair.gets("1 2 Cx ZI"), "2CZ");
    assert_eq!(pair.sends("B E S"), "B E S");
}

#[test]
fn trap_13_without_one_postgres_says_so_and_nobody_elses_is_run() {
    let mut pair = pair();
    assert_eq!(pair.sends("B E S"), "C B E S");
    assert_eq!(pair.gets("3 E26000:unnamed ZI"), "E26000 unnamedZ");
    // A simple query ends it.
    pair.sends("P:one S");
    pair.gets("1 ZI");
    pair.sends("Qselect");
    assert_eq!(pair.send("B"), ["..."], "whether the query is run is not known yet");
    pair.gets("Cx ZI");
    assert_eq!(pair.sends("B S"), "C B S");
}

#[test]
fn a_skipped_unnamed_parse_leaves_the_one_before() {
    let mut pair = pair();
    pair.sends("P:one S");
    pair.gets("1 ZI");
    pair.sends("Bnosuch P:two S");
    assert_eq!(pair.send("B"), ["..."]);
    pair.gets("E26000:x ZI");
    assert_eq!(pair.sends("B S"), "B S", "the server has it still");
    pair.gets("2 ZI");
    pair.moves();
    assert_eq!(pair.sends("B S"), "P:one B S");
}

#[test]
fn in_a_failed_transaction_the_unnamed_statement_of_before_is_not_given_again() {
    let mut pair = pair();
    pair.sends("Qbegin");
    pair.gets("CBEGIN ZT");
    pair.sends("P:one Dnosuch P:two P:three S");
    pair.gets("1 E26000:x ZE");
    assert_eq!(pair.sends("D S"), "D S");
}

#[test]
fn trap_19_a_changed_shape_is_postgres_own_error() {
    let mut pair = pair();
    pair.sends("Ps:one Ds S");
    pair.gets("1 t Ta ZI");
    pair.moves();
    // Told the same: nothing is noticed.
    assert_eq!(pair.send("Bs"), ["Ppglull_1:one", "Dpglull_1", "H", "..."]);
    assert_eq!(pair.gets("1 t Ta"), "");
    assert_eq!(pair.sends("Bs S"), "Bpglull_1 S");
    assert_eq!(pair.gets("2 ZI"), "2Z");
    pair.moves();
    assert_eq!(pair.send("Bs"), ["Ppglull_1:one", "Dpglull_1", "H", "..."]);
    assert_eq!(pair.gets("1 t Tb"), "");
    assert_eq!(pair.sends("Bs E S"), "Dpglull_0 E S");
    assert_eq!(pair.gets("E26000:none ZI"), "E0A000 cached plan must not change result typeZ");
    // Described anew, it is good again.
    assert_eq!(pair.sends("Ds"), "Dpglull_1");
    assert_eq!(pair.send("Bs"), ["Cpglull_1", "Ppglull_1:one", "Dpglull_1", "H", "..."]);
    assert_eq!(pair.gets("t Tb 3 1 t Tb"), "tT");
    assert_eq!(pair.sends("Bs S"), "Bpglull_1 S");
    pair.gets("2 ZI");
    assert_eq!(pair.sends("Bs S"), "Bpglull_1 S");
}

#[test]
fn trap_19_whoever_was_told_nothing_never_notices() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    pair.slots.schema_changed();
    assert_eq!(pair.sends("Bs E S"), "Cpglull_1 Ppglull_1:one Bpglull_1 E S");
    assert_eq!(pair.gets("3 1 2 Cx ZI"), "2CZ");
}

#[test]
fn trap_19_a_stale_plan_is_stale_on_every_server() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    pair.sends("Qbegin");
    pair.gets("CBEGIN ZT");
    pair.sends("Bs S");
    assert_eq!(pair.gets("E0A000:changed ZE"), "E0A000 changedZ", "the block has failed, as it would have directly");
    assert!(pair.slots.found_stale);
    pair.sends("Qrollback");
    pair.gets("CROLLBACK ZI");
    assert_eq!(pair.sends("Bs S"), "Cpglull_1 Ppglull_1:one Bpglull_1 S");
}

#[test]
fn trap_19_outside_a_block_a_stale_plan_is_prepared_anew_unseen() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    pair.sends("Bs Dportal E S");
    assert_eq!(pair.gets("E0A000:changed ZI"), "");
    assert_eq!(pair.again(), "Bs Dportal E S");
    assert_eq!(pair.sends("Bs Dportal E S"), "Cpglull_1 Ppglull_1:one Bpglull_1 Dportal E S");
    assert_eq!(pair.gets("3 1 2 Ta Cx ZI"), "2TCZ");
}

#[test]
fn trap_19_a_stale_description_is_asked_for_again_unseen() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    // Another name for what the server has: nothing on the server is the client's own doing.
    assert_eq!(pair.sends("Pt:one Dt"), "Dpglull_1");
    assert_eq!(pair.gets("t"), "1", "what comes before the question whether it is stale waits");
    assert_eq!(pair.gets("E0A000:changed"), "");
    assert_eq!(pair.sends("S"), "S");
    assert_eq!(pair.gets("ZI"), "");
    assert_eq!(pair.again(), "Dt");
    assert_eq!(pair.sends("Dt S"), "Cpglull_1 Ppglull_1:one Dpglull_1 S");
    assert_eq!(pair.gets("3 1 t Ta ZI"), "tTZ");
    // Any other error is Postgres' own, behind what it has said before.
    pair.sends("Pu:one Du S");
    assert_eq!(pair.gets("t E57014:cancelled ZI"), "1tE57014 cancelledZ");
}

#[test]
fn trap_19_other_errors_and_later_uses_are_passed_on() {
    let mut pair = pair();
    pair.sends("Pa:one Pb:two S");
    pair.gets("1 1 ZI");
    pair.sends("Ba E Bb E S");
    assert_eq!(pair.gets("2 Cx E0A000:changed ZI"), "2CE0A000 changedZ", "the first has run");
    pair.sends("Ba S");
    assert_eq!(pair.gets("E22000:other ZI"), "E22000 otherZ");
    pair.sends("Ba S Ba S");
    assert_eq!(pair.gets("E0A000:changed ZI 2 ZI"), "E0A000 changedZ2Z", "the next batch has run");
}

#[test]
fn trap_19_who_goes_by_an_earlier_portal_is_told() {
    let mut pair = pair();
    pair.sends("Ps:one Bs Dportal E S");
    pair.gets("1 2 Ta Cx ZI");
    // Nothing was asked of a portal since, and nothing has changed.
    assert_eq!(pair.sends("Bs*2 E S"), "Bpglull_1 E S");
    pair.gets("2 Cx ZI");
    pair.slots.schema_changed();
    assert_eq!(pair.send("Bs*2"), ["Cpglull_1", "Ppglull_1:one", "Dpglull_1", "H", "..."]);
    assert_eq!(pair.gets("3 1 t Tb"), "");
    assert_eq!(pair.sends("Bs*2 E S"), "Dpglull_0 E S");
    assert_eq!(pair.gets("E26000:none ZI"), "E0A000 cached plan must not change result typeZ");
    // One format for all columns: it is asked when it is known that the client does not ask.
    assert_eq!(pair.sends("Bs*1 E S"), "Bpglull_1 Dpglull_0 S");
    assert_eq!(pair.gets("2 E26000:none ZI"), "2E0A000 cached plan must not change result typeZ");
    assert_eq!(pair.sends("Bs*1 Dportal E S"), "Bpglull_1 Dportal E S");
    assert_eq!(pair.gets("2 Tb Cx ZI"), "2TCZ");
    assert_eq!(pair.sends("Bs*2 E S"), "Bpglull_1 E S");
}

#[test]
fn trap_19_a_question_of_ours_meets_no_stale_statement() {
    let mut pair = pair();
    pair.sends("Ps:one Bs Dportal E S");
    pair.gets("1 2 Ta Cx ZI");
    pair.moves();
    pair.sends("Pt:one S");
    pair.gets("1 ZI");
    // On that server it may be stale, and the error would be the client's. The same where it is known to differ.
    assert_eq!(pair.send("Bs*2"), ["Cpglull_1", "Ppglull_1:one", "Dpglull_1", "H", "..."]);
    assert_eq!(pair.gets("3 1 t Tb"), "");
    assert_eq!(pair.sends("Bs*2 E S"), "Dpglull_0 E S");
    assert_eq!(pair.gets("E26000:none ZI"), "E0A000 cached plan must not change result typeZ");
    assert_eq!(pair.send("Bs*2"), ["Cpglull_1", "Ppglull_1:one", "Dpglull_1", "H", "..."]);
    assert_eq!(pair.gets("3 1 t Ta"), "");
    assert_eq!(pair.sends("Bs*2 E S"), "Bpglull_1 E S");
}

#[test]
fn trap_18_sql_may_name_what_the_protocol_has_prepared() {
    let mut pair = pair();
    pair.sends("Ppdo:one S");
    pair.gets("1 ZI");
    assert_eq!(pair.sends("Qdeallocate\tpdo"), "Qdeallocate\tpglull_1");
    assert_eq!(pair.gets("CDEALLOCATE ZI"), "CZ");
    assert!(pair.names.is_empty() && pair.slots.is_empty());
    assert_eq!(pair.sends("Qdeallocate\tpdo"), "Qdeallocate\tpdo");
    pair.gets("E26000 ZI");
    pair.sends("Ppdo:one S");
    pair.gets("1 ZI");
    pair.sends("Qdeallocate\tall");
    pair.gets("CDEALLOCATE+ALL ZI");
    assert!(pair.names.is_empty() && pair.slots.is_empty());
}

#[test]
fn trap_18_in_a_list_and_in_the_extended_protocol_too() {
    let mut pair = pair();
    pair.sends("Pa:one Pb:two S");
    pair.gets("1 1 ZI");
    let sent = pair.sends("Qbegin;deallocate\ta;deallocate\tother;select\t'deallocate\tb'");
    assert_eq!(sent, "Qbegin;deallocate\tpglull_1;deallocate\tother;select\t'deallocate\tb'");
    assert_eq!(pair.gets("CBEGIN CDEALLOCATE E26000 ZE"), "CCE26000 Z");
    pair.rests();
    assert_eq!((pair.names.len(), pair.slots.len()), (1, 1));
    pair.sends("Qrollback");
    pair.gets("CROLLBACK ZI");
    assert_eq!(pair.sends("P:deallocate\tb B E S"), "P:deallocate\tpglull_2 B E S");
    pair.gets("1 2 CDEALLOCATE ZI");
    assert!(pair.names.is_empty());
    // All in one batch, and with the name given again.
    assert_eq!(pair.sends("Pc:three P:deallocate\tc B E"), "Ppglull_3:three P:deallocate\tpglull_3 B E");
    assert_eq!(pair.send("Pc:three"), ["H", "..."]);
    assert_eq!(pair.gets("1 1 2 CDEALLOCATE"), "112C");
    assert_eq!(pair.sends("Pc:three Bc S"), "Ppglull_3:three Bpglull_3 S");
    assert_eq!(pair.gets("1 2 ZI"), "12Z");
    // One that was not reached.
    assert_eq!(pair.sends("Bnosuch P:deallocate\tc B E S"), "Bnosuch P:deallocate\tpglull_3 B E S");
    pair.gets("E26000 ZI");
    pair.rests();
    assert_eq!(pair.sends("Bc S"), "Bpglull_3 S");
}

#[test]
fn trap_18_behind_what_may_end_statements_nothing_is_known() {
    for ends in ["P:deallocate\tall", "P:discard\tall"] {
        let mut pair = pair();
        pair.sends("Ps:one S");
        pair.gets("1 ZI");
        pair.sends(&format!("{ends} B Bs E"));
        pair.gets("1 2 2 Cx");
        pair.sends(&format!("{ends} B E"));
        for waits in ["Pt:one", "Bs", "Ds", "Cs", "P:execute\ts", "Qexecute\ts"] {
            assert_eq!(pair.send(waits).last().unwrap(), "...", "{waits} behind {ends}");
        }
        assert_eq!(pair.sends("P:other B"), "P:other B", "what names nothing goes on");
        assert_eq!(pair.send("Pt:one"), ["..."], "it was told to hurry already");
        assert_eq!(pair.gets("1 2 CDEALLOCATE+ALL"), "12C");
        assert_eq!(pair.send("Pt:one"), ["H", "..."]);
        pair.gets("1 2");
        assert_eq!(pair.sends("Pt:one Bt E Bt S"), "Ppglull_1:one Bpglull_1 E Bpglull_1 S");
        pair.gets("1 2 Cx 2 ZI");
        // A query is answered without being told to hurry.
        pair.sends(&format!("Qbegin;{}", &ends[2..]));
        assert_eq!(pair.send("Bt").last().unwrap(), "...");
        pair.gets("CBEGIN CDEALLOCATE+ALL ZT");
        assert_eq!(pair.sends("Pt:one Bt S"), "Ppglull_1:one Bpglull_1 S");
    }
}

#[test]
fn trap_18_a_text_names_what_its_name_stands_for_when_it_is_run() {
    let mut pair = pair();
    pair.sends("Ps:one P:execute\ts S");
    pair.gets("1 1 ZI");
    assert_eq!(pair.sends("B E S"), "B E S");
    pair.gets("2 Cx ZI");
    pair.moves();
    assert_eq!(pair.sends("B E S"), "Ppglull_1:one P:execute\tpglull_1 B E S");
    pair.gets("1 1 2 Cx ZI");
    pair.sends("Cs Ps:two S");
    pair.gets("1 ZI");
    assert_eq!(pair.sends("B E S"), "P:execute\tpglull_2 B E S");
    assert_eq!(pair.gets("1 2 Cx ZI"), "2CZ");
    // It is not known yet that the text is the client's.
    pair.sends("P:deallocate\ts Cs Ps:one");
    assert_eq!(pair.send("B"), ["H", "..."]);
    assert_eq!(pair.gets("1"), "131");
    pair.sends("S");
    pair.gets("ZI");
    pair.moves();
    // Only to be ended, it need not be there.
    assert_eq!(pair.sends("B E S"), "Ppglull_3: P:deallocate\tpglull_3 B E S");
    assert_eq!(pair.gets("1 1 2 CDEALLOCATE ZI"), "2CZ");
    assert!(pair.names.is_empty() && pair.slots.is_empty());
    assert_eq!(pair.sends("B E S"), "P:deallocate\ts B E S", "Postgres says in the client's words that it is gone");
}

#[test]
fn in_a_failed_transaction_postgres_refuses_by_itself() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    pair.sends("Qbad");
    pair.gets("E42601 ZE");
    assert_eq!(pair.sends("Pt:one S"), "Cpglull_1 Ppglull_1:one S");
    assert_eq!(pair.gets("3 E25P02:aborted ZE"), "E25P02 abortedZ");
    assert!(matches!(pair.names.find(b"t", 99), Found::Unknown));
}

#[test]
fn our_names_in_a_clients_mouth_are_nobodys() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    assert_eq!(pair.sends("Bpglull_1 Cpglull_1 Dpglull_1 S"), "Bpglull_0 Cpglull_0 Dpglull_0 S");
}

#[test]
fn what_is_skipped_is_passed_as_it_is() {
    let mut pair = pair();
    pair.sends("Ps:one S");
    pair.gets("1 ZI");
    pair.sends("Bnosuch");
    pair.gets("E26000:x");
    assert_eq!(pair.sends("Ps:two Bs S"), "Ps:two Bs S");
    pair.gets("ZI");
    assert_eq!(pair.sends("Bs S"), "Bpglull_1 S");
}
