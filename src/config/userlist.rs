//! The file of users, in the format of PgBouncer's `userlist.txt`.
//!
//! Pure. One user a line: `"name" "secret"`, with `""` for a quote inside; what follows is ignored, and so is a line that
//! begins with `;`. A user may have several lines if all hold plain passwords: any of them is right. A mistake names the line and the user, never any part of a secret.

use super::ini::unquote;
use super::mistake::{Mistakes, quoted};
use super::types::UserSecret;
use super::value::Secret;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

/// The most passwords of one user: each is tried at a log-in.
const PASSWORDS_MAX: usize = 4;

/// Reads the text of `file` into users, with everything that is wrong.
pub(crate) fn parse(file: &Path, text: &str) -> (BTreeMap<String, UserSecret>, Mistakes) {
    let mut users = BTreeMap::new();
    let mut mistakes = Mistakes::new(file);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), number + 1);
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        let Some((name, text)) = fields(line) else {
            mistakes.add(number, "user", "\"name\" \"secret\", in double quotes", "something else");
            continue;
        };
        let Some(secret) = secret(text) else {
            let expected = "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey";
            mistakes.add(number, &format!("user {name}"), expected, "a damaged SCRAM secret");
            continue;
        };
        if name.is_empty() || name.contains('\0') {
            mistakes.add(number, "user", "a name", quoted(&name));
            continue;
        }
        match users.entry(name) {
            Entry::Vacant(place) => drop(place.insert(secret)),
            Entry::Occupied(mut place) => {
                if let Err(secret) = join(place.get_mut(), secret) {
                    drop(secret);
                    let expected = "each user once, or with several different passwords in plain text";
                    mistakes.add(number, "user", expected, format!("{} again", quoted(place.key())));
                }
            }
        }
    }
    (users, mistakes)
}

/// Makes one more password right for a user. Only plain ones can be joined: SCRAM names the salt before it gets a proof.
fn join(known: &mut UserSecret, more: UserSecret) -> Result<(), UserSecret> {
    let mut all = match &*known {
        UserSecret::Plain(secret) => vec![secret.clone()],
        UserSecret::Several(secrets) => secrets.clone(),
        UserSecret::Md5(_) | UserSecret::Scram(_) => return Err(more),
    };
    match more {
        UserSecret::Plain(secret)
            if !secret.expose().is_empty()
                && all.len() < PASSWORDS_MAX
                && all.iter().all(|one| !one.expose().is_empty() && one.expose() != secret.expose()) =>
        {
            all.push(secret);
            *known = UserSecret::Several(all);
            Ok(())
        }
        other => Err(other),
    }
}

fn fields(line: &str) -> Option<(String, String)> {
    let (name, rest) = unquote(line.strip_prefix('"')?, '"')?;
    let (secret, _) = unquote(rest.trim_start().strip_prefix('"')?, '"')?;
    Some((name, secret))
}

impl UserSecret {
    /// Reads a secret in any form that `auth_file` and `pg_authid.rolpassword` have; none if it claims to be a SCRAM secret
    /// and is not.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        secret(text.to_owned())
    }
}

/// Which kind of secret it is; none if it claims to be a SCRAM verifier and is not.
fn secret(text: String) -> Option<UserSecret> {
    if let Some(verifier) = text.strip_prefix("SCRAM-SHA-256$") {
        return is_verifier(verifier).then(|| UserSecret::Scram(Secret::new(text)));
    }
    let digest = text.strip_prefix("md5").filter(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    Some(if digest.is_some() { UserSecret::Md5(Secret::new(text)) } else { UserSecret::Plain(Secret::new(text)) })
}

/// Has the text the shape `iterations:salt$StoredKey:ServerKey`? The keys are 32 bytes in Base64.
fn is_verifier(text: &str) -> bool {
    let base64 =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    let key = |text: &str| text.len() == 44 && base64(text);
    let parts = text.split_once('$').and_then(|(front, back)| Some((front.split_once(':')?, back.split_once(':')?)));
    parts.is_some_and(|((iterations, salt), (stored, server))| {
        iterations.parse::<u32>().is_ok_and(|n| n > 0) && base64(salt) && key(stored) && key(server)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2E=$\
        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA=";

    fn kind(secret: &UserSecret) -> (&'static str, &str) {
        match secret {
            UserSecret::Plain(secret) => ("plain", secret.expose()),
            UserSecret::Several(secrets) => ("several", secrets[0].expose()),
            UserSecret::Md5(secret) => ("md5", secret.expose()),
            UserSecret::Scram(secret) => ("scram", secret.expose()),
        }
    }

    #[test]
    fn users_are_read_as_pgbouncer_reads_them() {
        let digest = "md50123456789abcdef0123456789ABCDEF";
        let text = format!(
            "\u{feff}; comment\r\n\n\"a\" \"plain\"\r\n  \"b\"\t\"{digest}\" \"\"\n\"c\" \"{VERIFIER}\"\n\"d\"\"x\" \"q\"\"w\" ignored\n\
             \"e\"\"md5short\"\n\"f\" \"\"\n"
        );
        let (users, mistakes) = parse(Path::new("u"), &text);
        // As in PgBouncer `""` is a quote, so the line of `e` holds one field only.
        let shown: Vec<String> = mistakes.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["u:7: user: expected \"name\" \"secret\", in double quotes, got something else"]);
        assert_eq!(kind(&users["a"]), ("plain", "plain"));
        assert_eq!(kind(&users["b"]), ("md5", digest));
        assert_eq!(kind(&users["c"]), ("scram", VERIFIER));
        assert_eq!(kind(&users["d\"x"]), ("plain", "q\"w"));
        assert_eq!(kind(&users["f"]), ("plain", ""));
        assert_eq!(users.len(), 5);
    }

    #[test]
    fn mistakes_have_lines_and_no_secrets() {
        let text = "\"a\" \"hunter2\"\nhunter2\n\"b\" hunter2\n\"c\" \"hunter2\n\"a\" \"hunter2\"\n\"\" \"hunter2\"\n\
            \"d\" \"SCRAM-SHA-256$hunter2\"\n\"e\" \"SCRAM-SHA-256$0:aa$bb:cc\"";
        let (users, mistakes) = parse(Path::new("u"), text);
        let found = mistakes.into_vec();
        assert_eq!(found.iter().map(|m| m.line).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8]);
        assert!(!format!("{found:?}{users:?}").contains("hunter2"));
        assert_eq!(users.len(), 1);
    }

    #[test]
    fn a_user_may_have_several_passwords_but_not_several_secrets() {
        let text = format!(
            "\"a\" \"old\"\n\"a\" \"new\"\n\"a\" \"newer\"\n\"b\" \"{VERIFIER}\"\n\"b\" \"x\"\n\"c\" \"x\"\n\"c\" \"{VERIFIER}\"\n\
             \"d\" \"\"\n\"d\" \"x\"\n"
        );
        let (users, mistakes) = parse(Path::new("u"), &text);
        assert_eq!(mistakes.into_vec().iter().map(|m| m.line).collect::<Vec<_>>(), [5, 7, 9]);
        assert!(matches!(&users["a"], UserSecret::Several(all) if all.len() == 3 && all[0].expose() == "old"));
    }

    #[test]
    fn md5_needs_its_digits() {
        for text in [
            "md5",
            "md50123456789abcdef0123456789abcde",
            "md50123456789abcdef0123456789abcdeg",
            "MD50123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(secret(text.to_owned()).as_ref().map(kind), Some(("plain", text)));
        }
    }
}
