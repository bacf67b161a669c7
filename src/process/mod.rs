//! The process among others: in the background, under another user, known by a file and to systemd.
//!
//! Nothing here knows what the program does. All of it happens before the runtime and its threads exist, but for
//! [`notify`], which only sends datagrams.

pub mod again;
pub mod background;
pub mod handed;
pub mod identity;
pub mod notify;
pub mod pidfile;
