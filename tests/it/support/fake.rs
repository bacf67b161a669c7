//! A server that speaks just enough of the protocol to show what Postgres 15 does not: other versions, other keys.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::msg::{cstr, msg_of};

/// How it behaves.
#[derive(Clone)]
pub(crate) struct Manners {
    /// The newest minor version; whoever asks for more is told so, or sent away if it is `rude`.
    pub(crate) minor: u16,
    pub(crate) rude: bool,
    /// Its cancel key; `None`: it sends no BackendKeyData.
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) version: String,
}

/// The one that sleeps, for the cancel request to find, and how its transaction is: `I`, `T` or `E`.
struct Sleeper {
    stream: TcpStream,
    status: Arc<Mutex<u8>>,
}

/// What it has seen: minor versions that were asked for, keys of cancel requests.
#[derive(Default)]
struct Seen {
    versions: Vec<u16>,
    keys: Vec<Vec<u8>>,
}

/// A running one. It answers each query with nothing, but one that has `sleep` in it, or `DISCARD SEQUENCES`, only when it is
/// cancelled, and goes away after one that has `close` in it.
pub(crate) struct Fake {
    pub(crate) port: u16,
    pub(crate) manners: Arc<Mutex<Manners>>,
    seen: Arc<Mutex<Seen>>,
    sleeper: Arc<Mutex<Option<Sleeper>>>,
}

impl Fake {
    pub(crate) fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            port: listener.local_addr().unwrap().port(),
            manners: Arc::new(Mutex::new(manners)),
            seen: Arc::default(),
            sleeper: Arc::default(),
        };
        let (manners, seen, sleeper) = (Arc::clone(&fake.manners), Arc::clone(&fake.seen), Arc::clone(&fake.sleeper));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (manners, seen, sleeper) =
                    (manners.lock().unwrap().clone(), Arc::clone(&seen), Arc::clone(&sleeper));
                thread::spawn(move || serve(stream, &manners, &seen, &sleeper));
            }
        });
        fake
    }

    /// The minor versions that were asked for, one for each connection.
    pub(crate) fn versions(&self) -> Vec<u16> {
        self.seen.lock().unwrap().versions.clone()
    }

    /// Whether a query sleeps.
    pub(crate) fn sleeps(&self) -> bool {
        self.sleeper.lock().unwrap().is_some()
    }

    /// The keys of the cancel requests.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().keys.clone()
    }
}

fn packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

fn error(severity: &str, code: &str, text: &str) -> Vec<u8> {
    let fields =
        [format!("S{severity}"), format!("V{severity}"), format!("C{code}"), format!("M{text}"), String::new()];
    msg_of(b'E', &fields.map(|field| cstr(&field)).concat())
}

fn serve(mut stream: TcpStream, manners: &Manners, seen: &Mutex<Seen>, sleeper: &Mutex<Option<Sleeper>>) -> Option<()> {
    let first = packet(&mut stream)?;
    if first[..4] == 80_877_102_u32.to_be_bytes() {
        seen.lock().unwrap().keys.push(first[8..].to_vec());
        let Sleeper { mut stream, status } = sleeper.lock().unwrap().take()?;
        let mut status = status.lock().unwrap();
        *status = if *status == b'I' { b'I' } else { b'E' };
        return stream.write_all(&[error("ERROR", "57014", "cancelled"), msg_of(b'Z', &[*status])].concat()).ok();
    }
    let minor = u16::from_be_bytes([first[2], first[3]]);
    seen.lock().unwrap().versions.push(minor);
    if minor > manners.minor {
        if manners.rude {
            return stream.write_all(&error("FATAL", "0A000", "unsupported frontend protocol")).ok();
        }
        let newest = (3_u32 << 16) | u32::from(manners.minor);
        stream.write_all(&msg_of(b'v', &[newest.to_be_bytes(), [0; 4]].concat())).ok()?;
    }
    let setting = |name: &str, value: &str| msg_of(b'S', &[cstr(name), cstr(value)].concat());
    let mut welcome = [
        msg_of(b'R', &[0; 4]),
        setting("server_version", &manners.version),
        setting("client_encoding", "UTF8"),
        setting("application_name", ""),
    ]
    .concat();
    if let Some(key) = &manners.key {
        welcome.extend(msg_of(b'K', &[&77_u32.to_be_bytes()[..], key].concat()));
    }
    welcome.extend(msg_of(b'Z', b"I"));
    stream.write_all(&welcome).ok()?;
    let status = Arc::new(Mutex::new(b'I'));
    loop {
        let mut tag = [0];
        stream.read_exact(&mut tag).ok()?;
        let body = packet(&mut stream)?;
        if tag == *b"X" {
            return None;
        }
        let has = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
        if has(b"sleep") || has(b"DISCARD SEQUENCES") {
            *sleeper.lock().unwrap() = Some(Sleeper { stream: stream.try_clone().ok()?, status: Arc::clone(&status) });
        } else {
            let mut status = status.lock().unwrap();
            let tag = ["BEGIN", "ROLLBACK"].into_iter().find(|word| has(word.as_bytes())).unwrap_or("SELECT 0");
            match tag {
                "BEGIN" => *status = b'T',
                "ROLLBACK" => *status = b'I',
                _ => {}
            }
            stream.write_all(&[msg_of(b'C', &cstr(tag)), msg_of(b'Z', &[*status])].concat()).ok()?;
            if has(b"close") {
                return None;
            }
        }
    }
}
