//! Which files make up a change, and in which order.
//!
//! A folder's order is that of the versions in front of its files' names. Where two people could read it in two ways it
//! is refused: a change in a wrong order is worse than none.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest change that is read, in bytes; more than this is data, which does not belong in a window.
const CHANGE_MAX: u64 = 8 << 20;

/// What files say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// One change, under the id of its window.
    One(String),
    /// Several, each with its id, in order.
    Several(Vec<(String, String)>),
}

/// Reads a file, several in the order of the arguments, or a folder of `*.sql` in the order of their versions. Also gives
/// the names of those that were left out.
///
/// # Errors
/// What is wrong, in words for the operator.
pub(super) fn read(files: &[PathBuf]) -> Result<(Script, Vec<String>), String> {
    if let [folder] = files
        && folder.is_dir()
    {
        let (paths, left_out) = of_folder(folder)?;
        return Ok((Script::Several(read_all(&paths)?), left_out));
    }
    if let Some(folder) = files.iter().find(|file| file.is_dir()) {
        return Err(format!("{} is a folder: name it alone, or name files", folder.display()));
    }
    if files.len() < 2 {
        return Ok((Script::One(files.first().map_or_else(|| Ok(String::new()), |file| read_one(file))?), Vec::new()));
    }
    if files.iter().any(|file| file.as_os_str() == "-") {
        return Err("standard input has no name to be noted under: give it alone, or name files".to_owned());
    }
    Ok((Script::Several(read_all(files)?), Vec::new()))
}

fn read_one(file: &Path) -> Result<String, String> {
    let (name, result) = if file.as_os_str() == "-" {
        ("standard input".to_owned(), read_text(std::io::stdin().lock()))
    } else {
        (file.display().to_string(), fs::File::open(file).and_then(read_text))
    };
    result.map_err(|e| format!("cannot read {name}: {e}"))
}

fn read_text(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    if from.take(CHANGE_MAX + 1).read_to_string(&mut text)? as u64 > CHANGE_MAX {
        return Err(std::io::Error::other("longer than 8 MiB; move data before or after the window"));
    }
    // Some editors begin a file with it; Postgres would take it for a word.
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<(String, String)>, String> {
    let (mut out, mut known, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
    for path in paths {
        let id = id_of(path)?;
        let sql = read_one(path)?;
        if sql.trim().is_empty() {
            return Err(format!("{} is empty", path.display()));
        }
        if !known.insert(id.clone()) {
            return Err(format!("two files would be noted under the same id, {id}"));
        }
        bytes += sql.len() as u64;
        out.push((id, sql));
    }
    if bytes > CHANGE_MAX {
        return Err("the files are longer than 8 MiB together; apply them in several windows".to_owned());
    }
    Ok(out)
}

/// The id under which a file is noted: its name without `.sql`.
fn id_of(path: &Path) -> Result<String, String> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let id = name.strip_suffix(".sql").unwrap_or(&name).to_owned();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=200).contains(&id.len()) && id.chars().all(fits) {
        return Ok(id);
    }
    Err(format!("{name}: the name is the change's id: at most 200 letters, digits, - _ or ."))
}

fn of_folder(folder: &Path) -> Result<(Vec<PathBuf>, Vec<String>), String> {
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if name.starts_with('.') || path.is_dir() || !name.to_ascii_lowercase().ends_with(".sql") {
            continue;
        }
        // One that is passed over in silence is a change in a wrong order.
        if !name.ends_with(".sql") {
            return Err(format!("{name}: is it one of them? Then let it end in .sql, else in something else"));
        }
        if !path.is_file() {
            return Err(format!("cannot read {}: it leads to no file", path.display()));
        }
        names.push(name);
    }
    let (names, left_out) = order(names)?;
    if names.is_empty() {
        return Err(format!("there is no *.sql in {}", folder.display()));
    }
    Ok((names.iter().map(|name| folder.join(name)).collect(), left_out))
}

/// The names in the order of their versions, and those that undo a change.
fn order(mut names: Vec<String>) -> Result<(Vec<String>, Vec<String>), String> {
    names.sort();
    let (mut undo, mut dated): (Vec<String>, Vec<(Vec<u128>, String)>) = (Vec::new(), Vec::new());
    for name in names {
        if undoes(&name) {
            undo.push(name);
            continue;
        }
        let version = version(&name).ok_or_else(|| {
            format!(
                "{name}: what is its place in the order? A name begins with its version, such as 001_x.sql, V1_2__x.sql or \
                 20260131120000_x.sql; to give the order yourself, name the files"
            )
        })?;
        dated.push((version, name));
    }
    dated.sort();
    if let Some([(_, one), (_, other)]) = dated.windows(2).find(|two| matches!(two, [a, b] if a.0 == b.0)) {
        return Err(format!("{one} and {other} have the same version: which one comes first?"));
    }
    Ok((dated.into_iter().map(|(_, name)| name).collect(), undo))
}

/// `1_x.down.sql`, `U1__x.sql`.
fn undoes(name: &str) -> bool {
    let flyway = name.strip_prefix('U').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    flyway && name.contains("__") || name.ends_with(".down.sql")
}

/// The numbers in front of a name, with `_`, `-` or `.` between and behind them; a `V` may stand before. Zeros at the end do
/// not count: 1.0 is 1.
fn version(name: &str) -> Option<Vec<u128>> {
    let stem = name.strip_suffix(".sql")?;
    let stem = stem.strip_prefix(['V', 'v']).unwrap_or(stem);
    let words = stem.split(['_', '-', '.']);
    let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let numbers: Option<Vec<u128>> = words.take_while(is_number).map(|word| word.parse().ok()).collect();
    let mut numbers = numbers.filter(|numbers| !numbers.is_empty())?;
    while numbers.len() > 1 && numbers.last() == Some(&0) {
        numbers.pop();
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(names: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        order(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_order_is_that_of_the_versions() {
        for names in [
            &["001_a.sql", "2-b.sql", "010_c.sql", "11.sql"][..],
            &["V1__z.sql", "V1_1__y.sql", "V1.2__b.sql", "V1.10__a.sql", "V2__0.sql"],
            &["2026_01_31_120000_b.sql", "2026_02_01_090000_a.sql"],
            &["20251231235959_b.sql", "20260101000000_a.up.sql"],
            &["1_2024_report.sql", "1_2025_report.sql", "2_x.sql"],
            &["0_first.sql", "1_x.sql"],
        ] {
            let mut shuffled = names.to_vec();
            shuffled.reverse();
            let expect: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(ordered(&shuffled), Ok((expect, vec![])));
        }
        let (names, left_out) = ordered(&["1_x.up.sql", "1_x.down.sql", "2_y.up.sql", "U2__y.sql"]).unwrap();
        assert_eq!(
            (names.join(" "), left_out.join(" ")),
            ("1_x.up.sql 2_y.up.sql".into(), "1_x.down.sql U2__y.sql".into())
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for names in [
            &["1_a.sql", "001_b.sql"][..],
            &["V1__a.sql", "1_b.sql"],
            &["1.0_a.sql", "1_b.sql"],
            &["1_a.sql", "schema.sql"],
            &["R__views.sql"],
            &["001add.sql"],
            &["9999999999999999999999999999999999999999_x.sql"],
        ] {
            assert!(ordered(names).is_err(), "{names:?}");
        }
        assert!(ordered(&["1_a.sql", "01_b.sql"]).unwrap_err().contains("01_b.sql and 1_a.sql have the same version"));
    }

    #[test]
    fn files_are_read_as_they_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let (a, b) = (file("2_a.sql", "SELECT 1"), file("1_b.sql", "SELECT 2;"));
        let several = |ids: [&str; 2], sql: [&str; 2]| {
            let all = ids.iter().zip(sql).map(|(id, sql)| ((*id).to_owned(), sql.to_owned())).collect();
            Ok((Script::Several(all), vec![]))
        };
        assert_eq!(read(std::slice::from_ref(&a)), Ok((Script::One("SELECT 1".to_owned()), vec![])));
        assert_eq!(read(&[a.clone(), b]), several(["2_a", "1_b"], ["SELECT 1", "SELECT 2;"]));
        assert_eq!(read(&[dir.path().to_owned()]), several(["1_b", "2_a"], ["SELECT 2;", "SELECT 1"]));
        for (files, why) in [
            (vec![dir.path().join("none")], "cannot read "),
            (vec![a.clone(), dir.path().to_owned()], "is a folder"),
            (vec![a.clone(), "-".into()], "standard input has no name"),
            (vec![a.clone(), a], "the same id, 2_a"),
        ] {
            let error = read(&files).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        file("3_c.sql", " \n");
        assert!(read(&[dir.path().to_owned()]).unwrap_err().ends_with("3_c.sql is empty"));
        file("3_c.sql", "SELECT 3");
        file("4 d.sql", "SELECT 4");
        assert!(read(&[dir.path().to_owned()]).is_err());
    }

    #[test]
    fn no_file_of_a_folder_is_passed_over_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("1_a.sql"), "SELECT 1").unwrap();
        fs::create_dir(path("2_folder.sql")).unwrap();
        fs::write(path("notes.txt"), "").unwrap();
        assert!(matches!(read(&[dir.path().to_owned()]), Ok((Script::Several(all), _)) if all.len() == 1));
        fs::write(path("3_B.SQL"), "SELECT 3").unwrap();
        assert!(read(&[dir.path().to_owned()]).unwrap_err().starts_with("3_B.SQL: "));
        fs::remove_file(path("3_B.SQL")).unwrap();
        std::os::unix::fs::symlink(path("gone"), path("3_c.sql")).unwrap();
        assert!(read(&[dir.path().to_owned()]).unwrap_err().ends_with("3_c.sql: it leads to no file"));
    }

    #[test]
    fn a_mark_of_the_encoding_is_no_sql() {
        assert_eq!(read_text("\u{feff}SELECT '\u{feff}'".as_bytes()).unwrap(), "SELECT '\u{feff}'");
    }

    #[test]
    fn a_change_is_no_place_for_data() {
        assert!(read_text(std::io::repeat(b'x')).is_err());
    }
}
