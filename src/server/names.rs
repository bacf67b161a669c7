//! The addresses that a server's host name stands for, looked up again when they are old.
//!
//! A server at an address that is not among them any more is closed when it is free: so a name that is pointed at another
//! machine takes its pool along. A look-up that fails leaves what is known as it is. The system's resolver is asked,
//! on a thread of its own; one look-up at a time for each pool.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// What is known of one host. See the module's text.
#[derive(Debug)]
pub struct Names {
    /// For how long an answer is good, and for how long a failure is.
    ttl: (Duration, Duration),
    /// Something has been found: an address needs no look-up.
    any: AtomicBool,
    found: ArcSwapOption<Found>,
    failed: ArcSwapOption<Failed>,
    turn: Mutex<()>,
    refreshing: AtomicBool,
    /// Which address is tried first: the next one after each that could not be reached.
    first: AtomicUsize,
}

/// An address is being tried. Dropped without having been reached, also because it took too long, another one comes first
/// the next time.
#[derive(Debug)]
pub struct Attempt<'a> {
    names: &'a Names,
    reached: bool,
}

impl Attempt<'_> {
    /// The address has answered.
    pub const fn reached(&mut self) {
        self.reached = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.reached {
            self.names.first.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Found {
    at: Instant,
    addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Failed {
    at: Instant,
    error: String,
}

impl Names {
    /// Nothing is known yet. Answers are good for `max`, failures for `failure`.
    #[must_use]
    pub fn new(max: Duration, failure: Duration) -> Self {
        Self {
            ttl: (max, failure),
            any: AtomicBool::new(false),
            found: ArcSwapOption::empty(),
            failed: ArcSwapOption::empty(),
            turn: Mutex::new(()),
            refreshing: AtomicBool::new(false),
            first: AtomicUsize::new(0),
        }
    }

    /// Whether both forget alike.
    #[must_use]
    pub fn as_patient_as(&self, other: &Self) -> bool {
        self.ttl == other.ttl
    }

    /// The addresses to try, in order. Cancel-safe; bounded by the caller.
    ///
    /// # Errors
    /// The resolver's, also when it is remembered.
    pub async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let found = self.look_up(Instant::now, || async {
            Ok(lookup_host((host, port)).await?.map(|address| address.ip()).collect())
        });
        let mut addresses: Vec<_> = found.await?.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        let first = self.first.load(Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(first);
        Ok(addresses)
    }

    /// One of the addresses is tried now.
    #[must_use]
    pub const fn attempt(&self) -> Attempt<'_> {
        Attempt { names: self, reached: false }
    }

    async fn look_up<F: Future<Output = io::Result<Vec<IpAddr>>>>(
        &self,
        now: impl Fn() -> Instant,
        ask: impl FnOnce() -> F,
    ) -> io::Result<Vec<IpAddr>> {
        let _turn = self.turn.lock().await;
        if let Some(known) = self.known(now()) {
            return known;
        }
        let answer = ask().await.and_then(|mut addresses| {
            let mut seen = Vec::new();
            addresses.retain(|one| {
                !seen.contains(one) && {
                    seen.push(*one);
                    true
                }
            });
            if addresses.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(addresses) }
        });
        match &answer {
            Ok(addresses) => {
                self.found.store(Some(Arc::new(Found { at: now(), addresses: addresses.clone() })));
                self.any.store(true, Ordering::Release);
                self.failed.store(None);
            }
            Err(error) => self.failed.store(Some(Arc::new(Failed { at: now(), error: error.to_string() }))),
        }
        answer
    }

    /// The last answer or failure, while it is good.
    fn known(&self, now: Instant) -> Option<io::Result<Vec<IpAddr>>> {
        if let Some(failed) = self.failed.load_full().filter(|failed| now.duration_since(failed.at) < self.ttl.1) {
            return Some(Err(io::Error::other(failed.error.clone())));
        }
        let found = self.found.load_full().filter(|found| now.duration_since(found.at) < self.ttl.0)?;
        Some(Ok(found.addresses.clone()))
    }

    /// Whether a server at this address is one that the name does not stand for any more. No lock.
    #[must_use]
    pub fn has_left(&self, address: IpAddr) -> bool {
        self.any.load(Ordering::Acquire)
            && self.found.load().as_ref().is_some_and(|found| !found.addresses.contains(&address))
    }

    /// Looks again, in the background, if the last answer is old; nothing is done for a name that nobody has asked for.
    pub fn refresh(self: &Arc<Self>, host: &str, bound: Duration) {
        let old = self.found.load().is_some() && self.known(Instant::now()).is_none();
        if !old || self.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (names, host) = (Arc::clone(self), host.to_owned());
        tokio::spawn(async move {
            if let Ok(Err(error)) = tokio::time::timeout(bound, names.addresses(&host, 0)).await {
                tracing::warn!(%host, %error, "cannot look the host up");
            }
            names.refreshing.store(false, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    async fn ask(names: &Names, at: Instant, answer: Option<&[u8]>) -> Option<Vec<IpAddr>> {
        let answer = answer.map(|found| found.iter().copied().map(ip).collect());
        names.look_up(|| at, || async { answer.ok_or_else(|| io::Error::other("no such name")) }).await.ok()
    }

    #[tokio::test]
    async fn an_answer_is_good_for_its_time_and_a_changed_one_is_noticed() {
        let names = Names::new(Duration::from_secs(15), Duration::from_secs(5));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!names.has_left(ip(1)), "nothing is known");
        assert_eq!(ask(&names, at(0), Some(&[1, 2, 1])).await, Some(vec![ip(1), ip(2)]));
        assert_eq!(ask(&names, at(14), Some(&[3])).await, Some(vec![ip(1), ip(2)]), "not asked again");
        assert!(!names.has_left(ip(1)) && names.has_left(ip(3)));
        assert_eq!(ask(&names, at(15), Some(&[2, 3])).await, Some(vec![ip(2), ip(3)]));
        assert!(names.has_left(ip(1)) && !names.has_left(ip(2)));
        // A failure is remembered for its own time, and moves nobody.
        assert_eq!(ask(&names, at(30), None).await, None);
        assert_eq!(ask(&names, at(34), Some(&[4])).await, None);
        assert!(!names.has_left(ip(2)));
        assert_eq!(ask(&names, at(35), Some(&[])).await, None, "no address is a failure");
        assert_eq!(ask(&names, at(40), Some(&[4])).await, Some(vec![ip(4)]));
        assert!(names.has_left(ip(2)));
    }

    #[tokio::test]
    async fn an_address_is_itself_and_a_name_is_looked_up() {
        let names = Names::new(Duration::from_secs(15), Duration::from_secs(15));
        let literal = names.addresses("127.0.0.7", 5).await.unwrap();
        assert_eq!(literal, ["127.0.0.7:5".parse().unwrap()]);
        assert!(!names.has_left(ip(1)), "an address never moves");
        let local = names.addresses("localhost", 5).await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback()), "{local:?}");
        assert!(names.has_left(ip(1)));
    }
}
