//! The manual page and the completions of shells, made from the one table of commands that is read at each call.

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::args::{Cli, EXIT_CODES, Shell};

/// What the page says besides the commands.
const FILES: &str = r#".SH ENVIRONMENT
.TP
PGLULL_ADMIN_SOCKET
The console's socket, where no \-\-socket is given.
.TP
PGPASSWORD
The password for \-\-url.
.TP
NO_COLOR
Set to anything: no bold, no dim, no colours.
.TP
COLUMNS
The width of tables, where it is not the terminal's.
.SH FILES
.TP
/run/pglull/admin.sock
The console's socket of the installed service; ./pglull\-admin.sock where only that exists.
.SH SEE ALSO
.BR psql (1),
.BR pgbouncer (1)
"#;

/// The manual page, `pglull(1)`, with every command.
///
/// # Errors
/// None but what the memory makes.
pub fn page() -> std::io::Result<String> {
    let mut root = Cli::command();
    root.build();
    let mut out = Vec::new();
    let man = Man::new(root.clone()).title("PGLULL").section("1");
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    let mut text = String::from_utf8_lossy(&out).into_owned();
    text.push_str(".SH COMMANDS\n");
    commands(&root, &mut text)?;
    text.push_str(".SH EXIT STATUS\n");
    for line in EXIT_CODES.lines().skip(1).map(str::trim) {
        let (code, meaning) = line.split_once("  ").unwrap_or((line, ""));
        text.push_str(&format!(".TP\n{code}\n{meaning}\n"));
    }
    text.push_str(FILES);
    Ok(text)
}

/// Every command that does something, as a part of its own.
fn commands(of: &Command, text: &mut String) -> std::io::Result<()> {
    for command in of.get_subcommands().filter(|command| command.get_name() != "help") {
        if command.has_subcommands() {
            commands(command, text)?;
            continue;
        }
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        text.push_str(&format!(".SS \"{}\"\n", name.replace('-', "\\-")));
        let mut out = Vec::new();
        // Told once, at the top.
        let usual = |argument: clap::Arg| {
            let usual = matches!(argument.get_id().as_str(), "help" | "version");
            argument.hide(usual)
        };
        let man = Man::new(command.clone().mut_args(usual));
        man.render_description_section(&mut out)?;
        man.render_synopsis_section(&mut out)?;
        man.render_options_section(&mut out)?;
        let part = String::from_utf8_lossy(&out).into_owned();
        // What is a section of a page of its own is a paragraph here; the rules for letters at its head stand there once.
        let lines = part.lines().filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el "));
        for line in lines {
            match line.strip_prefix(".SH ") {
                Some("DESCRIPTION") => {}
                Some("SYNOPSIS" | "OPTIONS") => text.push_str(".PP\n"),
                _ => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
    }
    Ok(())
}

/// What this shell needs to complete our command line.
#[must_use]
pub fn completions(shell: Shell) -> String {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pglull", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page is installed with the program, so it lies in the tree; `PGLULL_WRITE_DOCS=1` writes it anew.
    #[test]
    fn the_manual_page_in_the_tree_is_this_one() {
        let (path, page) = (concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/man/pglull.1"), page().unwrap());
        if std::env::var_os("PGLULL_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == page, "deploy/man/pglull.1 is out of date: PGLULL_WRITE_DOCS=1 cargo test manual_page");
    }

    #[test]
    fn every_command_stands_in_the_page_and_in_the_completions() {
        let page = page().unwrap();
        for command in
            ["pglull run", "pglull check", "pglull top", "pglull window apply", "pglull window blockers", "pglull man"]
        {
            assert!(page.contains(&format!(".SS \"{command}\"")), "{command}: {page}");
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            for word in ["blockers", "rehearse", "fire-drill", "stragglers", "terminate", "completions"] {
                assert!(text.contains(word), "{shell:?}: {word}");
            }
        }
    }
}
