//! Golden bytes both ways, and what a hostile server may say.

use super::reply::{RegionReply, Reply};
use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Emits `request` and compares; parses the body and compares.
fn golden(request: Request<'_>, flags: Flags, hex: &str) {
    let expected = bytes(hex);
    let mut out = Vec::new();
    request.emit(MessageId(0x0201), flags, &mut out);
    assert_eq!(out, expected, "{request:?}");
    let header = Header::peek(&expected).unwrap();
    assert_eq!((header.id(), header.flags()), (MessageId(0x0201), flags));
    assert_eq!(header.checked_size(MAX_MESSAGE_BYTES), Some(expected.len()));
    assert_eq!(Request::parse(header.command(), &expected[HEADER_BYTES..]), Ok(request));
}

#[test]
fn requests_byte_for_byte() {
    let (region, index) = (RegionIndex::BAR2, IrqIndex::MSIX);
    golden(
        Request::Version { major: 0, minor: 1, data: b"{}\0" },
        Flags::COMMAND,
        "0102 0100 17000000 00000000 00000000  0000 0100 7b7d00",
    );
    let map =
        DmaMap { iova: DmaAddr(0x10_0000), size: 0x2000, fd_offset: 0x3000, readable: true, writeable: true };
    golden(
        Request::DmaMap(map),
        Flags::COMMAND,
        "0102 0200 30000000 00000000 00000000
         20000000 03000000 0030000000000000 0000100000000000 0020000000000000",
    );
    golden(
        Request::DmaUnmap(DmaUnmap::Range { iova: map.iova, size: map.size }),
        Flags::COMMAND,
        "0102 0300 28000000 00000000 00000000  18000000 00000000 0000100000000000 0020000000000000",
    );
    golden(
        Request::DmaUnmap(DmaUnmap::All),
        Flags::COMMAND,
        "0102 0300 28000000 00000000 00000000  18000000 02000000 0000000000000000 0000000000000000",
    );
    golden(
        Request::GetInfo { argsz: 16 },
        Flags::COMMAND,
        "0102 0400 20000000 00000000 00000000  10000000 00000000 00000000 00000000",
    );
    golden(
        Request::GetRegionInfo { argsz: 32, index: region },
        Flags::COMMAND,
        "0102 0500 30000000 00000000 00000000
         20000000 00000000 02000000 00000000 0000000000000000 0000000000000000",
    );
    golden(
        Request::GetIrqInfo { argsz: 16, index },
        Flags::COMMAND,
        "0102 0700 20000000 00000000 00000000  10000000 00000000 02000000 00000000",
    );
    let set = |action, data, count| Request::SetIrqs(SetIrqs { index, start: 3, count, action, data });
    golden(
        set(IrqAction::Trigger, IrqData::Eventfd, 4),
        Flags::COMMAND,
        "0102 0800 24000000 00000000 00000000  14000000 24000000 02000000 03000000 04000000",
    );
    golden(
        set(IrqAction::Unmask, IrqData::None, 1),
        Flags::COMMAND,
        "0102 0800 24000000 00000000 00000000  14000000 11000000 02000000 03000000 01000000",
    );
    golden(
        set(IrqAction::Mask, IrqData::Bool(&[1, 0]), 2),
        Flags::COMMAND,
        "0102 0800 26000000 00000000 00000000  16000000 0a000000 02000000 03000000 02000000 0100",
    );
    golden(
        Request::RegionRead { region, offset: 0x1234_5678_9abc, count: 8 },
        Flags::COMMAND,
        "0102 0900 20000000 00000000 00000000  bc9a785634120000 02000000 08000000",
    );
    golden(
        Request::RegionWrite { region, offset: 4, data: &[0xde, 0xad] },
        Flags::POSTED,
        "0102 0a00 22000000 10000000 00000000  0400000000000000 02000000 02000000 dead",
    );
    golden(Request::Reset, Flags::COMMAND, "0102 0d00 10000000 00000000 00000000");
}

#[test]
fn a_multiple_write_byte_for_byte() {
    let records = [(8, &[1, 2, 3, 4][..]), (0x10, &[9])]
        .map(|(at, data)| Record::new(RegionIndex::BAR4, at, data).unwrap());
    let mut out = Vec::new();
    emit_write_multi(MessageId(0x0201), &records, &mut out);
    let expected = bytes(
        "0102 0f00 48000000 10000000 00000000  0200000000000000
         0800000000000000 04000000 04000000 0102030400000000
         1000000000000000 04000000 01000000 0900000000000000",
    );
    assert_eq!(out, expected);
    let Ok(Request::WriteMulti(parsed)) = Request::parse(Command::REGION_WRITE_MULTI, &out[16..]) else {
        panic!("a multiple write");
    };
    assert_eq!(parsed.len(), 2);
    assert!(parsed.iter().eq(records));
    golden(Request::WriteMulti(parsed), Flags::POSTED, &hex(&expected));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Emits `reply` and compares; hands the body to `check`.
fn golden_reply(reply: Reply<'_>, command: Command, expected: &str, check: impl FnOnce(&[u8])) {
    let request = Header::new(MessageId(0x0201), command, 4096, Flags::COMMAND);
    let mut out = Vec::new();
    reply.emit(&request, &mut out);
    assert_eq!(hex(&out), hex(&bytes(expected)), "{reply:?}");
    check(&out[HEADER_BYTES..]);
}

#[test]
fn replies_byte_for_byte() {
    golden_reply(Reply::Done, Command::DMA_MAP, "0102 0200 10000000 01000000 00000000", |_| {});
    golden_reply(
        Reply::Version { major: 0, minor: 0, data: server_data(40) },
        Command::VERSION,
        &format!(
            "0102 0100 38000000 01000000 00000000  0000 0000 {}",
            hex(b"{\"capabilities\":{\"max_msg_fds\":16}}\0")
        ),
        |body| {
            let expected = Capabilities { max_msg_fds: 16, ..Capabilities::default() };
            assert_eq!(answer::version(body), Some((0, 0, expected)));
        },
    );
    let unmap = DmaUnmap::Range { iova: DmaAddr(0x1000), size: 0x2000 };
    golden_reply(
        Reply::Unmapped(unmap),
        Command::DMA_UNMAP,
        "0102 0300 28000000 01000000 00000000  18000000 00000000 0010000000000000 0020000000000000",
        |body| assert_eq!(answer::unmapped(body), Some(unmap)),
    );
    golden_reply(
        Reply::Info(DeviceInfo::PCI_DEFAULT),
        Command::GET_INFO,
        "0102 0400 20000000 01000000 00000000  10000000 03000000 09000000 05000000",
        |body| assert_eq!(answer::info(body), Some(DeviceInfo::PCI_DEFAULT)),
    );
    let info = IrqInfo { flags: 1, count: 33 };
    golden_reply(
        Reply::IrqInfo { index: IrqIndex::MSIX, info },
        Command::GET_IRQ_INFO,
        "0102 0700 20000000 01000000 00000000  10000000 01000000 02000000 21000000",
        |body| assert_eq!(answer::irq_info(body), Some((IrqIndex::MSIX, info))),
    );
    golden_reply(
        Reply::Written { region: RegionIndex::BAR0, offset: 4, count: 2 },
        Command::REGION_WRITE,
        "0102 0a00 20000000 01000000 00000000  0400000000000000 00000000 02000000",
        |body| assert_eq!(answer::access(body), Some((RegionIndex::BAR0, 4, 2, &[][..]))),
    );
    golden_reply(
        Reply::WrittenMulti { records: 3 },
        Command::REGION_WRITE_MULTI,
        "0102 0f00 18000000 01000000 00000000  0300000000000000",
        |body| assert_eq!(answer::written_multi(body), Some(3)),
    );
    let areas = [SparseArea { offset: 0x1000, size: 0x2000 }];
    let region =
        RegionReply { index: RegionIndex::BAR2, flags: 7, size: 0x10000, fd_offset: 0x4000, areas: &areas };
    golden_reply(
        Reply::RegionInfo { region, room: 64 },
        Command::GET_REGION_INFO,
        "0102 0500 50000000 01000000 00000000
         40000000 0f000000 02000000 20000000 0000010000000000 0040000000000000
         0100 0100 00000000 01000000 00000000 0010000000000000 0020000000000000",
        |body| assert_eq!(answer::region_info(body).unwrap().areas, areas),
    );
    golden_reply(
        Reply::RegionInfo { region, room: 63 },
        Command::GET_REGION_INFO,
        "0102 0500 30000000 01000000 00000000
         40000000 0f000000 02000000 20000000 0000010000000000 0040000000000000",
        |body| assert_eq!(answer::region_info(body).unwrap().argsz, 64),
    );
}

#[test]
fn error_and_read_replies_byte_for_byte() {
    let request = Header::new(MessageId(0x0201), Command::REGION_READ, 32, Flags::COMMAND);
    let mut out = Vec::new();
    emit_error(&request, rustix::io::Errno::INVAL, &mut out);
    assert_eq!(out, bytes("0102 0900 10000000 21000000 16000000"));
    out.clear();
    emit_read_head(&request, RegionIndex::CONFIG, 0x10, 4, &mut out);
    assert_eq!(out, bytes("0102 0900 24000000 01000000 00000000  1000000000000000 07000000 04000000"));
}

#[test]
fn answers_that_lie_are_not_understood() {
    for body in [&[][..], &[0; 3], &[0; 15]] {
        assert_eq!(answer::info(body), None);
        assert_eq!(answer::irq_info(body), None);
        assert_eq!(answer::access(body), None);
        assert_eq!(answer::region_info(body), None);
    }
    // Capability chains: beyond the end, backwards, with more areas than there are.
    let info = |cap_offset: u32, cap: &str| {
        let mut body = bytes("40000000 0f000000 02000000 20000000 0000010000000000 0000000000000000");
        body[12..16].copy_from_slice(&cap_offset.to_le_bytes());
        [body, bytes(cap), vec![0; 16]].concat()
    };
    let good = "0100 0100 00000000 01000000 00000000";
    assert_eq!(answer::region_info(&info(32, good)).unwrap().areas.len(), 1);
    for (offset, cap) in [
        (49, good),
        (u32::MAX, good),
        (32, "0100 0100 20000000 01000000 00000000"),
        (32, "0100 0100 01000000 01000000 00000000"),
        (32, "0100 0100 00000000 02000000 00000000"),
        (32, "0100 0100 00000000 ffffffff 00000000"),
    ] {
        assert_eq!(answer::region_info(&info(offset, cap)), None, "{offset} {cap}");
    }
    assert_eq!(answer::version(b"\0\0\0\0{"), None);
}

#[test]
fn capabilities_travel_both_ways() {
    let data = Capabilities::CLIENT.into_data();
    assert_eq!(data.last(), Some(&0));
    assert_eq!(Capabilities::parse(&data), Ok(Capabilities::CLIENT));
    assert_eq!(Capabilities::parse(b""), Ok(Capabilities::default()));
    assert_eq!(Capabilities::parse(b"{}\0"), Ok(Capabilities::default()));
    assert_eq!(server_data(0), b"");
    assert_eq!(server_data(3), b"{}\0");
    let full = Capabilities::parse(server_data(194)).unwrap();
    assert_eq!((full.max_msg_fds, full.max_data_xfer_size, full.write_multiple), (16, 1 << 20, true));
}
