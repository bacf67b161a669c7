//! The files of users, rules and name maps, and what the settings of authentication need of each other.
//!
//! Pure but for the reading of files, which is a function of the caller.

use super::build::{Draft, Reader};
use super::hba::{self, Method};
use super::ident;
use super::mistake::{quoted, unread};
use super::text::Place;
use super::types::UserSecret;
use super::userlist;
use super::value::AuthType;
use std::path::{Path, PathBuf};

/// Reads every file and runs every check.
pub(super) fn all(draft: &mut Draft<'_>, read: Reader<'_>) {
    auth_file(draft, read);
    ident_file(draft, read);
    hba_file(draft, read);
    certificates(draft);
    look_ups(draft);
    forced_users(draft);
}

/// Reads the file of users, if there is one or must be one.
fn auth_file(draft: &mut Draft<'_>, read: Reader<'_>) {
    let main = Place::Main;
    let auth_type = draft.config.auth_type;
    let Some(path) = draft.config.auth_file.clone() else {
        let of_password = matches!(auth_type, AuthType::ScramSha256 | AuthType::Md5 | AuthType::Plain);
        let looked_up = draft.config.auth_user.is_some()
            || draft.config.databases.values().any(|database| database.auth_user.is_some());
        if of_password && !looked_up && draft.sound(&main, &["auth_type"]) && !draft.broken {
            draft.mistake(&main, "auth_file", format!("a file of users, for auth_type = {auth_type}"), "none");
        }
        return;
    };
    let path = beside(draft.file, &path);
    draft.config.auth_file = Some(path.clone());
    if let Some(text) = content(draft, read, "auth_file", &path, true) {
        let (users, mistakes) = userlist::parse(&path, &text);
        draft.mistakes.join(mistakes);
        draft.config.users = users;
        secrets(draft);
    }
}

/// The text of a file that a key names.
fn content(draft: &mut Draft<'_>, read: Reader<'_>, key: &str, path: &Path, secret: bool) -> Option<String> {
    match read(path) {
        Err(error) => {
            let got = format!("{} ({})", quoted(&path.display().to_string()), unread(&error));
            draft.mistake(&Place::Main, key, "a file that can be read", got);
            None
        }
        Ok(content) => {
            if secret && content.world_readable {
                draft.warn(&format!("{key} {} can be read by everybody: chmod o-rwx", path.display()));
            }
            Some(content.text)
        }
    }
}

/// Warns of users that can never log in.
fn secrets(draft: &mut Draft<'_>) {
    let auth_type = draft.config.auth_type;
    let mut warnings = vec![];
    for (name, secret) in &draft.config.users {
        match (auth_type, secret) {
            (AuthType::ScramSha256 | AuthType::Md5 | AuthType::Plain, secret) if is_empty(secret) => {
                warnings.push(format!("user {name} has an empty secret and cannot log in"));
            }
            (AuthType::ScramSha256, UserSecret::Md5(_)) => {
                warnings.push(format!("user {name} has an md5 secret and cannot log in with auth_type = {auth_type}"));
            }
            _ => {}
        }
    }
    for warning in warnings {
        draft.warn(&warning);
    }
}

fn is_empty(secret: &UserSecret) -> bool {
    matches!(secret, UserSecret::Plain(secret) if secret.expose().is_empty())
}

fn ident_file(draft: &mut Draft<'_>, read: Reader<'_>) {
    let Some(path) = draft.config.auth_ident_file.clone() else { return };
    let path = beside(draft.file, &path);
    draft.config.auth_ident_file = Some(path.clone());
    if let Some(text) = content(draft, read, "auth_ident_file", &path, false) {
        let (maps, mistakes) = ident::parse(&path, &text);
        draft.mistakes.join(mistakes);
        draft.config.ident_maps = maps;
    }
}

fn hba_file(draft: &mut Draft<'_>, read: Reader<'_>) {
    let main = Place::Main;
    let Some(path) = draft.config.auth_hba_file.clone() else {
        if draft.config.auth_type == AuthType::Hba {
            let line = draft.line(&main, "auth_type");
            draft.mistakes.add(line, "auth_hba_file", "a file of rules, for auth_type = hba", "none");
        }
        return;
    };
    let path = beside(draft.file, &path);
    draft.config.auth_hba_file = Some(path.clone());
    if draft.config.auth_type != AuthType::Hba {
        draft.warn("auth_hba_file has no effect: auth_type is not hba");
    }
    let Some(text) = content(draft, read, "auth_hba_file", &path, false) else { return };
    let include = |name: &str| {
        let listed = beside(&path, Path::new(name));
        read(&listed).map(|content| content.text).map_err(|error| {
            format!("{} ({})", quoted(&listed.display().to_string()), error.to_string().escape_debug())
        })
    };
    let (hba, mut mistakes) = hba::parse(&path, &text, &include);
    for rule in &hba.rules {
        let unknown = rule.map.as_ref().filter(|map| !draft.config.ident_maps.knows(map));
        if let Some(map) = unknown {
            mistakes.add(rule.line, "hba", "a map of auth_ident_file", quoted(map));
        }
    }
    let open = hba.rules.iter().any(|rule| {
        let anywhere = rule.net.is_none() && rule.over != hba::Over::Local;
        rule.method == Method::Trust && anywhere
    });
    draft.mistakes.join(mistakes);
    draft.config.hba = hba;
    if open && draft.config.auth_type == AuthType::Hba {
        draft.warn("auth_hba_file trusts TCP clients from everywhere: they are whoever they say");
    }
}

/// What `auth_dbname` names must be there.
fn look_ups(draft: &mut Draft<'_>) {
    let databases = &draft.config.databases;
    let named =
        databases.iter().filter_map(|(name, entry)| Some((Place::Database(name.clone()), entry.auth_dbname.clone()?)));
    let named: Vec<_> = named.chain(draft.config.auth_dbname.clone().map(|name| (Place::Main, name))).collect();
    for (place, name) in named {
        if draft.config.database(&name).is_none() && !draft.broken {
            draft.mistake(&place, "auth_dbname", "the name of an entry under [databases]", quoted(&name));
        }
    }
    if draft.config.auth_query.is_empty() {
        draft.mistake(&Place::Main, "auth_query", "a query", "nothing");
    }
}

/// A client that is not asked for a certificate has none to show.
fn certificates(draft: &mut Draft<'_>) {
    let mode = draft.config.client_tls_sslmode;
    if mode.verifies() || !draft.sound(&Place::Main, &["client_tls_sslmode", "auth_type"]) {
        return;
    }
    let of_rules = draft.config.hba.rules.iter().any(|rule| rule.method == Method::Cert);
    match draft.config.auth_type {
        AuthType::Cert => {
            let given = draft.given(&Place::Main, "client_tls_sslmode");
            let line = draft.line(&Place::Main, if given { "client_tls_sslmode" } else { "auth_type" });
            let expected = "verify-ca or verify-full, for auth_type = cert";
            draft.mistakes.add(line, "client_tls_sslmode", expected, mode.to_string());
        }
        AuthType::Hba if of_rules => {
            let text = "method cert in auth_hba_file lets nobody in: clients show certificates with client_tls_sslmode = verify-ca or verify-full";
            draft.warn(text);
        }
        _ => {}
    }
}

/// Where the name of a client does not matter, each database says who it is.
fn forced_users(draft: &mut Draft<'_>) {
    if draft.config.auth_type != AuthType::Any {
        return;
    }
    let free = draft.config.databases.iter().filter(|(_, entry)| entry.user.is_none());
    let free: Vec<Place> = free.map(|(name, _)| Place::Database(name.clone())).collect();
    for place in free {
        draft.mistake(&place, "user", "a user that every client is, for auth_type = any", "none");
    }
}

/// A path in a file is meant from the file's own folder.
pub(super) fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().map_or_else(|| path.to_path_buf(), |folder| folder.join(path))
}
