//! The listening socket: made with the right mode, taken over when stale, removed at the end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Group;
use tokio::net::{UnixListener, UnixStream};

use super::access::Role;

/// Why the API's socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another dpvsd listens at {0}: stop it, or give this one a socket of its own")]
    InUse(PathBuf),
    /// A file that is no socket is in the way; it is left alone.
    #[error("{0} exists and is not a socket: remove it, or choose another path for the API's socket")]
    NotASocket(PathBuf),
    /// The group is not in the group database.
    #[error("there is no group '{0}': create it with groupadd, or name another for the API's socket")]
    NoSuchGroup(String),
    /// The system refused.
    #[error("cannot {action} {path}: {source}: name a path in a folder that dpvsd may write to")]
    Io {
        /// What was tried, e.g. `listen at`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening Unix socket of mode 0660; its file is removed on drop.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    gid: u32,
    role: Role,
    inode: (u64, u64),
}

impl Socket {
    /// Listens at `path`, whose missing folders are made. The socket belongs to `group` if given, else to the daemon's
    /// own group. A stale socket of a daemon that died is replaced; one that somebody answers on is not.
    /// Must be called within a tokio runtime.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, BindError> {
        let failed = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
        let gid = match group {
            None => None,
            Some(name) => match Group::from_name(name) {
                Ok(Some(group)) => Some(group.gid.as_raw()),
                _ => return Err(BindError::NoSuchGroup(name.to_owned())),
            },
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        }
        clear_stale(path, Instant::now() + PATIENCE)?;
        let listener = UnixListener::bind(path).map_err(failed("listen at"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed("set the mode of"))?;
        std::os::unix::fs::chown(path, None, gid).map_err(failed("set the group of"))?;
        let file = fs::metadata(path).map_err(failed("look at"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            gid: file.gid(),
            role: Role::Write,
            inode: (file.dev(), file.ino()),
        })
    }

    /// The same socket for peers that may only look.
    pub fn read_only(mut self) -> Self {
        self.role = Role::Read;
        self
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group that owns it.
    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    /// What its peers may do.
    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Not if a newer daemon has put its own there meanwhile.
        if fs::metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How long a daemon that seems to listen may take to go.
const PATIENCE: Duration = Duration::from_millis(500);

/// Removes the socket of a daemon that is gone, or goes before the deadline.
fn clear_stale(path: &Path, deadline: Instant) -> Result<(), BindError> {
    let failed = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        Err(error) => Err(failed("probe")(error)),
        // The kernel may still be tearing down a daemon that was killed a moment ago.
        Ok(_) if Instant::now() < deadline => {
            std::thread::sleep(Duration::from_millis(20));
            clear_stale(path, deadline)
        }
        Ok(_) => Err(BindError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn made_with_mode_0660_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/dpvs/dpvsd.sock");
        let socket = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        assert_eq!(socket.gid(), nix::unistd::getegid().as_raw());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_daemon_that_is_going_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let going = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 4);
            drop(going);
        });
        Socket::bind(&path, None).unwrap();
        ends.join().unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        // Dropping the listener of the standard library leaves the file, as a crash does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = Socket::bind(&path, None).unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(BindError::InUse(_))));
        // A successor's socket survives the predecessor.
        fs::remove_file(&path).unwrap();
        let second = Socket::bind(&path, None).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn other_files_and_groups_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let error = Socket::bind(&folder.path().join("s"), Some("no-such-group")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no group 'no-such-group': create it with groupadd, or name another for the API's socket"
        );
    }
}
