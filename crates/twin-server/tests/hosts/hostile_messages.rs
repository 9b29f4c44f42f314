//! Messages that are not as they should be, and descriptors that come with them.

use crate::house::{Host, House, hello, ram_map, refused, times_open};
use ntb_spec::bar0::{Reg, offset_of};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use twin::Side;
use vfio_user::client::{Client, ClientError};
use vfio_user::wire::{
    Command, DmaAddr, DmaUnmap, Flags, HEADER_BYTES, Header, IrqAction, IrqData, IrqIndex, MAX_MESSAGE_BYTES,
    MessageId, RegionIndex, Request, SetIrqs,
};

/// A message with any header and any body.
fn message(command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    sized(command, flags, HEADER_BYTES + body.len(), body)
}

/// One that lies about its size.
fn sized(command: u16, flags: u32, size: usize, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&77u16.to_le_bytes());
    out.extend_from_slice(&command.to_le_bytes());
    out.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(body);
    out
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Sends it and gets the errno of the reply.
fn errno(client: &mut Client, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> i32 {
    client.send_raw(bytes, fds).unwrap();
    let (header, body, _) = client.receive_raw().unwrap();
    assert_eq!((header.id(), header.flags(), body.len()), (MessageId(77), Flags::ERROR_REPLY, 0));
    i32::try_from(header.error()).unwrap()
}

const EINVAL: i32 = Errno::INVAL.raw_os_error();

#[test]
fn a_malformed_message_gets_a_real_errno_and_the_next_one_is_understood() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let not_served = Errno::OPNOTSUPP.raw_os_error();
    let too_big = Errno::TOOBIG.raw_os_error();
    let einval = |command, body: &[u32]| (message(command, 0, &words(body)), EINVAL);
    let mut cases: Vec<(Vec<u8>, i32)> = vec![
        // Flags that are no request's: a reply, an error, unknown bits.
        (message(4, 1, &words(&[16, 0, 0, 0])), EINVAL),
        (message(4, 0x21, &words(&[16, 0, 0, 0])), EINVAL),
        (message(4, 0x8000_0000, &words(&[16, 0, 0, 0])), EINVAL),
        // VERSION twice.
        (message(1, 0, b"\0\0\0\0{}\0"), EINVAL),
        // Bodies that are too short, or too long, or lie about argsz.
        einval(2, &[32, 3, 0, 0]),
        einval(2, &[0, 3, 0, 0, 0, 0, 4096, 0]),
        einval(2, &[32, 0xFF, 0, 0, 0, 0, 4096, 0]),
        einval(2, &[32, 3, 0, 0, 0, 0, 4096, 0, 0]),
        einval(3, &[24, 0, 0, 0]),
        einval(3, &[24, 9, 0, 0, 0, 0]),
        einval(4, &[]),
        einval(4, &[15, 0, 0, 0]),
        einval(5, &[31, 0, 0, 0, 0, 0, 0, 0]),
        einval(5, &[32, 0, 9, 0, 0, 0, 0, 0]),
        einval(7, &[16, 0, 5, 0]),
        einval(13, &[0]),
        // Maps that are empty, wrap on the bus, or wrap in the file.
        einval(2, &[32, 3, 0, 0, 0, 0, 0, 0]),
        einval(2, &[32, 3, 0, 0, 0xFFFF_F000, u32::MAX, 8192, 0]),
        einval(2, &[32, 3, 0xFFFF_F000, u32::MAX, 0, 0, 8192, 0]),
        einval(3, &[24, 0, 0, 0, 0, 0]),
        einval(3, &[24, 0, 0xFFFF_F000, u32::MAX, 8192, 0]),
        // Accesses: a count that is not there, no region, behind the end, wrapping, more than a message may move.
        einval(9, &[0, 0, 0, 4, 0]),
        einval(9, &[0, 0, 9, 4]),
        einval(9, &[0, 0, u32::MAX, 4]),
        einval(9, &[0, 0, 1, 4]),
        einval(9, &[0xFFFD, 0, 0, 4]),
        einval(9, &[u32::MAX - 1, u32::MAX, 0, 4]),
        (message(9, 0, &words(&[0, 0, 2, (1 << 20) + 1])), too_big),
        (message(9, 0, &words(&[0, 0, 2, u32::MAX])), too_big),
        einval(10, &[0, 0, 0, 4]),
        einval(10, &[0, 0, 0, 3, 0]),
        einval(10, &[0xFFFD, 0, 0, 4, 0]),
        einval(10, &[0, 0, 7, u32::MAX, 0]),
        // Multiple writes: cut, lying about their number, a record too long.
        einval(15, &[1]),
        einval(15, &[2, 0, 0, 0, 0, 4, 0, 0]),
        einval(15, &[u32::MAX, u32::MAX]),
        einval(15, &[1, 0, 0, 0, 0, 9, 0, 0]),
        // SET_IRQS: no action, two actions, no data, behind the last vector, wrapping, no such type, data that is cut.
        einval(8, &[20, 0x04, 2, 0, 1]),
        einval(8, &[20, 0x34, 2, 0, 1]),
        einval(8, &[20, 0x20, 2, 0, 1]),
        einval(8, &[20, 0x21, 2, 33, 1]),
        einval(8, &[20, 0x21, 2, 32, 2]),
        einval(8, &[20, 0x21, 2, u32::MAX, u32::MAX]),
        einval(8, &[20, 0x21, 99, 0, 1]),
        einval(8, &[20, 0x21, 0, 0, 1]),
        einval(8, &[20, 0x22, 2, 0, 8, 0]),
        einval(8, &[20, 0x09, 2, 0, 1]),
    ];
    for command in [6, 11, 12, 14, 16, 17, 18] {
        cases.push((message(command, 0, &[0; 64]), not_served));
    }
    for command in [0, 19, 255, u16::MAX] {
        cases.push((message(command, 0, &[0; 64]), Errno::NOSYS.raw_os_error()));
    }
    // As large as a message may be, and nothing in it makes sense.
    cases.push((message(9, 0, &vec![0xEE; MAX_MESSAGE_BYTES - HEADER_BYTES]), EINVAL));
    for (at, (bytes, expected)) in cases.iter().enumerate() {
        let front = &bytes[..bytes.len().min(64)];
        assert_eq!(errno(&mut a.client, bytes, &[]), *expected, "case {at}: {front:02x?}");
        a.goes_on();
    }
    b.goes_on();
    let refused = house.port(Side::A).refused_messages;
    assert_eq!(refused, cases.len() as u64);
    // The same without wanting an answer: none comes, not even an error.
    for (bytes, _) in &cases {
        let mut posted = bytes.clone();
        posted[8] |= 0x10;
        a.client.send_raw(&posted, &[]).unwrap();
    }
    a.goes_on();
    b.goes_on();
    assert_eq!(house.port(Side::A).refused_messages, refused * 2);
    house.end();
}

#[test]
fn a_size_that_cannot_be_ends_the_connection_with_an_error_and_the_next_host_comes_in() {
    let house = House::new();
    let mut b = house.host(Side::B);
    for size in [0, 1, 15, MAX_MESSAGE_BYTES + 1, 1 << 30, u32::MAX as usize] {
        let mut a = house.host(Side::A);
        a.client.send_raw(&sized(9, 0, size, &[]), &[]).unwrap();
        let (header, _, _) = a.client.receive_raw().unwrap();
        assert_eq!(i32::try_from(header.error()).unwrap(), EINVAL, "{size}");
        assert!(matches!(a.client.receive_raw(), Err(ClientError::Closed)), "{size}");
        house.wait_gone(Side::A);
        b.goes_on_without_decode();
    }
    let mut a = house.host(Side::A);
    a.goes_on_without_decode();
    house.end();
}

#[test]
fn who_leaves_in_the_middle_of_a_message_is_gone() {
    let house = House::new();
    let mut b = house.host(Side::B);
    let whole = message(10, 0, &words(&[0x80, 0, 0, 4, 1]));
    for cut in [1, 8, 15, 16, 17, 31, whole.len() - 1] {
        let mut a = house.host(Side::A);
        a.client.send_raw(&whole[..cut], &[]).unwrap();
        drop(a);
        house.wait_gone(Side::A);
        b.goes_on_without_decode();
    }
    // A whole mebibyte announced, and a part of it sent.
    let mut a = house.host(Side::A);
    a.client.send_raw(&sized(10, 0, MAX_MESSAGE_BYTES, &[0; 100_000]), &[]).unwrap();
    house.assert_idle();
    drop(a);
    house.wait_gone(Side::A);
    b.goes_on_without_decode();
    house.end();
}

#[test]
fn nothing_is_served_before_version_and_a_bad_version_may_be_mended() {
    let house = House::new();
    let mut b = house.host(Side::B);
    let mut a = house.stranger(Side::A);
    for command in (2..=18).chain([99]) {
        let found = errno(&mut a, &message(command, 0, &words(&[32, 3, 0, 0, 0, 0, 4096, 0])), &[]);
        assert_eq!(found, EINVAL, "command {command}");
    }
    let bad: &[&[u8]] = &[
        b"",
        b"\0\0",
        b"\x01\0\0\0{}\0",
        b"\0\0\0\0{}",
        b"\0\0\0\0{\0",
        b"\0\0\0\0nonsense\0",
        b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":-1}}\0",
        b"\0\0\0\0{\"capabilities\":{\"max_data_xfer_size\":0}}\0",
        b"\0\0\0\0{\"capabilities\":{\"pgsizes\":0}}\0",
        b"\0\0\0\0\xFF\xFF\xFF\0",
    ];
    for body in bad {
        assert_eq!(errno(&mut a, &message(1, 0, body), &[]), EINVAL, "{body:?}");
    }
    let mut deep = b"\0\0\0\0".to_vec();
    deep.extend_from_slice(&vec![b'['; 1 << 20]);
    deep.push(0);
    assert_eq!(errno(&mut a, &message(1, 0, &deep), &[]), EINVAL);
    hello(&mut a).unwrap();
    Host::new(a).goes_on_without_decode();
    b.goes_on_without_decode();
    house.end();
}

#[test]
fn descriptors_where_none_belong_are_refused_and_closed() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let one = [fd.as_fd()];
    let sixteen = [fd.as_fd(); 16];
    let access = words(&[0x80, 0, 0, 4]);
    let map = words(&[32, 3, 0, 0, 0x4000_0000, 0, 4096, 0]);
    for (bytes, fds) in [
        (message(9, 0, &access), &one[..]),
        (message(9, 0, &access), &sixteen[..]),
        (message(13, 0, &[]), &one[..]),
        (message(4, 0, &words(&[16, 0, 0, 0])), &one[..]),
        (message(3, 0, &words(&[24, 2, 0, 0, 0, 0])), &one[..]),
        (message(2, 0, &map), &sixteen[..2]),
        (message(2, 0, &map), &sixteen[..]),
        (message(8, 0, &words(&[20, 0x21, 2, 0, 1])), &one[..]),
        (message(8, 0, &words(&[20, 0x24, 2, 0, 2])), &one[..]),
        (message(8, 0, &words(&[20, 0x24, 2, 0, 1])), &sixteen[..2]),
        (message(8, 0, &words(&[20, 0x24, 2, 30, 4])), &sixteen[..4]),
        (message(8, 0, &words(&[20, 0x24, 0, 0, 1])), &one[..]),
        (message(99, 0, &[]), &sixteen[..]),
    ] {
        assert_eq!(errno(&mut a.client, &bytes, fds), EINVAL, "{bytes:?} with {}", fds.len());
        assert_eq!(times_open(&fd), 1, "the twin kept a descriptor of {bytes:?}");
    }
    // Beside the pieces of one message, more than a message may have; and beside one that is never finished.
    let whole = message(2, 0, &map);
    for &byte in &whole[..whole.len() - 1] {
        a.client.send_raw(&[byte], &sixteen).unwrap();
    }
    assert_eq!(errno(&mut a.client, &whole[whole.len() - 1..], &[]), EINVAL);
    assert_eq!(times_open(&fd), 1);
    // None where one does belong is a request of its own: a map without a file, a vector without an eventfd.
    a.client.dma_map(ram_map(0x5000_0000, 4096, 0), None).unwrap();
    a.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(0x5000_0000), size: 4096 }).unwrap();
    let take_away = SetIrqs {
        index: IrqIndex::MSIX,
        start: 2,
        count: 1,
        action: IrqAction::Trigger,
        data: IrqData::Eventfd,
    };
    a.client.set_irqs(take_away, &[]).unwrap();
    assert_eq!(times_open(&a.vectors[2]), 1);
    a.client.send_raw(&whole[..20], &sixteen).unwrap();
    b.goes_on();
    drop(a);
    house.wait_gone(Side::A);
    assert_eq!(times_open(&fd), 1);
    house.end();
}

#[test]
fn a_message_may_come_a_byte_at_a_time_and_out_of_band_bytes_are_nobodys() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    for &byte in &message(10, 0, &words(&[offset_of(Reg::EmSpad, 0), 0, 0, 4, 0xABCD])) {
        a.client.send_raw(&[byte], &[]).unwrap();
        b.goes_on();
    }
    assert_eq!(a.client.receive_raw().unwrap().0.flags(), Flags::REPLY);
    assert_eq!(a.read(Reg::EmSpad, 0), 0xABCDu32.to_le_bytes());
    // UNIX sockets have urgent bytes since Linux 5.15; poll announces them and a read leaves them out.
    if rustix::net::send(&a.client, b"!", rustix::net::SendFlags::OOB).is_ok() {
        house.assert_idle();
        b.goes_on();
        a.goes_on();
        // One that overtakes another makes that one an ordinary byte: no message, so the host is thrown out.
        while rustix::net::send(&a.client, b"!!", rustix::net::SendFlags::OOB).is_ok() {
            b.goes_on();
        }
        b.goes_on();
    }
    house.end();
}

#[test]
fn a_multiple_write_that_is_waited_for_gets_one_answer_however_long_it_takes() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    // 5000 scratchpad writes; in the second message the third record names no region.
    for bad in [None, Some(2)] {
        let mut body = words(&[5000, 0]);
        for nth in 0..5000 {
            let region = if Some(nth) == bad { 40 } else { 0 };
            body.extend_from_slice(&words(&[offset_of(Reg::PeerSpad, 3), 0, region, 4, nth, 0]));
        }
        a.client.send_raw(&message(15, 0, &body), &[]).unwrap();
        let (header, reply, _) = a.client.receive_raw().unwrap();
        match bad {
            None => assert_eq!((header.flags(), reply), (Flags::REPLY, words(&[5000, 0]))),
            Some(_) => assert_eq!((header.flags(), header.error()), (Flags::ERROR_REPLY, 22)),
        }
        assert_eq!(b.read(Reg::Spad, 3), 4999u32.to_le_bytes(), "the records after a bad one are written");
        b.write(Reg::Spad, 3, &[0; 4]);
        a.goes_on();
    }
    assert_eq!(house.port(Side::A).refused_messages, 1);
    house.end();
}

/// Sends `requests` as fast as the twin takes them and collects the replies meanwhile: the header of each.
fn pipelined(client: &mut Client, requests: &[Vec<u8>], mut each: impl FnMut(usize, Header, Vec<u8>)) {
    for (chunk, requests) in requests.chunks(200).enumerate() {
        let together = requests.concat();
        client.send_raw(&together, &[]).unwrap();
        for nth in 0..requests.len() {
            let (header, body, _) = client.receive_raw().unwrap();
            each(chunk * 200 + nth, header, body);
        }
    }
}

#[test]
fn garbage_at_every_offset_in_every_width_hurts_nobody() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let mut noise = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    // Every register and everything up to the end of the external set, then samples of the emptiness behind.
    let bar0 = (0..0x4600u64).chain((0x4600..0x1_0000).step_by(37)).chain(0xFFF0..0x1_0000);
    let places: Vec<(RegionIndex, u64, u64)> = bar0
        .map(|at| (RegionIndex::BAR0, at, 0x1_0000))
        .chain((0..0x1000).map(|at| (RegionIndex::CONFIG, at, 0x1000)))
        .flat_map(|(region, at, end)| (1..=8).map(move |width| (region, at, width.min(end - at))))
        .collect();
    let mut writes = Vec::new();
    for &(region, offset, width) in &places {
        let value = random().to_le_bytes();
        // Decode stays on, so that it is the registers that are hit.
        if region == RegionIndex::CONFIG && (offset < 6 || (0x98..0x9A).contains(&offset)) {
            continue;
        }
        let data = &value[..usize::try_from(width).unwrap()];
        Request::RegionWrite { region, offset, data }.emit(MessageId(1), Flags::POSTED, &mut writes);
        if writes.len() > 1 << 20 {
            a.client.send_raw(&writes, &[]).unwrap();
            writes.clear();
        }
    }
    a.client.send_raw(&writes, &[]).unwrap();
    a.goes_on_without_decode();
    b.goes_on();
    let reads: Vec<Vec<u8>> = places
        .iter()
        .map(|&(region, offset, width)| {
            let mut out = Vec::new();
            let count = u32::try_from(width).unwrap();
            Request::RegionRead { region, offset, count }.emit(MessageId(1), Flags::COMMAND, &mut out);
            out
        })
        .collect();
    pipelined(&mut a.client, &reads, |at, header, body| {
        let (region, offset, width) = places[at];
        assert_eq!(header.flags(), Flags::REPLY, "{region} {offset:#x} {width}");
        let data = &body[16..];
        assert_eq!(data.len() as u64, width);
        let legal = usize::try_from(width)
            .is_ok_and(|width| ntb_spec::bar0::lookup(u32::try_from(offset).unwrap(), width).is_ok());
        if region == RegionIndex::BAR0 && !legal {
            assert!(data.iter().all(|&byte| byte == 0xFF), "{offset:#x} {width}: {data:02x?}");
        }
    });
    b.goes_on();
    // And without decode, master or driver: whatever is left after a reset by garbage.
    for offset in 0..16 {
        for width in 1..=8 {
            a.configure(offset, &random().to_le_bytes()[..width]);
        }
    }
    a.configure(0x98, &[0xFF; 2]);
    a.client.reset().unwrap();
    a.load_driver();
    a.wait_for_link(true);
    b.goes_on();
    assert!(house.port(Side::A).bad_accesses > 100_000);
    house.end();
}

#[test]
fn errors_have_the_errno_that_says_what_is_wrong() {
    let house = House::new();
    let mut a = house.host(Side::A);
    let ram = a.ram.0.try_clone().unwrap();
    let mut map = |iova, size| a.client.dma_map(ram_map(iova, size, 0), Some(ram.as_fd()));
    assert_eq!(refused(map(crate::house::RAM_AT, 4096)), Errno::EXIST.raw_os_error());
    let mut unmap = |iova, size| a.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(iova), size });
    assert_eq!(refused(unmap(0, 4096)), Errno::NOENT.raw_os_error());
    assert_eq!(refused(unmap(crate::house::RAM_AT, 4096)), EINVAL, "it cuts a section in two");
    assert_eq!(Command::DMA_UNMAP.name(), Some("DMA_UNMAP"));
}
