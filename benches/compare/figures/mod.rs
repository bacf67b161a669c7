//! The figures, one file each.

pub(crate) mod bulk;
pub(crate) mod logins;
pub(crate) mod memory;
pub(crate) mod null;
pub(crate) mod real;
pub(crate) mod scaling;
pub(crate) mod window;

use crate::Result;
use crate::bench::Bench;

/// All figures, in the order of the report.
pub(crate) const ALL: [&str; 8] =
    [null::NAME, window::NAME, memory::NAME, logins::NAME, bulk::NAME, real::NAME, scaling::NAME, scaling::CALLS_NAME];

/// Measures one figure.
///
/// # Errors
/// What keeps the figure from being measured at all; a target that cannot do something is a finding.
pub(crate) async fn measure(name: &str, bench: &mut Bench) -> Result<()> {
    match name {
        null::NAME => null::measure(bench).await,
        window::NAME => window::measure(bench).await,
        memory::NAME => memory::measure(bench).await,
        logins::NAME => logins::measure(bench).await,
        bulk::NAME => bulk::measure(bench).await,
        real::NAME => real::measure(bench).await,
        scaling::NAME => scaling::measure(bench).await,
        scaling::CALLS_NAME => scaling::calls(bench).await,
        other => Err(format!("no figure {other}: there are {}", ALL.join(", ")).into()),
    }
}
