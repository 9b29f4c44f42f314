//! A client with our own server, and with servers that mean it no good.

use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::fstat;
use zerocopy::IntoBytes;

use super::*;
use crate::fuzzing::{AREAS, Line, file_of};
use crate::server::Next;
use crate::wire::DmaAddr;

/// A client past VERSION, and a thread that serves it until it leaves; joining gives the device's log.
fn served() -> (Client, JoinHandle<Vec<String>>) {
    let mut line = Line::default();
    let (unused, _) = UnixStream::pair().unwrap();
    let mut client = Client::from_stream(std::mem::replace(&mut line.peer, unused)).unwrap();
    let server = std::thread::spawn(move || {
        loop {
            match line.step(100).unwrap().next {
                Next::Closed => return line.device.log,
                Next::Again | Next::Held => {}
                Next::Readable | Next::Writable | Next::Question => {
                    let mut flags = PollFlags::IN;
                    flags.set(PollFlags::OUT, line.session.wants_write());
                    poll(&mut [PollFd::new(&line.session, flags)], None).unwrap();
                }
            }
        }
    });
    client.negotiate(&Capabilities::CLIENT).unwrap();
    (client, server)
}

#[test]
fn every_call_against_our_server() {
    let (mut client, server) = served();
    assert!(client.server().write_multiple && client.server().max_msg_fds == 16);
    assert_eq!(client.device_info().unwrap(), DeviceInfo::PCI_DEFAULT);

    let plain = client.region_info(RegionIndex::BAR0).unwrap();
    assert_eq!((plain.size, plain.flags, plain.fd.is_none()), (0x20_0000, 3, true));
    let sparse = client.region_info(RegionIndex::BAR2).unwrap();
    assert_eq!((sparse.flags, sparse.areas), (0xf, AREAS.to_vec()));
    assert_eq!(fstat(sparse.fd.unwrap()).unwrap().st_size, 0x1_0000);
    let whole = client.region_info(RegionIndex::BAR4).unwrap();
    assert_eq!((whole.flags, whole.areas.len(), whole.fd.is_some()), (7, 0, true));
    assert_eq!(client.irq_info(IrqIndex::MSIX).unwrap().count, 33);

    let map = DmaMap { iova: DmaAddr(0x1000), size: 0x1000, fd_offset: 0, readable: true, writeable: true };
    client.dma_map(map, None).unwrap();
    client.dma_map(DmaMap { iova: DmaAddr(0x2000), ..map }, Some(file_of(5).as_fd())).unwrap();
    client.dma_unmap(DmaUnmap::Range { iova: map.iova, size: map.size }).unwrap();
    client.dma_unmap(DmaUnmap::All).unwrap();
    let files: Vec<OwnedFd> = (0..20).map(file_of).collect();
    let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    client.assign_irqs(IrqIndex::MSIX, 2, &fds).unwrap();
    client.disable_irqs(IrqIndex::MSIX).unwrap();

    client.region_write(RegionIndex::BAR0, 8, &[1, 2]).unwrap();
    client.region_write_posted(RegionIndex::BAR0, 10, &[3]).unwrap();
    client.write_multi(&[Record::new(RegionIndex::BAR0, 11, &[4]).unwrap()]).unwrap();
    let mut data = [0; 4];
    client.region_read(RegionIndex::BAR0, 8, &mut data).unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
    client.reset().unwrap();

    // A refusal leaves the connection good.
    let refused = client.region_read(RegionIndex::BAR0, u64::MAX, &mut data).unwrap_err();
    assert_eq!(refused.to_string(), "the server refused REGION_READ: Invalid argument (os error 22)");
    assert!(matches!(
        client.region_write(RegionIndex::BAR0, 0, &vec![0; 2 << 20]),
        Err(ClientError::TooMuch)
    ));
    client.region_read(RegionIndex::BAR0, 8, &mut data).unwrap();
    drop(client);
    assert_eq!(
        server.join().unwrap(),
        [
            "map 0x1000+0x1000 at 0x0 fd []",
            "map 0x2000+0x1000 at 0x0 fd [5]",
            "unmap 0x1000+0x1000",
            "unmap all",
            "MSI-X assign 2 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]",
            "MSI-X assign 18 [16, 17, 18, 19]",
            "MSI-X disable",
            "write BAR0 0x8 [1, 2]",
            "post BAR0 0xa [3]",
            "post BAR0 0xb [4]",
            "reset",
        ]
    );
}

/// A client whose server has already said `answer` before it was asked anything.
fn prejudiced(answer: &[u8], fds: &[BorrowedFd<'_>]) -> (Client, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    crate::socket::send(theirs.as_fd(), answer, fds, rustix::net::SendFlags::empty()).unwrap();
    (Client::from_stream(ours).unwrap(), theirs)
}

fn reply(id: u16, command: Command, flags: u32, size: u32, body: &[u8]) -> Vec<u8> {
    [Header::new(MessageId(id), command, size, Flags(flags)).as_bytes(), body].concat()
}

#[test]
fn a_server_that_lies_costs_an_error_and_the_connection() {
    let command = Command::GET_INFO;
    for answer in [
        reply(2, command, 1, 32, &[0; 16]),
        reply(1, Command::RESET, 1, 32, &[0; 16]),
        reply(1, command, 0, 32, &[0; 16]),
        reply(1, Command::DMA_READ, 0, 32, &[0; 16]),
        reply(1, command, 1, 31, &[0; 15]),
        reply(1, command, 1, 15, &[]),
        reply(1, command, 1, 0, &[]),
        reply(1, command, 1, 33, &[0; 17]),
        reply(1, command, 1, u32::MAX, &[0; 16]),
    ] {
        let (mut client, _server) = prejudiced(&answer, &[]);
        assert!(matches!(client.device_info(), Err(ClientError::Protocol(_))), "{answer:x?}");
        assert!(matches!(client.device_info(), Err(ClientError::Broken)));
    }
}

#[test]
fn errors_with_any_errno_are_errors() {
    for (error, expected) in [(22, 22), (0, 0), (4096, 0), (u32::MAX, 0)] {
        let header = Header::new(MessageId(1), Command::RESET, 16, Flags::ERROR_REPLY).with_error(error);
        let (mut client, _server) = prejudiced(header.as_bytes(), &[]);
        assert!(matches!(client.reset(), Err(ClientError::Refused { errno, .. }) if errno == expected));
    }
}

#[test]
fn a_server_that_goes_is_noticed() {
    let (mut client, server) = prejudiced(&[1, 0, 4], &[]);
    drop(server);
    assert!(matches!(client.device_info(), Err(ClientError::Closed)));
    let (mut client, server) = prejudiced(&[], &[]);
    client.set_timeout(Some(Duration::from_millis(20))).unwrap();
    assert!(matches!(client.device_info(), Err(ClientError::TimedOut)));
    drop(server);
}

#[test]
fn an_argsz_without_bound_is_not_followed() {
    let body = |argsz: u32| {
        let mut body = [0; 32];
        body[..4].copy_from_slice(&argsz.to_le_bytes());
        body
    };
    for argsz in [u32::MAX, 1 << 21] {
        let (mut client, _server) = prejudiced(&reply(1, Command::GET_REGION_INFO, 1, 48, &body(argsz)), &[]);
        assert!(matches!(client.region_info(RegionIndex::BAR0), Err(ClientError::Protocol(_))));
    }
    // One that always wants more is asked twice, not for ever.
    let greedy: Vec<u8> =
        (1..9).flat_map(|id| reply(id, Command::GET_REGION_INFO, 1, 48, &body(64 * u32::from(id)))).collect();
    let (mut client, _server) = prejudiced(&greedy, &[]);
    assert!(matches!(client.region_info(RegionIndex::BAR0), Err(ClientError::Protocol(_))));
}

#[test]
fn files_that_nobody_asked_for_are_bounded() {
    let file = file_of(1);
    let (mut client, theirs) = prejudiced(&reply(1, Command::RESET, 1, 16, &[])[..1], &[file.as_fd(); 16]);
    let rest = reply(1, Command::RESET, 1, 16, &[]);
    for byte in &rest[1..] {
        let fds = [file.as_fd(); 16];
        crate::socket::send(theirs.as_fd(), &[*byte], &fds, rustix::net::SendFlags::empty()).unwrap();
    }
    assert!(matches!(client.reset(), Err(ClientError::Protocol(_))));
}

#[test]
fn raw_messages_go_and_come_as_they_are() {
    let (mut client, server) = served();
    client.send_raw(&reply(9, Command(99), 0, 20, &[1, 2, 3, 4]), &[]).unwrap();
    let (header, body, fds) = client.receive_raw().unwrap();
    assert_eq!((header.id(), header.flags(), header.error()), (MessageId(9), Flags::ERROR_REPLY, 38));
    assert!(body.is_empty() && fds.is_empty());
    drop(client);
    assert!(server.join().unwrap().is_empty());
}
