//! Tests of [`super`]: who may be replaced, and who is told what.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;
use crate::client::{Client, ClientError};

fn names(directory: &Path) -> Vec<OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn binds_privately_serves_and_tidies_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let listener = Listener::bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(listener.path(), Some(path.as_path()));
    assert_eq!(names(directory.path()), ["a.sock"]);
    assert!(listener.accept().unwrap().is_none());
    let client = UnixStream::connect(&path).unwrap();
    assert!(listener.accept().unwrap().is_some());
    drop((client, listener));
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    drop(UnixListener::bind(&path).unwrap()); // leaves its file behind
    assert!(path.exists());
    let listener = Listener::bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    assert!(listener.accept().unwrap().is_some());
    assert_eq!(names(directory.path()), ["a.sock"]);
}

#[test]
fn a_living_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let first = Listener::bind(&path).unwrap();
    let error = Listener::bind(&path).unwrap_err();
    assert!(error.to_string().ends_with("a.sock: in use by a running process"), "{error}");
    UnixStream::connect(&path).unwrap();
    assert!(first.accept().unwrap().is_some());
    // Even when its queue is full of those who only looked.
    let waiting: Vec<_> = (0..4).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(matches!(Listener::bind(&path), Err(ListenError::InUse(_))));
    drop(waiting);
    assert_eq!(names(directory.path()), ["a.sock"]);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    fs::write(&path, "dear").unwrap();
    assert!(matches!(Listener::bind(&path), Err(ListenError::NotASocket(_))));
    assert_eq!(fs::read(&path).unwrap(), b"dear");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Listener::bind(&link), Err(ListenError::NotASocket(_))));
    assert!(matches!(Listener::bind(directory.path()), Err(ListenError::NotASocket(_))));
    assert_eq!(names(directory.path()).len(), 2);
}

#[test]
fn a_missing_directory_and_a_long_path_are_said_plainly() {
    let directory = tempfile::tempdir().unwrap();
    let error = Listener::bind(directory.path().join("none/a.sock")).unwrap_err();
    assert!(error.to_string().ends_with("none: the directory does not exist; create it first"), "{error}");
    let error = Listener::bind(directory.path().join("x".repeat(110))).unwrap_err();
    assert!(error.to_string().contains("at most 107 bytes"), "{error}");
    assert!(names(directory.path()).is_empty());
}

/// An older listener that goes late does not take its successor's file along.
#[test]
fn only_ones_own_file_is_unlinked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let old = Listener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let new = Listener::bind(&path).unwrap();
    drop(old);
    UnixStream::connect(&path).unwrap();
    assert!(new.accept().unwrap().is_some());
}

#[test]
fn many_at_once_leave_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    for _ in 0..20 {
        drop(UnixListener::bind(&path).unwrap());
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Listener::bind(&path))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let owners: Vec<&Listener> = all.iter().flatten().collect();
        assert_eq!(owners.len(), 1, "{all:?}");
        UnixStream::connect(&path).unwrap();
        // The others only looked; among them is our connection.
        assert!(owners[0].accept().unwrap().is_some());
        drop(all);
        assert!(!path.exists());
    }
}

#[test]
fn handed_down_sockets_must_listen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let listener = Listener::from_fd(UnixListener::bind(&path).unwrap().into()).unwrap();
    assert_eq!(listener.path(), None);
    drop(listener);
    assert!(path.exists());
    let (connected, _) = UnixStream::pair().unwrap();
    assert!(matches!(Listener::from_fd(connected.into()), Err(ListenError::NotListening)));
    let file = fs::File::open("/dev/null").unwrap();
    assert!(matches!(Listener::from_fd(file.into()), Err(ListenError::NotListening)));
}

#[test]
fn a_second_client_that_is_dropped_hears_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let listener = Listener::bind(&path).unwrap();
    let second = UnixStream::connect(&path).unwrap();
    drop(listener.accept().unwrap());
    let mut second = Client::from_stream(second).unwrap();
    assert!(matches!(second.device_info(), Err(ClientError::Closed)));
    assert!(matches!(Client::connect(directory.path().join("b")), Err(ClientError::Connect { .. })));
}
