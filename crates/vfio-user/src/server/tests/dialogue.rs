//! One question, one answer. The cases are those of libvfio-user's test suite and of the conformance list.

use super::*;
use crate::fuzzing::{AREAS, Dummy, file_of};
use crate::server::{Next, ServerSession};
use crate::wire::{
    Capabilities, DeviceInfo, DmaAddr, DmaMap, DmaUnmap, IrqAction, IrqData, IrqIndex, IrqInfo, Record,
    RegionIndex, RegionReply, SetIrqs, emit_write_multi,
};
use std::os::unix::net::UnixStream;

const fn map(iova: u64, size: u64) -> DmaMap {
    DmaMap { iova: DmaAddr(iova), size, fd_offset: 0, readable: true, writeable: true }
}

const fn read(offset: u64, count: u32) -> Request<'static> {
    Request::RegionRead { region: RegionIndex::BAR0, offset, count }
}

const fn write(offset: u64, data: &[u8]) -> Request<'_> {
    Request::RegionWrite { region: RegionIndex::BAR0, offset, data }
}

const fn irqs(index: IrqIndex, start: u32, count: u32, action: IrqAction, data: IrqData<'_>) -> Request<'_> {
    Request::SetIrqs(SetIrqs { index, start, count, action, data })
}

#[test]
fn version_comes_first_and_once() {
    let mut line = Line::default();
    send!(line, Request::GetInfo { argsz: 16 });
    expect!(line, error INVAL);
    send!(line, Request::Version { major: 0, minor: 9, data: &[] });
    expect!(line, VERSION => Reply::Version { major: 0, minor: 0, data: b"" });
    send!(line, Request::Version { major: 0, minor: 0, data: &[] });
    expect!(line, error INVAL);
    send!(line, Request::GetInfo { argsz: 16 });
    expect!(line, GET_INFO => Reply::Info(DeviceInfo { flags: 3, regions: 9, irqs: 5 }));
    assert_eq!(line.session.counters().refused.order, 2);
}

#[test]
fn version_refuses_what_it_cannot_agree_on() {
    for (major, data) in [
        (1, &b"{}\0"[..]),
        (0, b"{}"),
        (0, b"{\0"),
        (0, b"\"\0"),
        (0, b"{ \"capabilities\": \"23\" }\0"),
        (0, b"{\"capabilities\":{\"max_msg_fds\":\"foo\"}}\0"),
        (0, b"{\"capabilities\":{\"max_msg_fds\":-1}}\0"),
        (0, b"{\"capabilities\":{\"max_msg_fds\":4294967296}}\0"),
        (0, b"{\"capabilities\":{\"migration\":\"23\"}}\0"),
        (0, b"{\"capabilities\":{\"migration\":{\"pgsize\":\"foo\"}}}\0"),
        (0, b"{\"capabilities\":{\"max_data_xfer_size\":0}}\0"),
        (0, b"{\"capabilities\":{\"pgsizes\":0}}\0"),
        (0, b"{}\0{}\0"),
        (0, &[b'['; 5000]),
        (0, b"\xff\xfe\0"),
    ] {
        let mut line = Line::default();
        send!(line, Request::Version { major, minor: 0, data });
        expect!(line, error INVAL);
        assert_eq!(line.session.counters().refused.version, 1, "{data:?}");
        // Refused is not disconnected: a client may do better.
        send!(line, Request::Version { major: 0, minor: 0, data: b"{}\0" });
        expect!(line, VERSION => Reply::Version { major: 0, minor: 0, data: b"{}\0" });
    }
    let mut line = Line::default();
    send!(line, bytes raw(1, 0, &[0, 0]));
    expect!(line, error INVAL);
    let mut greeting = hello();
    greeting[0..2].copy_from_slice(&[7, 0]);
    send!(line, bytes greeting; file_of(1));
    expect!(line, error INVAL);
    send!(line, posted Request::Version { major: 0, minor: 0, data: &[] });
    expect!(line, nothing);
    assert!(line.session.client().is_none());
}

#[test]
fn version_reply_is_never_longer_than_the_request() {
    for len in 0..200 {
        let mut data = vec![b' '; len];
        if let Some(last) = data.last_mut() {
            *last = 0;
        }
        if len > 2 {
            data[..2].copy_from_slice(b"{}");
        }
        let mut line = Line::default();
        send!(line, Request::Version { major: 0, minor: 0, data: &data });
        let (header, body) = line.replies().remove(0);
        assert!(header.size() <= 20 + u32::try_from(len).unwrap());
        // One byte or two cannot be JSON.
        assert_eq!(header.flags() == Flags::ERROR_REPLY, [1, 2].contains(&len), "{len} bytes");
        if let Some(json) = body.get(4..) {
            Capabilities::parse(json).unwrap();
        }
    }
}

#[test]
fn sizes_that_do_not_fit_the_command_are_refused_and_the_next_message_is_fine() {
    let mut line = line();
    for command in 2..=10 {
        for body in [&[][..], &[1], &[0; 7], &[0xff; 15], &[0xff; 300]] {
            if body.len() == 300 && [4, 5, 7].contains(&command) {
                continue; // a question may bring the room for its answer
            }
            send!(line, bytes raw(command, 0, body));
            let got = line.replies();
            assert_eq!(got.len(), 1, "command {command}, {} bytes", body.len());
            assert_eq!(got[0].0.flags(), Flags::ERROR_REPLY, "command {command}, {} bytes", body.len());
            send!(line, read(0, 4));
            assert_eq!(line.replies()[0].0.flags(), Flags::REPLY);
        }
    }
    send!(line, bytes raw(13, 0, &[0]));
    expect!(line, error INVAL);
    expect!(line, log []);
}

#[test]
fn argsz_below_the_fixed_part_is_refused() {
    let mut line = line();
    send!(line, Request::GetInfo { argsz: 15 });
    expect!(line, error INVAL);
    send!(line, Request::GetRegionInfo { argsz: 31, index: RegionIndex::BAR0 });
    expect!(line, error INVAL);
    send!(line, Request::GetIrqInfo { argsz: 15, index: IrqIndex::MSIX });
    expect!(line, error INVAL);
    send!(line, bytes raw(8, 0, &words(&[3, 0x21, 2, 0, 0])));
    expect!(line, error INVAL);
    send!(line, bytes raw(2, 0, &words(&[31, 3, 0, 0, 0, 0, 0x1000, 0])));
    expect!(line, error INVAL);
    send!(line, bytes raw(3, 0, &words(&[8, 0, 0, 0, 0x1000, 0])));
    expect!(line, error INVAL);
    send!(line, Request::GetIrqInfo { argsz: 100, index: IrqIndex::MSIX });
    expect!(line, GET_IRQ_INFO => Reply::IrqInfo { index: IrqIndex::MSIX, info: IrqInfo { flags: 1, count: 33 } });
    expect!(line, log []);
    assert_eq!(line.session.counters().refused.malformed, 6);
}

#[test]
fn unknown_indices_are_refused() {
    let mut line = line();
    for request in [
        Request::GetRegionInfo { argsz: 32, index: RegionIndex(9) },
        Request::GetRegionInfo { argsz: 32, index: RegionIndex(u32::MAX) },
        Request::GetIrqInfo { argsz: 16, index: IrqIndex(5) },
        Request::RegionRead { region: RegionIndex(9), offset: 0, count: 4 },
        Request::RegionWrite { region: RegionIndex(u32::MAX), offset: 0, data: &[0] },
        irqs(IrqIndex(5), 0, 0, IrqAction::Trigger, IrqData::None),
    ] {
        send!(line, request);
        expect!(line, error INVAL);
    }
    assert_eq!(line.session.counters().refused.range, 6);
}

#[test]
fn flags_that_are_no_request_are_refused() {
    let mut line = line();
    for flags in [1, 2, 0x0f, 0x20, 0x21, 0x40, 0x8000_0000] {
        send!(line, bytes raw(4, flags, &words(&[16, 0, 0, 0])));
        expect!(line, error INVAL);
    }
    // The bit that forbids an answer forbids this one too.
    send!(line, bytes raw(4, 0x11, &words(&[16, 0, 0, 0])));
    expect!(line, nothing);
    assert_eq!(line.session.counters().refused.malformed, 8);
}

#[test]
fn commands_that_are_not_served_are_drained_and_refused() {
    let mut line = line();
    for command in [6, 11, 12, 14, 16, 17, 18] {
        send!(line, bytes raw(command, 0, &[0xa5; 500]));
        expect!(line, error OPNOTSUPP);
    }
    for command in [0, 19, 0xffff] {
        send!(line, bytes raw(command, 0, &[0xa5; 100_000]));
        expect!(line, error NOSYS);
    }
    send!(line, Request::Reset);
    expect!(line, RESET => Reply::Done);
    assert_eq!(line.session.counters().refused.unsupported, 10);
}

#[test]
fn regions_read_and_write() {
    let mut line = line();
    send!(line, write(0x10, &[1, 2, 3]));
    expect!(line, REGION_WRITE => Reply::Written { region: RegionIndex::BAR0, offset: 0x10, count: 3 });
    send!(line, posted write(0x13, &[4]));
    expect!(line, nothing);
    send!(line, read(0xf, 6));
    let (header, body) = line.replies().remove(0);
    assert_eq!((header.size(), header.flags()), (38, Flags::REPLY));
    assert_eq!(body, [&words(&[0xf, 0, 0, 6])[..], &[0, 1, 2, 3, 4, 0]].concat());
    expect!(line, log ["write BAR0 0x10 [1, 2, 3]", "post BAR0 0x13 [4]"]);
    let counters = line.session.counters();
    assert_eq!((counters.reads, counters.writes, counters.posted_writes), (1, 1, 1));
}

#[test]
fn region_ranges_are_checked() {
    let mut line = line();
    let end = 0x20_0000;
    for (offset, count) in [(end, 1), (end - 3, 4), (u64::MAX, 1), (u64::MAX - 2, 4), (end + 1, 0)] {
        send!(line, read(offset, count));
        expect!(line, error INVAL);
        send!(line, write(offset, &[0; 4][..count as usize]));
        expect!(line, error INVAL);
    }
    // Nothing, at the very end, is within.
    send!(line, read(end, 0));
    assert_eq!(line.replies()[0].1.len(), 16);
    send!(line, write(end, &[]));
    expect!(line, REGION_WRITE => Reply::Written { region: RegionIndex::BAR0, offset: end, count: 0 });
    // A count that is not what follows.
    send!(line, bytes raw(10, 0, &words(&[0, 0, 0, 4])));
    expect!(line, error INVAL);
    send!(line, bytes raw(10, 0, &words(&[0, 0, 0, 4, 0, 0])));
    expect!(line, error INVAL);
    // Directions that the region does not have.
    send!(line, Request::RegionWrite { region: RegionIndex::BAR1, offset: 0, data: &[1] });
    expect!(line, error ACCESS);
    // The device's own errno.
    send!(line, Request::RegionRead { region: RegionIndex::BAR1, offset: 0, count: 4 });
    expect!(line, error NODEV);
    expect!(line, log []);
}

#[test]
fn one_mebibyte_moves_and_no_more() {
    let mut line = line();
    let data = vec![0x5a; 1 << 20];
    send!(line, write(0, &data));
    expect!(line, REGION_WRITE => Reply::Written { region: RegionIndex::BAR0, offset: 0, count: 1 << 20 });
    send!(line, read(0, 1 << 20));
    let (header, body) = line.replies().remove(0);
    assert_eq!(header.size(), 32 + (1 << 20));
    assert_eq!(body[16..], data);
    send!(line, read(0, (1 << 20) + 1));
    expect!(line, error TOOBIG);
    send!(line, write(0, &[0; (1 << 20) + 1]));
    expect!(line, error TOOBIG);
}

#[test]
fn the_clients_limit_holds_too() {
    let mut line = Line::default();
    let data = b"{\"capabilities\":{\"max_data_xfer_size\":256,\"unheard_of\":[1,{}]}}\0";
    send!(line, Request::Version { major: 0, minor: 0, data });
    assert_eq!(line.replies()[0].0.flags(), Flags::REPLY);
    send!(line, read(0, 256));
    assert_eq!(line.replies()[0].1.len(), 272);
    send!(line, read(0, 257));
    expect!(line, error TOOBIG);
}

#[test]
fn what_wants_no_reply_gets_none() {
    let mut line = line();
    for request in [
        write(u64::MAX, &[1]),
        read(0, 4),
        Request::GetInfo { argsz: 16 },
        Request::DmaUnmap(DmaUnmap::Range { iova: DmaAddr(0xdead_0000), size: 1 }),
        Request::Version { major: 0, minor: 0, data: &[] },
        irqs(IrqIndex::MSIX, 0, 99, IrqAction::Trigger, IrqData::None),
    ] {
        send!(line, posted request);
        expect!(line, nothing);
    }
    send!(line, bytes raw(99, 0x10, &[1, 2, 3]));
    expect!(line, nothing);
    assert_eq!(line.session.counters().refused.total(), 7);
    send!(line, posted Request::Reset);
    expect!(line, nothing);
    send!(line, posted Request::DmaMap(map(0, 0x1000)));
    expect!(line, nothing);
    expect!(line, log ["reset", "map 0x0+0x1000 at 0x0 fd []"]);
}

#[test]
fn multiple_writes() {
    let mut line = line();
    let mut message = Vec::new();
    let record = |offset, data: &[u8]| Record::new(RegionIndex::BAR0, offset, data).unwrap();
    let records = [record(0, &[1, 2, 3, 4]), record(u64::MAX, &[9]), record(8, &[5; 8]), record(1, &[])];
    emit_write_multi(MessageId(7), &records, &mut message);
    send!(line, bytes message);
    expect!(line, nothing);
    expect!(line, log ["post BAR0 0x0 [1, 2, 3, 4]", "post BAR0 0x8 [5, 5, 5, 5, 5, 5, 5, 5]"]);
    assert_eq!((line.session.counters().posted_writes, line.session.counters().refused.range), (3, 1));
    // The same with a reply: the first refusal is told.
    message[8] = 0;
    send!(line, bytes message);
    expect!(line, error INVAL);
    message.clear();
    emit_write_multi(MessageId(7), &records[2..], &mut message);
    message[8] = 0;
    send!(line, bytes message);
    expect!(line, REGION_WRITE_MULTI => Reply::WrittenMulti { records: 2 });
    line.device.log.clear();
    // Records that are cut, too many, or too long: not one is carried out.
    let good = [words(&[1, 0, 0, 0, 0, 4]), vec![1; 8]].concat();
    for (at, byte) in [(0, 2), (0, 0), (7, 0x80), (20, 9), (23, 1)] {
        let mut bad = good.clone();
        bad[at] = byte;
        send!(line, bytes raw(15, 0, &bad));
        expect!(line, error INVAL);
    }
    send!(line, bytes raw(15, 0, &good[..good.len() - 1]));
    expect!(line, error INVAL);
    expect!(line, log []);
    assert!(Record::new(RegionIndex::BAR0, 0, &[0; 9]).is_none());
}

#[test]
fn dma_map_and_unmap() {
    let mut line = line();
    let file = file_of(0x4000);
    send!(line, Request::DmaMap(DmaMap { fd_offset: 0x1000, ..map(0x10_0000, 0x1000) }); file);
    expect!(line, DMA_MAP => Reply::Done);
    send!(line, Request::DmaMap(map(0xfffc_0000, 0x4_0000)));
    expect!(line, DMA_MAP => Reply::Done);
    // The last page of the address space does not wrap.
    send!(line, Request::DmaMap(map(u64::MAX - 0xfff, 0x1000)));
    expect!(line, DMA_MAP => Reply::Done);
    let unmap = DmaUnmap::Range { iova: DmaAddr(0x10_0000), size: 0x1000 };
    send!(line, Request::DmaUnmap(unmap));
    expect!(line, DMA_UNMAP => Reply::Unmapped(unmap));
    send!(line, Request::DmaUnmap(DmaUnmap::Range { iova: DmaAddr(0xdead_0000), size: 1 }));
    expect!(line, error NOENT);
    send!(line, Request::DmaUnmap(DmaUnmap::All));
    expect!(line, DMA_UNMAP => Reply::Unmapped(DmaUnmap::All));
    expect!(line, log [
        "map 0x100000+0x1000 at 0x1000 fd [16384]",
        "map 0xfffc0000+0x40000 at 0x0 fd []",
        "map 0xfffffffffffff000+0x1000 at 0x0 fd []",
        "unmap 0x100000+0x1000",
        "unmap all",
    ]);
    // Empty; wraps; ends beyond any file; unknown flags; two files.
    send!(line, Request::DmaMap(map(0, 0)));
    expect!(line, error INVAL);
    send!(line, Request::DmaMap(map(0x1000, u64::MAX)));
    expect!(line, error INVAL);
    send!(line, Request::DmaMap(DmaMap { fd_offset: u64::MAX - 8, ..map(0, 0x1000) }));
    expect!(line, error INVAL);
    send!(line, bytes raw(2, 0, &words(&[32, 4, 0, 0, 0, 0, 0x1000, 0])));
    expect!(line, error INVAL);
    send!(line, Request::DmaMap(map(0, 0x1000)); file, file);
    expect!(line, error INVAL);
    send!(line, bytes raw(3, 0, &words(&[24, 1, 0, 0, 0x1000, 0])));
    expect!(line, error INVAL);
    send!(line, bytes raw(3, 0, &words(&[24, 2, 0x1000, 0, 0x1000, 0])));
    expect!(line, error INVAL);
    send!(line, bytes raw(3, 0, &words(&[24, 0, 0, 0, 0, 0])));
    expect!(line, error INVAL);
    expect!(line, log []);
}

#[test]
fn interrupts_in_all_their_forms() {
    use {IrqAction::*, IrqData::*};
    let mut line = line();
    let msix = IrqIndex::MSIX;
    let (a, b) = (file_of(1), file_of(2));
    send!(line, irqs(msix, 3, 2, Trigger, Eventfd); a, b);
    expect!(line, SET_IRQS => Reply::Done);
    for request in [
        irqs(msix, 0, 1, Trigger, Eventfd),
        irqs(msix, 4, 2, Trigger, None),
        irqs(msix, 4, 3, Trigger, Bool(&[1, 0, 255])),
        irqs(msix, 0, 0, Trigger, None),
        irqs(IrqIndex::INTX, 0, 1, Unmask, None),
        irqs(IrqIndex::INTX, 0, 1, Mask, Bool(&[0])),
        irqs(IrqIndex::REQ, 0, 0, Trigger, None),
        irqs(IrqIndex::MSI, 0, 0, Trigger, None),
    ] {
        send!(line, request);
        expect!(line, SET_IRQS => Reply::Done);
    }
    expect!(line, log [
        "MSI-X assign 3 [1, 2]",
        "MSI-X deassign 0 1",
        "MSI-X trigger [4, 5]",
        "MSI-X trigger [4, 6]",
        "MSI-X disable",
        "INTx unmask [0]",
        "INTx mask []",
        "REQ disable",
        "MSI disable",
    ]);
    for request in [
        irqs(msix, 32, 2, Trigger, None),
        irqs(msix, 33, 1, Trigger, None),
        irqs(msix, 30, u32::MAX, Trigger, Eventfd),
        irqs(IrqIndex::ERR, 0, 1, Mask, None),
        irqs(IrqIndex::ERR, 0, 2, Trigger, None),
        irqs(IrqIndex::MSI, 0, 1, Trigger, None),
        irqs(msix, 1, 0, Trigger, None),
        irqs(msix, 0, 0, Mask, None),
        irqs(msix, 0, 0, Trigger, Bool(&[])),
        irqs(msix, 0, 0, Trigger, Eventfd),
        irqs(msix, 0, 2, Trigger, Bool(&[1])),
        irqs(msix, 0, 2, Trigger, Bool(&[1, 1, 1])),
    ] {
        send!(line, request);
        expect!(line, error INVAL);
    }
    send!(line, irqs(IrqIndex::INTX, 0, 1, Unmask, Eventfd); a);
    expect!(line, error OPNOTSUPP);
    // Flags: two actions, two kinds of data, none of either, unknown.
    for flags in [0x31, 0x23, 0x01, 0x20, 0x61] {
        send!(line, bytes raw(8, 0, &words(&[20, flags, 2, 0, 1])));
        expect!(line, error INVAL);
    }
    // File descriptors that do not match.
    send!(line, irqs(msix, 0, 1, Trigger, None); a);
    expect!(line, error INVAL);
    send!(line, irqs(msix, 0, 1, Trigger, Bool(&[1])); a);
    expect!(line, error INVAL);
    send!(line, irqs(msix, 0, 2, Trigger, Eventfd); a);
    expect!(line, error INVAL);
    send!(line, irqs(msix, 0, 1, Trigger, Eventfd); a, b);
    expect!(line, error INVAL);
    expect!(line, log []);
    assert_eq!(line.session.counters().refused.fds, 4);
}

#[test]
fn region_info_in_two_passes() {
    let mut line = line();
    let ask = |index, argsz| Request::GetRegionInfo { argsz, index };
    let reply = |index, flags, size| RegionReply { index, flags, size, fd_offset: 0, areas: &[] };
    send!(line, ask(RegionIndex::BAR0, 32));
    expect!(line, GET_REGION_INFO => Reply::RegionInfo { region: reply(RegionIndex::BAR0, 3, 0x20_0000), room: 32 });
    send!(line, ask(RegionIndex::BAR1, 32));
    expect!(line, GET_REGION_INFO => Reply::RegionInfo { region: reply(RegionIndex::BAR1, 1, 0x100), room: 32 });
    send!(line, ask(RegionIndex::BAR3, 32));
    expect!(line, GET_REGION_INFO => Reply::RegionInfo { region: reply(RegionIndex::BAR3, 0, 0), room: 32 });
    let region = RegionReply { areas: &AREAS, ..reply(RegionIndex::BAR2, 7, 0x1_0000) };
    // Room for the fixed part only: all of argsz, CAPS, and the offset that QEMU insists on.
    send!(line, ask(RegionIndex::BAR2, 32));
    let (_, body) = line.replies().remove(0);
    assert_eq!(body, words(&[80, 0xf, 2, 32, 0x1_0000, 0, 0, 0]));
    send!(line, ask(RegionIndex::BAR2, 80));
    let expected: Vec<u32> = [80, 0xf, 2, 32, 0x1_0000, 0, 0, 0]
        .into_iter()
        .chain([0x0001_0001, 0, 2, 0, 0x1000, 0, 0x1000, 0, 0x8000, 0, 0x2000, 0])
        .collect();
    expect!(line, GET_REGION_INFO => Reply::RegionInfo { region, room: 80 });
    send!(line, ask(RegionIndex::BAR2, 4096));
    assert_eq!(line.replies().remove(0).1, words(&expected));
}

#[test]
fn a_client_that_takes_no_files_is_offered_none() {
    let mut line = Line::default();
    let data = b"{\"capabilities\":{\"max_msg_fds\":0}}\0";
    send!(line, Request::Version { major: 0, minor: 0, data });
    assert_eq!(line.replies().len(), 1);
    send!(line, Request::GetRegionInfo { argsz: 32, index: RegionIndex::BAR2 });
    assert_eq!(line.replies().remove(0).1, words(&[32, 3, 2, 0, 0x1_0000, 0, 0, 0]));
}

#[test]
fn what_is_posted_is_taken_up_to_the_first_question_which_waits_until_it_is_wanted() {
    let mut line = line();
    let posted = bytes_of(write(0x10, &[1; 4]), 7, Flags::POSTED);
    let question = bytes_of(read(0x10, 4), 7, Flags::COMMAND);
    line.push(&[posted.clone(), posted.clone(), question.clone(), question, posted].concat(), &[]);
    let Line { session, device, .. } = &mut line;
    let progress = session.service_posted(device, 256).unwrap();
    assert_eq!((progress.handled, progress.next), (2, Next::Question));
    assert_eq!(session.service_posted(device, 256).unwrap().handled, 0, "it stays");
    let progress = session.service_question(device, 256).unwrap();
    assert_eq!((progress.handled, progress.next), (1, Next::Again), "one, and not the next");
    assert_eq!(line.replies().len(), 1);
    let Line { session, device, .. } = &mut line;
    assert_eq!(session.service_posted(device, 256).unwrap().next, Next::Question);
    assert_eq!(session.service(device, 256).unwrap().handled, 2, "the rest");
}

#[test]
fn a_reply_that_is_held_waits_and_everything_behind_it() {
    let mut line = line();
    let held = bytes_of(write(0x10, Dummy::HOLD), 7, Flags::COMMAND);
    let behind = bytes_of(read(0x10, 4), 7, Flags::COMMAND);
    line.push(&[held.clone(), behind].concat(), &[]);
    let progress = line.step(256).unwrap();
    assert_eq!((progress.handled, progress.next), (1, Next::Held));
    assert_eq!(line.replies(), [], "neither has an answer");
    assert_eq!(line.device.log.len(), 1);
    line.device.holds = false;
    let progress = line.step(256).unwrap();
    assert_eq!((progress.handled, progress.next), (1, Next::Readable));
    let replies = line.replies();
    assert_eq!(replies.len(), 2, "in their order");
    assert_eq!(replies[0].1.len(), 16);
    assert_eq!(replies[1].1[16..], Dummy::HOLD[..4]);
    // A posted one holds up what comes behind it, too.
    let posted = bytes_of(write(0x10, Dummy::HOLD), 7, Flags::POSTED);
    line.push(&[posted, bytes_of(read(0x10, 4), 7, Flags::COMMAND)].concat(), &[]);
    assert_eq!(line.step(256).unwrap().next, Next::Held);
    assert_eq!(line.replies(), []);
    line.device.holds = false;
    line.step(256).unwrap();
    assert_eq!(line.replies().len(), 1);
    // A session that ends waits for nothing: all that came is carried out and answered.
    line.push(&[held.clone(), held].concat(), &[]);
    let mut line = line;
    let session = std::mem::replace(&mut line.session, ServerSession::new(UnixStream::pair().unwrap().0));
    session.finish(&mut line.device);
    assert_eq!(line.replies().len(), 2);
}
