//! One client of a script: it sends, and knows from the protocol alone what it still has to be answered.

use std::collections::VecDeque;

use super::notation::{Message, Wait};
use crate::support::wait::secs;
use crate::support::wire::{Msg, Wire, WireError, copy_fail, query, sync};

/// What came, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Message(Msg),
    /// The other side has closed the connection.
    Closed,
    /// What was waited for did not come.
    Stuck,
}

/// What one write carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slices {
    /// All that a step sends.
    Whole,
    /// Parts of this many bytes.
    Of(usize),
}

/// A request that is not yet answered.
#[derive(Clone, Copy)]
struct Owed {
    /// The tag of the request; `c` marks the end of COPY data that were sent before they were asked for.
    tag: u8,
    /// The other side cannot keep the answer back.
    due: bool,
}

pub(crate) struct Peer {
    wire: Wire,
    slices: Slices,
    /// Requests that are not yet answered.
    owed: VecDeque<Owed>,
    /// An error in the extended protocol: all up to Sync is skipped.
    skipping: bool,
    copy_in: bool,
    /// It has asked in the extended protocol since the last Sync: the server stays with it.
    unsynced: bool,
    status: u8,
    /// It has sent a simple query or function call amid requests without a Sync.
    pub(crate) mixed: bool,
    /// It has asked while the other client had the server.
    pub(crate) waiting: bool,
    pub(crate) ended: bool,
    pub(crate) seen: Vec<Event>,
}

impl Peer {
    pub(crate) fn new(wire: Wire, slices: Slices, limit: u64) -> Self {
        wire.limit(secs(limit));
        Self {
            wire,
            slices,
            owed: VecDeque::new(),
            skipping: false,
            copy_in: false,
            unsynced: false,
            status: b'I',
            mixed: false,
            waiting: false,
            ended: false,
            seen: vec![],
        }
    }

    /// Nothing is owed in either direction and no transaction is open.
    pub(crate) fn at_rest(&self) -> bool {
        self.ended || (self.owed.is_empty() && !self.copy_in && !self.unsynced && self.status == b'I')
    }

    pub(crate) const fn idle(&self) -> bool {
        self.status == b'I'
    }

    pub(crate) fn step(&mut self, messages: &[Message], wait: &Wait) {
        if self.ended {
            return;
        }
        for message in messages {
            self.ask(message.tag);
        }
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.bytes.clone()).collect();
        self.send(&bytes);
        match wait {
            Wait::Answered => self.read_while(|peer| peer.is_due() && !peer.copy_in),
            Wait::Tags(tags) => tags.iter().for_each(|tag| {
                let mut from = self.seen.len();
                self.read_while(|peer| {
                    let came =
                        peer.seen[from..].iter().any(|event| matches!(event, Event::Message(m) if m.tag == *tag));
                    from = peer.seen.len();
                    !came
                });
            }),
            Wait::Nothing => {}
        }
    }

    /// Ends what is open, by what was answered so far, so that the connection is at rest.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            if self.at_rest() {
                return;
            }
            if self.copy_in {
                self.ask(b'f');
                self.send(&copy_fail("settled"));
            } else if self.owed.is_empty() && !self.unsynced {
                self.ask(b'Q');
                self.send(&query("ROLLBACK"));
            }
            if self.unsynced {
                self.ask(b'S');
                self.send(&sync());
            }
            self.read_while(|peer| peer.is_due() && !peer.copy_in);
        }
    }

    /// A question of our own whose answer shows that nothing was left over.
    pub(crate) fn prove_in_step(&mut self) {
        self.settle();
        if !self.ended {
            self.ask(b'Q');
            self.send(&query("SELECT 'in step'"));
            let from = self.seen.len();
            let tag = |event: &Event| if let Event::Message(msg) = event { msg.tag } else { 0 };
            self.read_while(|peer| {
                !peer.seen[from..].windows(2).any(|two| tag(&two[0]) == b'C' && tag(&two[1]) == b'Z')
            });
        }
    }

    pub(crate) fn into_wire(self) -> Wire {
        self.wire
    }

    fn send(&mut self, bytes: &[u8]) {
        let slice = if let Slices::Of(count) = self.slices { count } else { bytes.len().max(1) };
        for part in bytes.chunks(slice) {
            // That the other side has closed shows when we read.
            if self.wire.send(part).is_err() {
                return;
            }
        }
    }

    fn is_due(&self) -> bool {
        self.owed.iter().any(|owed| owed.due && owed.tag != b'c')
    }

    /// Notes a request.
    fn ask(&mut self, tag: u8) {
        match tag {
            b'H' => self.owed.iter_mut().for_each(|owed| owed.due = true),
            // Ignored by the server while it takes a COPY.
            b'S' if self.copy_in => {}
            b'S' | b'Q' | b'F' => {
                if self.skipping && tag != b'S' {
                    return;
                }
                self.skipping = false;
                self.mixed |= self.unsynced && tag != b'S';
                self.unsynced = false;
                self.owed.push_back(Owed { tag, due: true });
                self.owed.iter_mut().for_each(|owed| owed.due = true);
            }
            b'P' | b'B' | b'D' | b'C' | b'E' if !self.skipping => {
                self.unsynced = true;
                self.owed.push_back(Owed { tag, due: false });
            }
            b'c' | b'f' if self.copy_in => {
                self.copy_in = false;
                if let Some(copy) = self.owed.front_mut() {
                    // In the extended protocol a Sync has to ask for the answer.
                    copy.due = copy.tag == b'Q';
                }
            }
            b'c' | b'f' if !self.owed.is_empty() => self.owed.push_back(Owed { tag: b'c', due: false }),
            _ => {}
        }
    }

    fn read_while(&mut self, mut goes_on: impl FnMut(&Self) -> bool) {
        while !self.ended && goes_on(self) {
            match self.wire.recv() {
                Ok(msg) => {
                    self.answer(&msg);
                    self.seen.push(Event::Message(msg));
                }
                Err(WireError::Closed) => {
                    self.ended = true;
                    self.seen.push(Event::Closed);
                }
                Err(_) => {
                    self.ended = true;
                    self.seen.push(Event::Stuck);
                }
            }
        }
    }

    fn front(&self) -> Option<u8> {
        self.owed.front().map(|owed| owed.tag)
    }

    fn pop(&mut self, tag: u8) {
        if self.front() == Some(tag) {
            self.owed.pop_front();
        }
    }

    fn answer(&mut self, msg: &Msg) {
        self.waiting = false;
        match msg.tag {
            b'1' => self.pop(b'P'),
            b'2' => self.pop(b'B'),
            b'3' => self.pop(b'C'),
            b'T' | b'n' => self.pop(b'D'),
            b'C' | b'I' | b's' => self.pop(b'E'),
            b'G' => {
                let end = self.owed.iter().position(|owed| owed.tag == b'c');
                self.copy_in = end.is_none();
                // Syncs that were sent ahead of the data, or amid them, are not answered.
                let mut left = end.unwrap_or(self.owed.len());
                self.owed.retain(|owed| {
                    let before = left > 0;
                    left = left.saturating_sub(1);
                    !(before && owed.tag == b'S')
                });
                if self.front() == Some(b'E') && !self.owed.iter().any(|owed| owed.tag == b'S') {
                    self.unsynced = true;
                    self.owed.iter_mut().for_each(|owed| owed.due = false);
                }
                if let Some(end) = self.owed.iter().position(|owed| owed.tag == b'c') {
                    self.owed.remove(end);
                }
            }
            b'E' => {
                self.copy_in = false;
                if self.front().is_some_and(|tag| !matches!(tag, b'Q' | b'F' | b'S')) {
                    // Simple queries are skipped too, up to Sync.
                    while self.front().is_some_and(|tag| tag != b'S') {
                        self.owed.pop_front();
                    }
                    self.skipping = self.owed.is_empty();
                    self.unsynced |= self.skipping;
                }
            }
            b'Z' => {
                self.status = msg.body.first().copied().unwrap_or_default();
                while let Some(owed) = self.owed.pop_front() {
                    if matches!(owed.tag, b'Q' | b'F' | b'S') {
                        break;
                    }
                }
            }
            _ => {}
        }
        // Data that nobody asked for are thrown away.
        while self.front() == Some(b'c') {
            self.owed.pop_front();
        }
    }
}
