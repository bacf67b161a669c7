//! The file of expected counts, and the judgement.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use crate::Result;

/// So much dearer is too much.
const TOLERANCE: f64 = 0.03;

/// What was counted when the file was written.
pub(crate) struct Expected {
    /// For which compiler and machine it holds.
    pub(crate) toolchain: String,
    pub(crate) counts: Vec<(String, u64)>,
}

/// Everything that makes other instructions: compiler, kind of processor, C library, and what counts.
pub(crate) fn toolchain() -> Result<String> {
    let said = |command: &mut Command| -> Result<String> {
        let said = command.output().map(|output| output.stdout).unwrap_or_default();
        Ok(String::from_utf8(said)?.trim().to_owned())
    };
    let rustc = said(Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version"))?;
    let (libc, valgrind) =
        (said(Command::new("getconf").arg("GNU_LIBC_VERSION"))?, said(Command::new("valgrind").arg("--version"))?);
    let arch = std::env::consts::ARCH;
    // Searches in texts choose their instructions when they run.
    #[cfg(target_arch = "x86_64")]
    let vectors = if std::is_x86_feature_detected!("avx2") { " with avx2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = "";
    Ok(format!("{rustc} on {arch}{vectors}, {libc}, {valgrind}"))
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/expected-instructions.txt")
}

impl Expected {
    /// Reads the file.
    pub(crate) fn read() -> Result<Self> {
        let text = std::fs::read_to_string(file())?;
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let toolchain = lines.next().unwrap_or_default().to_owned();
        let count = |line: &str| {
            let (name, count) = line.rsplit_once(' ')?;
            Some((name.trim().to_owned(), count.parse().ok()?))
        };
        let counts = lines.map(|line| count(line).ok_or_else(|| format!("not a name and a count: {line}").into()));
        Ok(Self { toolchain, counts: counts.collect::<Result<_>>()? })
    }

    /// Writes it.
    pub(crate) fn write(&self) -> Result<()> {
        let mut text =
            "# Instructions of each machine's call and each relay's transaction: benches/README.md. Written by\n\
                        # `make instructions-write`; the first line says for which compiler and machine it holds.\n"
                .to_owned();
        writeln!(text, "{}", self.toolchain)?;
        for (name, count) in &self.counts {
            writeln!(text, "{name:<24}{count:>10}")?;
        }
        print!("{text}");
        Ok(std::fs::write(file(), text)?)
    }

    /// What is seen beside what was expected, as a table; and whether nothing has become too dear.
    pub(crate) fn compare(&self, seen: &[(String, u64)]) -> (String, bool) {
        let known: BTreeMap<_, _> = self.counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let (mut table, mut good) = (String::new(), self.counts.len() == seen.len());
        let mut cheaper = false;
        for (name, count) in seen {
            let Some(expected) = known.get(name.as_str()) else {
                good = false;
                table += &format!("{name:<24}{count:>10}  is not in the file\n");
                continue;
            };
            let ratio = *count as f64 / *expected as f64;
            let dear = ratio > 1.0 + TOLERANCE;
            good &= !dear;
            cheaper |= ratio < 1.0 - TOLERANCE;
            let word = if dear { "  TOO DEAR" } else { "" };
            table += &format!("{name:<24}{count:>10} of {expected:>10} {:>+7.2} %{word}\n", (ratio - 1.0) * 100.0);
        }
        if cheaper || !good {
            table += "Where that is meant: make instructions-write, and say why in the commit.\n";
        }
        (table, good)
    }
}
