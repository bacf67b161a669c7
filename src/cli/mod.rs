//! The operator's side: the command line, and a client that speaks with the console of a running proxy.
//!
//! Nothing here knows how the proxy works: whatever is shown came over the console. Answers go to standard output,
//! everything else (progress, mistakes, advice) to standard error, so that both can be used in a pipe.

pub mod args;
pub mod client;
pub mod manual;
pub mod pgbouncer;
pub mod probe;

mod advice;
mod apply;
mod by_command;
mod family;
mod files;
mod live;
mod login;
mod place;
mod reply;
mod statement;
mod table;
mod term;
mod top;
mod window;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{AdminArgs, ConsoleArgs};
use client::{ClientError, Console, Endpoint, Login};

use crate::config::Mistake;

pub(crate) use apply::{Change, Ended, Interrupts, apply};
pub(crate) use live::{receipt, seconds};
pub use probe::probe;
pub use reply::Report;
pub(crate) use table::{pairs, render};
pub(crate) use term::{View, err, out};
pub use top::top;
pub(crate) use window::new_id;
pub use window::window;

/// Exit code: it failed, or was aborted.
pub const FAILED: u8 = 1;
/// Exit code: it was asked for in a wrong way, and nothing was started.
pub const USAGE: u8 = 2;

/// Where the console is, and who we are there.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) endpoint: Endpoint,
    pub(crate) login: Login,
}

impl Site {
    /// From the options, the environment and what is there.
    pub(crate) fn find(args: &ConsoleArgs) -> Self {
        let named = || std::env::var_os("PGLULL_ADMIN_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
        let endpoint = match (&args.url, &args.socket) {
            (Some(url), _) => Endpoint::Tcp(url.clone()),
            (None, Some(path)) => Endpoint::Unix(path.clone()),
            (None, None) => Endpoint::Unix(named().unwrap_or_else(|| default_socket(Path::exists))),
        };
        let password = std::env::var("PGPASSWORD").ok();
        Self { endpoint, login: Login { user: args.user.clone().unwrap_or_else(os_user), password } }
    }

    pub(crate) async fn connect(&self) -> Result<Console, ClientError> {
        Console::connect(&self.endpoint, &self.login).await
    }
}

/// The installed service's socket, or the one in the current folder where only that exists.
fn default_socket(exists: impl Fn(&Path) -> bool) -> PathBuf {
    let (service, here) = (PathBuf::from("/run/pglull/admin.sock"), PathBuf::from("pglull-admin.sock"));
    if !exists(&service) && exists(&here) { here } else { service }
}

fn os_user() -> String {
    let uid = nix::unistd::geteuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// `pglull admin`: sends one command and prints what comes back.
pub async fn admin(args: AdminArgs) -> ExitCode {
    let command = args.command.join(" ");
    let site = Site::find(&args.console);
    let answer = async {
        let mut console = site.connect().await?;
        console.run(&command, |notice| err(&format!("{}: {notice}\n", notice.severity))).await
    };
    match answer.await {
        Ok(results) => {
            for rows in &results {
                let text = if args.json { table::json(rows) } else { render(rows, term::width_out()) };
                let text = if text.is_empty() && !args.json { format!("{}\n", rows.tag) } else { text };
                out(&text);
            }
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error),
    }
}

/// What a check of a configuration has come to, as JSON.
#[must_use]
pub fn checked(file: &Path, warnings: &Result<Vec<String>, Vec<Mistake>>) -> serde_json::Value {
    let mistake = |mistake: &Mistake| {
        serde_json::json!({
            "file": mistake.file.display().to_string(), "line": mistake.line, "key": mistake.key,
            "expected": mistake.expected, "got": mistake.got,
        })
    };
    let mistakes: Vec<_> = warnings.as_ref().err().into_iter().flatten().map(mistake).collect();
    let (ok, warnings) = (warnings.is_ok(), warnings.as_deref().unwrap_or_default());
    let file = file.display().to_string();
    serde_json::json!({"file": file, "ok": ok, "mistakes": mistakes, "warnings": warnings})
}

/// Says what went wrong and what can be done about it.
pub(crate) fn complain(error: &ClientError) -> ExitCode {
    err(&format!("pglull: {}\n", table::visible(&error.to_string())));
    if let ClientError::Server(report) = error
        && !report.detail.is_empty()
    {
        err(&format!("detail: {}\n", table::visible(&report.detail)));
    }
    let advice = error.advice();
    if !advice.is_empty() {
        err(&format!("hint: {}\n", table::visible(&advice)));
    }
    ExitCode::from(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_socket() {
        let service = Path::new("/run/pglull/admin.sock");
        let here = Path::new("pglull-admin.sock");
        assert_eq!(default_socket(|_| true), service);
        assert_eq!(default_socket(|_| false), service);
        assert_eq!(default_socket(|p| p == here), here);
    }

    #[test]
    fn an_address_wins_over_a_socket() {
        let args = ConsoleArgs { socket: Some("/x".into()), url: Some("h:1".into()), user: Some("u".into()) };
        let site = Site::find(&args);
        assert_eq!((site.endpoint, site.login.user.as_str()), (Endpoint::Tcp("h:1".into()), "u"));
    }
}
