//! What preflight has found, as an operator is told: a notice for all that is well, a warning for each that is not.

use super::console::Problem;
use super::operator::Operator;
use crate::window::preflight::{Line, Verdict};

/// Tells the operator of a window.
pub(super) async fn tell(id: &str, lines: &[Line], operator: &mut Operator) -> Result<(), Problem> {
    let good: Vec<&str> =
        lines.iter().filter(|line| line.verdict == Verdict::Ok).map(|line| line.check.as_ref()).collect();
    if !good.is_empty() {
        operator.notice(format!("window {id}: preflight: ok: {}", good.join(", "))).await?;
    }
    for line in lines.iter().filter(|line| line.verdict != Verdict::Ok) {
        operator.warning(format!("window {id}: preflight: {}: {}", line.verdict.as_str(), line.sentence())).await?;
    }
    Ok(())
}
