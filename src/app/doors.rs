//! Where connections come in: sockets that were handed to us, or those that the configuration names.
//!
//! What is handed wins. One that is called `admin` is the console's own socket, one called `metrics` answers scrapes, and
//! all others are for clients; if there are any of these, `listen_addr` and `unix_socket_dir` open no others (as
//! PgBouncer does with sockets of systemd).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};

use crate::config::Config;
use crate::net::listen::{Listener, Share};
use crate::process::handed::Handed;
use crate::session::front::Via;

/// What the console's own socket is called among those that are handed over, and the one for scrapes.
const ADMIN: &str = "admin";
const METRICS: &str = "metrics";

/// Everything that listens.
pub(super) struct Doors {
    /// For clients, and for the console.
    pub(super) clients: Vec<(Listener, Via)>,
    /// For scrapes and probes.
    pub(super) metrics: Option<Listener>,
    /// All of them once more, for a process that takes over; those that were handed to us first, in their order.
    pub(super) shares: Vec<Share>,
}

/// Opens everything first: an address in use is known before anybody is served.
///
/// # Errors
/// The kernel's, with the address or the name in the text.
pub(super) fn open(config: &Config, handed: Vec<Handed>) -> io::Result<Doors> {
    let mut doors = Doors { clients: Vec::new(), metrics: None, shares: Vec::new() };
    for Handed { name, socket, path } in handed {
        doors.take(&name, Listener::ready_made(socket, path).map_err(|error| named(&error, &name))?)?;
    }
    let has = |doors: &Doors, wanted: Via| doors.clients.iter().any(|(_, via)| *via == wanted);
    if has(&doors, Via::Listener) {
        tracing::info!("sockets for clients were handed over: listen_addr and unix_socket_dir open no others");
    } else {
        doors.bind_clients(config)?;
    }
    if let Some(path) = config.admin_socket.as_deref().filter(|_| !has(&doors, Via::AdminSocket)) {
        doors.take(ADMIN, Listener::unix(path, 0o600, None)?)?;
    }
    if let Some(addr) = config.metrics_addr.filter(|_| doors.metrics.is_none()) {
        let bound = std::net::TcpListener::bind(addr)
            .and_then(|listener| Listener::ready_made(listener.into(), None))
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on metrics_addr {addr}: {error}")))?;
        doors.take(METRICS, bound)?;
    }
    Ok(doors)
}

impl Doors {
    fn take(&mut self, name: &str, listener: Listener) -> io::Result<()> {
        self.shares.push(listener.share(name)?);
        match (name, listener) {
            (METRICS, listener @ Listener::Tcp(_)) => self.metrics = Some(listener),
            // Its peers are known by their uid, which only a Unix socket tells.
            (ADMIN, listener @ Listener::Unix(..)) => self.clients.push((listener, Via::AdminSocket)),
            (METRICS, _) => return Err(named(&io::Error::other("expected a TCP socket"), name)),
            (ADMIN, _) => return Err(named(&io::Error::other("expected a Unix socket"), name)),
            (_, listener) => self.clients.push((listener, Via::Listener)),
        }
        Ok(())
    }

    fn bind_clients(&mut self, config: &Config) -> io::Result<()> {
        let mut wanted = Vec::new();
        for name in &config.listen_addr {
            wanted.push((name.as_str(), resolve(name, config.listen_port)?));
        }
        for listener in bind(&wanted, config.listen_backlog)? {
            self.take("", listener)?;
        }
        if let Some(dir) = &config.unix_socket_dir {
            let path = dir.join(format!(".s.PGSQL.{}", config.listen_port));
            self.take("", Listener::unix(&path, config.unix_socket_mode, config.unix_socket_group.as_deref())?)?;
        }
        Ok(())
    }
}

/// Binds each address once, however often it is named. Of a name with several addresses one is enough: `localhost` may be
/// `::1` too where there is no IPv6.
fn bind(wanted: &[(&str, Vec<SocketAddr>)], backlog: usize) -> io::Result<Vec<Listener>> {
    let (mut listeners, mut bound) = (Vec::new(), BTreeSet::new());
    for (name, addrs) in wanted {
        let mut absent = None;
        for addr in addrs.iter().filter(|addr| !bound.contains(*addr)).collect::<Vec<_>>() {
            match Listener::tcp(*addr, backlog) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => absent = Some(error),
                listener => {
                    listeners.push(listener?);
                    bound.insert(*addr);
                }
            }
        }
        if let Some(error) = absent {
            if !addrs.iter().any(|addr| bound.contains(addr)) {
                return Err(error);
            }
            tracing::warn!(name, "{error}: the other addresses of this name are served");
        }
    }
    Ok(listeners)
}

fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if name == "*" {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let has_v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        return Ok(if has_v6 { vec![v4, v6] } else { vec![v4] });
    }
    let found = (name, port).to_socket_addrs();
    found.map(Iterator::collect).map_err(|error| {
        let remedy = "expected an address of this machine, without a port, a name of one, or *";
        io::Error::new(error.kind(), format!("listen_addr {name}: {error}: {remedy}"))
    })
}

fn named(error: &io::Error, name: &str) -> io::Error {
    io::Error::new(error.kind(), format!("cannot use the socket {name:?} that was handed over: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_bound_once_and_one_of_a_name_is_enough() {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        // An address that is for documents alone.
        let absent = SocketAddr::from(([192, 0, 2, 1], free.port()));
        let many = [("localhost", vec![absent, free]), ("127.0.0.1", vec![free])];
        assert_eq!(bind(&many, 16).unwrap().len(), 1);
        let error = bind(&[("far", vec![absent])], 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error}");
        let _taken = std::net::TcpListener::bind(free).unwrap();
        let error = bind(&[("localhost", vec![absent, free])], 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
    }
}
