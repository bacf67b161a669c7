//! Looking over the console, again and again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::cli::Site;
use crate::cli::args::TopView;
use crate::cli::client::{ClientError, Console, Rows};
use crate::cli::live::Status;
use crate::cli::table::objects;

/// How long we wait before we try to connect again, at least.
const REST: Duration = Duration::from_millis(500);

/// Windows that are looked at closely at a time.
const CLOSELY: usize = 3;

/// One look.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    pub(super) version: String,
    pub(super) pools: Rows,
    pub(super) stats: Rows,
    pub(super) windows: Rows,
    /// Looked at only where they are shown.
    pub(super) clients: Rows,
    pub(super) servers: Rows,
    /// Those windows that run.
    pub(super) running: Vec<Status>,
    /// Sums of `SHOW STATS` a second: transactions, queries, bytes from clients, bytes to them.
    pub(super) rates: [f64; 4],
    /// The counters behind them.
    pub(super) counters: [f64; 4],
}

/// What the task has to tell: the last look, and why there is no newer one.
#[derive(Debug, Clone, Default)]
pub(super) struct Looked {
    pub(super) data: Option<Data>,
    pub(super) trouble: Option<String>,
}

const COUNTERS: [&str; 4] = ["total_xact_count", "total_query_count", "total_received", "total_sent"];
const AVERAGES: [&str; 4] = ["avg_xact_count", "avg_query_count", "avg_recv", "avg_sent"];

impl Data {
    /// Everything as one object.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "version": self.version, "pools": objects(&self.pools), "stats": objects(&self.stats),
            "windows": objects(&self.windows), "clients": objects(&self.clients), "servers": objects(&self.servers),
        })
    }

    fn sums(&self, columns: [&str; 4]) -> [f64; 4] {
        columns.map(|column| {
            let of = |row: &Vec<Option<String>>| self.stats.value(row, column).parse::<f64>().unwrap_or_default();
            self.stats.rows.iter().map(of).sum()
        })
    }

    /// How fast the counters have grown since an earlier look; without one, what the console says.
    fn measure(&mut self, before: Option<(&Self, Duration)>) {
        self.counters = self.sums(COUNTERS);
        self.rates = match before {
            Some((before, elapsed)) if elapsed > Duration::ZERO => {
                let mut rates = [0.0; 4];
                for (rate, (now, then)) in rates.iter_mut().zip(self.counters.iter().zip(before.counters)) {
                    *rate = (now - then).max(0.0) / elapsed.as_secs_f64();
                }
                rates
            }
            _ => self.sums(AVERAGES),
        };
    }
}

/// One look, on a connection of its own.
pub(super) async fn look_once(site: &Site, wanted: &[TopView]) -> Result<Data, ClientError> {
    let mut data = look(&mut site.connect().await?, wanted).await?;
    data.measure(None);
    Ok(data)
}

async fn look(console: &mut Console, wanted: &[TopView]) -> Result<Data, ClientError> {
    let mut data = Data {
        version: ask(console, "SHOW VERSION").await?.first("version").unwrap_or_default().into(),
        ..Data::default()
    };
    data.pools = ask(console, "SHOW POOLS").await?;
    data.stats = ask(console, "SHOW STATS").await?;
    data.windows = ask(console, "SHOW WINDOWS").await?;
    if wanted.contains(&TopView::Clients) {
        data.clients = ask(console, "SHOW CLIENTS").await?;
    }
    if wanted.contains(&TopView::Servers) {
        data.servers = ask(console, "SHOW SERVERS").await?;
    }
    let runs = data.windows.rows.iter().filter(|row| data.windows.value(row, "outcome").is_empty());
    let ids: Vec<String> = runs.map(|row| data.windows.value(row, "id").to_owned()).take(CLOSELY).collect();
    for id in ids {
        match ask(console, &format!("SHOW WINDOW '{id}'")).await {
            Ok(rows) => data.running.push(Status::from_rows(&rows)),
            // It has just been forgotten.
            Err(ClientError::Server(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(data)
}

async fn ask(console: &mut Console, command: &str) -> Result<Rows, ClientError> {
    Ok(console.query(command).await?.into_iter().next().unwrap_or_default())
}

/// Looks until nobody listens any more.
pub(super) async fn look_at(site: Site, mut wants: watch::Receiver<(TopView, Duration)>, tell: watch::Sender<Looked>) {
    loop {
        let why = match site.connect().await {
            Ok(mut console) => stay(&mut console, &mut wants, &tell).await,
            Err(error) => error,
        };
        let advice = why.advice();
        let trouble = if advice.is_empty() { why.to_string() } else { format!("{why}: {advice}") };
        tell.send_modify(|looked| looked.trouble = Some(trouble));
        let rest = wants.borrow().1.max(REST);
        if tell.is_closed() || timeout(rest, wants.changed()).await.is_ok_and(|told| told.is_err()) {
            return;
        }
    }
}

/// Looks on one connection until that fails.
async fn stay(
    console: &mut Console,
    wants: &mut watch::Receiver<(TopView, Duration)>,
    tell: &watch::Sender<Looked>,
) -> ClientError {
    let mut before: Option<(Data, Instant)> = None;
    loop {
        let (view, every) = *wants.borrow_and_update();
        let mut data = match look(console, &[view]).await {
            Ok(data) => data,
            Err(error) => return error,
        };
        let now = Instant::now();
        data.measure(before.as_ref().map(|(data, at)| (data, now - *at)));
        // A look out of turn, because of a key, is too short to measure by.
        if before.as_ref().is_none_or(|(_, at)| now - *at >= every / 2) {
            before = Some((data.clone(), now));
        } else if let Some((earlier, _)) = &before {
            data.rates = earlier.rates;
        }
        tell.send_replace(Looked { data: Some(data), trouble: None });
        if let Ok(Err(_)) = timeout(every, wants.changed()).await {
            return ClientError::Closed;
        }
    }
}
