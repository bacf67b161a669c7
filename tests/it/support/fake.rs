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

/// What it has seen: minor versions that were asked for, keys of cancel requests.
#[derive(Default)]
struct Seen {
    versions: Vec<u16>,
    keys: Vec<Vec<u8>>,
}

/// A running one. It answers each query with nothing, but one that has `sleep` in it only when it is
/// cancelled, and goes away after one that has `close` in it.
pub(crate) struct Fake {
    pub(crate) port: u16,
    pub(crate) manners: Arc<Mutex<Manners>>,
    seen: Arc<Mutex<Seen>>,
    /// The one that sleeps, for the cancel request to find.
    sleeper: Arc<Mutex<Option<TcpStream>>>,
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

fn serve(
    mut stream: TcpStream,
    manners: &Manners,
    seen: &Mutex<Seen>,
    sleeper: &Mutex<Option<TcpStream>>,
) -> Option<()> {
    let first = packet(&mut stream)?;
    if first[..4] == 80_877_102_u32.to_be_bytes() {
        seen.lock().unwrap().keys.push(first[8..].to_vec());
        let mut sleeper = sleeper.lock().unwrap().take()?;
        return sleeper.write_all(&[error("ERROR", "57014", "cancelled"), msg_of(b'Z', b"I")].concat()).ok();
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
    loop {
        let mut tag = [0];
        stream.read_exact(&mut tag).ok()?;
        let body = packet(&mut stream)?;
        if tag == *b"X" {
            return None;
        }
        let has = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
        if has(b"sleep") {
            *sleeper.lock().unwrap() = Some(stream.try_clone().ok()?);
        } else {
            stream.write_all(&[msg_of(b'C', &cstr("SELECT 0")), msg_of(b'Z', b"I")].concat()).ok()?;
            if has(b"close") {
                return None;
            }
        }
    }
}
