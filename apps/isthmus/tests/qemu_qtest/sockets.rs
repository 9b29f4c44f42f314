//! A twin's sockets: made, refused, taken away. No QEMU is needed for these.

use crate::bench::{Twin, refused_twin};
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_twin_without_its_directory_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let (status, said) = refused_twin(&directory.path().join("missing"), &[]);
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("the directory does not exist; create it first"), "{said}");
    assert!(said.contains("missing"), "it names the directory: {said}");
}

#[test]
fn a_second_twin_on_the_same_sockets_does_not_start_and_the_first_goes_on() {
    let mut twin = Twin::start(&[]);
    let (status, said) = refused_twin(twin.directory(), &[]);
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("a.sock") && said.contains("in use by a running process"), "{said}");
    assert_eq!(twin.status().ports.len(), 2);
    twin.finish(&[]);
}

#[test]
fn a_file_in_a_sockets_place_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("b.sock");
    std::fs::write(&file, "precious").unwrap();
    let (status, said) = refused_twin(directory.path(), &[]);
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("b.sock") && said.contains("is not a socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(!directory.path().join("a.sock").exists(), "and the other socket is taken away again");
}

#[test]
fn sockets_are_the_owners_alone_replaced_when_stale_and_removed_at_the_end() {
    let twin = Twin::start(&[]);
    for name in ["a.sock", "b.sock", "control.sock"] {
        let mode = std::fs::metadata(twin.directory().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let directory = twin.kill();
    assert!(directory.path().join("a.sock").exists(), "kill -9 leaves them");
    let mut twin = Twin::start_in(directory, &[]);
    twin.status();
    // SIGTERM: it ends with 0 and takes them with it.
    twin.finish(&[]);
}
