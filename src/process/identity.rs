//! Whose process it is: `-u` and `user`.

use std::ffi::CString;

use nix::unistd::{Gid, Uid, User, initgroups, setgid, setuid};

/// Whether the process is root's.
#[must_use]
pub fn is_root() -> bool {
    Uid::current().is_root() || Uid::effective().is_root()
}

/// Becomes this user, with its groups, for good. Call it before there are other threads.
///
/// # Errors
/// In words for the operator: no such user, or it is not allowed. The process must not go on then.
pub fn become_user(name: &str) -> Result<(), String> {
    let found = User::from_name(name).map_err(|error| format!("cannot look up user {name}: {error}"))?;
    let user = found.ok_or_else(|| format!("there is no user {name}"))?;
    if (Uid::current(), Uid::effective()) == (user.uid, user.uid) {
        return Ok(());
    }
    let text = CString::new(name).map_err(|_| format!("there is no user {name:?}"))?;
    let change = || {
        initgroups(&text, user.gid)?;
        setgid(user.gid)?;
        setuid(user.uid)
    };
    change().map_err(|error| format!("cannot become user {name}: {error}"))?;
    let now = (Uid::current(), Uid::effective(), Gid::current(), Gid::effective());
    if now == (user.uid, user.uid, user.gid, user.gid) { Ok(()) } else { Err(format!("cannot become user {name}")) }
}
