//! What clients connect to: bound, accepted from, and cleared away.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::Failure;
use crate::config::{ListenAddr, in_the_way};
use crate::net::Plain;

/// Connections that the kernel completes before we accept them: a burst of 1,000 must not see a refused one.
const BACKLOG: u32 = 4096;

/// Something that clients connect to.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(super) fn bind(address: &ListenAddr) -> Result<Self, Failure> {
        match address {
            ListenAddr::Tcp(address) => {
                bind_tcp(*address).map(Self::Tcp).map_err(|error| cannot_listen(address, "listen", &error))
            }
            ListenAddr::Unix(path) => {
                remove_stale(path)?;
                let listener =
                    UnixListener::bind(path).map_err(|error| cannot_listen(&path.display(), "listen", &error))?;
                // As PostgreSQL's own (`unix_socket_permissions`): who may connect is decided by the login.
                let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
                std::fs::set_permissions(path, everybody)
                    .map_err(|error| cannot_listen(&path.display(), "listen", &error))?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Plain, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Plain::Tcp(stream), Some(peer)))
            }
            Self::Unix(listener, _) => Ok((Plain::Unix(listener.accept().await?.0), None)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self
            && in_the_way(path).is_none()
        {
            // Nobody can connect to it any more; if it is gone already, so much the better.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket file that nobody listens on was left by a process that was killed. Only a socket is ever removed: `connect` is
/// refused by an ordinary file, too (connect(2)).
fn remove_stale(path: &Path) -> Result<(), Failure> {
    if let Some(what) = in_the_way(path) {
        let path = path.display();
        return Err(format!("cannot listen on {path} (setting listen): {what} is there, which is not replaced").into());
    }
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

pub(super) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // What is accepted inherits it (tcp(7)): one system call less for each client.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

pub(super) fn cannot_listen(address: &dyn std::fmt::Display, setting: &str, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        _ => "",
    };
    format!("cannot listen on {address} (setting {setting}): {error}{hint}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_sends_at_once() {
        let listener = bind_tcp(([127, 0, 0, 1], 0).into()).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[tokio::test]
    async fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let bind = |path: &Path| Listener::bind(&ListenAddr::Unix(path.to_owned()));
        std::fs::write(at("file"), "kept").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        for (name, what) in [("file", "a file is there"), ("link", "a symbolic link is there")] {
            let error = bind(&at(name)).err().unwrap().to_string();
            assert!(error.contains(what) && error.contains(name), "{error}");
            assert_eq!(std::fs::read_to_string(at(name)).unwrap(), "kept");
        }
        // What the standard library leaves, as a process that was killed does.
        drop(std::os::unix::net::UnixListener::bind(at("stale")).unwrap());
        let listener = bind(&at("stale")).unwrap();
        assert!(bind(&at("stale")).is_err(), "somebody listens there");
        // Somebody else's file, by now, is not ours to clear away.
        std::fs::remove_file(at("stale")).unwrap();
        std::fs::write(at("stale"), "kept").unwrap();
        drop(listener);
        assert_eq!(std::fs::read_to_string(at("stale")).unwrap(), "kept");
    }
}
