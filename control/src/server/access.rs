//! Who may use the API.
//!
//! The socket's mode keeps others out already; this check holds even if somebody widens it. It asks the kernel who
//! connected (`SO_PEERCRED`, unix(7)), which a peer cannot forge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Extension;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dpvs_api::{ApiError, Author, ErrorKind};
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::input::Refusal;

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Look at everything.
    Read,
    /// Change everything as well.
    Write,
}

/// The other side of a connection. Handlers get it with every request.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub author: Author,
    pub role: Role,
    /// Closes when the connection is to end.
    pub stopping: watch::Receiver<()>,
    outlives: Arc<AtomicBool>,
}

impl Peer {
    pub fn new(author: Author, role: Role, stopping: watch::Receiver<()>) -> Self {
        Self { author, role, stopping, outlives: Arc::default() }
    }

    /// The connection may last longer than others.
    pub fn outlive(&self) {
        self.outlives.store(true, Ordering::Relaxed);
    }

    /// Whether it may.
    pub fn outlives(&self) -> bool {
        self.outlives.load(Ordering::Relaxed)
    }
}

/// Lets only those pass who may change something.
pub(super) async fn require_write(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    if peer.role == Role::Write {
        return next.run(request).await;
    }
    let message = format!(
        "{} may only look: {} {} takes a peer with the write role",
        peer.author,
        request.method(),
        request.uri().path()
    );
    Refusal::from(forbidden(message)).into_response()
}

/// Allows root, the daemon's own user, and members of the socket's group.
pub(super) async fn check(stream: &UnixStream, group: u32) -> Result<Author, ApiError> {
    let peer = stream.peer_cred().map_err(|error| forbidden(format!("cannot tell who connects: {error}")))?;
    let author = Author::User { uid: peer.uid(), pid: peer.pid() };
    if allowed(peer.uid(), peer.gid(), geteuid().as_raw(), group) {
        return Ok(author);
    }
    // Reading the user database can block (LDAP), so it stays off this thread.
    let uid = peer.uid();
    let member = tokio::task::spawn_blocking(move || is_member(Uid::from_raw(uid), Gid::from_raw(group)));
    if member.await.unwrap_or(false) {
        return Ok(author);
    }
    Err(forbidden(format!(
        "user id {uid} may not control dpvsd: use root, the daemon's user, or a member of the socket's group (id {group})"
    )))
}

/// What can be told from ids alone.
fn allowed(uid: u32, gid: u32, own: u32, group: u32) -> bool {
    uid == 0 || uid == own || gid == group
}

/// Whether the user database counts the user among the group's members.
fn is_member(uid: Uid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

fn forbidden(message: String) -> ApiError {
    ApiError { kind: ErrorKind::Forbidden, message, path: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_decide() {
        for (uid, gid, own, group, expected) in [
            (0, 0, 500, 600, true),
            (500, 1, 500, 600, true),
            (7, 600, 500, 600, true),
            (7, 0, 500, 600, false),
            (7, 7, 0, 0, false),
        ] {
            assert_eq!(allowed(uid, gid, own, group), expected, "uid {uid} gid {gid} own {own} group {group}");
        }
    }

    #[test]
    fn members_come_from_the_user_database() {
        assert!(is_member(Uid::from_raw(0), Gid::from_raw(0)));
        assert!(!is_member(Uid::from_raw(0), Gid::from_raw(4_000_000_000)));
        assert!(!is_member(Uid::from_raw(4_000_000_000), Gid::from_raw(0)));
    }
}
