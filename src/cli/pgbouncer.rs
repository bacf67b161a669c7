//! PgBouncer's own command line, so that pglull can stand where `pgbouncer` stood: in unit files, scripts and images.
//!
//! It is taken for meant if the program was called `pgbouncer`, or if what follows is not one of our verbs but one of
//! PgBouncer's options or a file. Exit codes are PgBouncer's: 0 or 1.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgAction, CommandFactory as _, Parser};

use super::args::Cli;

/// What can be typed. `-h` is clap's.
#[derive(Debug, Parser)]
#[command(name = "pgbouncer", disable_version_flag = true, max_term_width = 100)]
#[command(about = "pglull, a connection pooler for PostgreSQL, with the command line of PgBouncer")]
#[command(override_usage = "pgbouncer [OPTION]... CONFIG_FILE")]
pub struct Classic {
    /// Run in the background, once clients are served; needs pidfile in the file
    #[arg(short = 'd', long)]
    pub daemon: bool,
    /// Log to logfile only, not to standard error
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Online restart: not supported
    #[arg(short = 'R', long)]
    pub reboot: bool,
    /// Become this user of the operating system; wins over `user` in the file
    #[arg(short = 'u', long, value_name = "USERNAME")]
    pub user: Option<String>,
    /// Log more; twice for even more
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Show the version, then exit
    #[arg(short = 'V', long)]
    pub version: bool,
    /// A pgbouncer.ini, or our TOML
    #[arg(value_name = "CONFIG_FILE", required_unless_present = "version")]
    pub file: Option<PathBuf>,
}

/// What `-R` is answered.
pub const NO_REBOOT: &str = "-R is not supported: 'pglull upgrade' has the program that is installed now take over from the running one, TLS or \
     not; a changed configuration needs RELOAD or SIGHUP only";

impl Classic {
    /// Reads a whole command line, the program's name first.
    ///
    /// # Errors
    /// clap's, with the text to show; asking for help is one of them.
    pub fn read(argv: &[OsString]) -> Result<Self, clap::Error> {
        Self::try_parse_from(argv)
    }
}

/// Whether a command line, the program's name first, is meant for PgBouncer.
#[must_use]
pub fn is_meant(argv: &[OsString]) -> bool {
    let name = argv.first().and_then(|name| Path::new(name).file_name()).unwrap_or_default();
    if name == "pgbouncer" {
        return true;
    }
    let Some(first) = argv.get(1).map(|first| first.to_string_lossy()) else { return false };
    let theirs = ["--daemon", "--quiet", "--reboot", "--user", "--verbose"];
    if let Some(short) = first.strip_prefix('-').filter(|rest| !rest.starts_with('-')) {
        // -V and -h alone are our own as well.
        let more = argv.len() > 2 && short.starts_with(['V', 'h']);
        return more || short.starts_with(['R', 'd', 'q', 'u', 'v']);
    }
    let verb = Cli::command().get_subcommands().any(|verb| verb.get_name() == first || first == "help");
    theirs.iter().any(|long| first == *long || first.starts_with(&format!("{long}=")))
        || (!verb && (first.ends_with(".ini") || first.ends_with(".toml")) && argv.len() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn who_is_meant() {
        for line in [
            "pgbouncer",
            "/usr/sbin/pgbouncer --help",
            "pgbouncer run.ini",
            "pglull -d a.ini",
            "pglull -qd a.ini",
            "pglull -u nobody a.ini",
            "pglull --user=nobody a.ini",
            "pglull -R -d a.ini",
            "pglull --verbose a.toml",
            "pglull /etc/pgbouncer/pgbouncer.ini",
        ] {
            assert!(is_meant(&words(line)), "{line}");
        }
        for line in [
            "pglull",
            "pglull run a.ini",
            "pglull -V",
            "pglull --version",
            "pglull -h",
            "pglull help",
            "pglull rum",
            "pglull check a.ini",
        ] {
            assert!(!is_meant(&words(line)), "{line}");
        }
    }

    #[test]
    fn options_as_pgbouncer_takes_them() {
        let read = |line: &str| Classic::read(&words(line)).unwrap();
        let all = read("pgbouncer -qvvd -u nobody a.ini");
        assert!(all.quiet && all.daemon && !all.reboot && all.verbose == 2);
        assert_eq!((all.user.as_deref(), all.file), (Some("nobody"), Some(PathBuf::from("a.ini"))));
        assert_eq!(read("pgbouncer a.ini -unobody").user.as_deref(), Some("nobody"));
        assert!(read("pgbouncer -V").version);
        for line in ["pgbouncer", "pgbouncer a.ini b.ini", "pgbouncer -x a.ini", "pgbouncer -u"] {
            assert!(Classic::read(&words(line)).is_err(), "{line}");
        }
    }
}
