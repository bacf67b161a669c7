//! `%include FILE` in an ini: its lines stand where the directive stood.
//!
//! Pure but for the reading of files, which is a function of the caller. As in PgBouncer a section goes on over the ends
//! of files, in both directions. A relative name is looked for beside the file that includes it, then, as PgBouncer does,
//! in the folder that the process was started in.

use super::build::{Content, Reader};
use super::mistake::{Mistakes, Origins, quoted, unread};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How deep files may include one another; as in PgBouncer. It also ends a file that includes itself.
const DEPTH: usize = 10;
/// How many files there may be in all.
const FILES: usize = 200;
const DIRECTIVE: &str = "%include";

/// A text with all its included lines.
pub(super) struct Expanded {
    pub(super) text: String,
    /// Where each line comes from.
    pub(super) origins: Origins,
    /// What could not be included.
    pub(super) mistakes: Mistakes,
    /// Included files that everybody on the machine may read.
    pub(super) world_readable: Vec<PathBuf>,
}

/// Puts the included lines in their places.
pub(super) fn expand(file: &Path, text: &str, read: Reader<'_>) -> Expanded {
    let found = Expanded {
        text: String::new(),
        origins: Origins::default(),
        mistakes: Mistakes::new(file),
        world_readable: vec![],
    };
    let mut work = Work { read, found, files: 0 };
    work.lines(&Rc::from(file), text, 0);
    work.found
}

struct Work<'a> {
    read: Reader<'a>,
    found: Expanded,
    files: usize,
}

impl Work<'_> {
    fn lines(&mut self, file: &Rc<Path>, text: &str, depth: usize) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (line, number) in text.lines().zip(1..) {
            match directive(line) {
                None => {
                    self.found.text.push_str(line);
                    self.found.text.push('\n');
                    self.found.origins.push(file, number);
                }
                Some(name) => {
                    if let Err((expected, got)) = self.include(file, name, depth + 1) {
                        let mut mistakes = Mistakes::new(file);
                        mistakes.add(number, DIRECTIVE, expected, got);
                        self.found.mistakes.join(mistakes);
                    }
                }
            }
        }
    }

    fn include(&mut self, from: &Path, name: &str, depth: usize) -> Result<(), (String, String)> {
        self.files += 1;
        if name.is_empty() {
            return Err(("the name of a file".to_owned(), "nothing".to_owned()));
        }
        if depth > DEPTH || self.files > FILES {
            let expected = format!("at most {DEPTH} files deep and {FILES} files in all");
            return Err((expected, quoted(name)));
        }
        let (path, content) = self.find(from, Path::new(name)).map_err(|error| {
            let got = format!("{} ({})", quoted(name), unread(&error));
            ("a file that can be read".to_owned(), got)
        })?;
        if content.world_readable {
            self.found.world_readable.push(path.clone());
        }
        self.lines(&Rc::from(path), &content.text, depth);
        Ok(())
    }

    fn find(&self, from: &Path, name: &Path) -> io::Result<(PathBuf, Content)> {
        let beside = from.parent().map_or_else(|| name.to_path_buf(), |folder| folder.join(name));
        match (self.read)(&beside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && beside != name => {
                (self.read)(name).map(|content| (name.to_path_buf(), content)).map_err(|_| error)
            }
            read => read.map(|content| (beside, content)),
        }
    }
}

/// The name in a line that is a directive.
fn directive(line: &str) -> Option<&str> {
    let rest = line.trim().strip_prefix(DIRECTIVE)?;
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then(|| rest.trim())
}
