//! What QEMU 11.1 sends when it realizes the device, and at the machine reset after it.

use super::*;
use crate::fuzzing::file_of;
use crate::wire::{DmaAddr, DmaMap, DmaUnmap, IrqAction, IrqData, IrqIndex, RegionIndex, SetIrqs};

const QEMU: &[u8] = b"{\"capabilities\": {\"pgsizes\": 4096, \"max_msg_fds\": 16, \"max_dma_maps\": 65535, \
\"max_data_xfer_size\": 1048576, \"migration\": {\"max_bitmap_size\": 268435456, \"pgsize\": 4096}, \
\"write_multiple\": true}}\0";

#[test]
fn qemu_realizes_resets_and_leaves() {
    let mut line = Line::default();
    assert_eq!(QEMU.len(), 194);
    send!(line, Request::Version { major: 0, minor: 0, data: QEMU });
    let full =
        b"{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,\"write_multiple\":true}}\0";
    expect!(line, VERSION => Reply::Version { major: 0, minor: 0, data: full });
    assert!(line.session.client().is_some_and(|client| client.write_multiple && client.pgsizes == 4096));

    // Memory before anything else; split RAM has an offset, ROM shadows have no file.
    let ram = file_of(0x1000_0000);
    let map = |iova, size, fd_offset| {
        Request::DmaMap(DmaMap { iova: DmaAddr(iova), size, fd_offset, readable: true, writeable: true })
    };
    send!(line, map(0, 0xa_0000, 0); ram);
    expect!(line, DMA_MAP => Reply::Done);
    send!(line, map(0x10_0000, 0xff0_0000, 0x10_0000); ram);
    expect!(line, DMA_MAP => Reply::Done);
    send!(line, map(0xfffc_0000, 0x4_0000, 0));
    expect!(line, DMA_MAP => Reply::Done);

    send!(line, Request::GetInfo { argsz: 16 });
    assert_eq!(line.replies().remove(0).1, words(&[16, 3, 9, 5]));
    for index in [0, 1, 2, 3, 4, 5, 7] {
        send!(line, Request::GetRegionInfo { argsz: 32, index: RegionIndex(index) });
        let (header, body) = line.replies().remove(0);
        assert_eq!((header.flags(), header.size()), (Flags::REPLY, 48));
        if body[0] > 32 {
            send!(line, Request::GetRegionInfo { argsz: u32::from(body[0]), index: RegionIndex(index) });
            assert_eq!(line.replies().remove(0).1.len(), usize::from(body[0]));
        }
    }
    for index in [IrqIndex::ERR, IrqIndex::MSIX] {
        send!(line, Request::GetIrqInfo { argsz: 16, index });
        assert_eq!(line.replies().remove(0).0.size(), 32);
    }
    let config = RegionIndex::CONFIG;
    send!(line, Request::RegionRead { region: config, offset: 0, count: 4096 });
    assert_eq!(line.replies().remove(0).1.len(), 16 + 4096);
    send!(line, Request::RegionWrite { region: config, offset: 0x30, data: &0xffff_f800_u32.to_le_bytes() });
    expect!(line, REGION_WRITE => Reply::Written { region: config, offset: 0x30, count: 4 });
    let error = file_of(3);
    let (action, data) = (IrqAction::Trigger, IrqData::Eventfd);
    send!(line, Request::SetIrqs(SetIrqs { index: IrqIndex::ERR, start: 0, count: 1, action, data }); error);
    expect!(line, SET_IRQS => Reply::Done);

    // Machine reset.
    send!(line, Request::RegionRead { region: config, offset: 4, count: 2 });
    assert_eq!(line.replies().len(), 1);
    send!(line, Request::Reset);
    expect!(line, RESET => Reply::Done);
    // Firmware shadows its ROM: unmaps and maps are pipelined, all are answered, in order.
    let unmap = DmaUnmap::Range { iova: DmaAddr(0xfffc_0000), size: 0x4_0000 };
    let churn = [
        bytes_of(Request::DmaUnmap(unmap), 1, Flags::COMMAND),
        bytes_of(map(0xc_0000, 0x4_0000, 0xc_0000), 2, Flags::COMMAND),
        bytes_of(map(0xfffc_0000, 0x4_0000, 0), 3, Flags::COMMAND),
    ];
    send!(line, bytes churn.concat());
    let ids: Vec<u16> = line.replies().iter().map(|(header, _)| header.id().0).collect();
    assert_eq!(ids, [1, 2, 3]);

    // The guest enables MSI-X with no vector, then unmasks 20, which QEMU sends as 16 and 4.
    let msix = |start, count, data| {
        Request::SetIrqs(SetIrqs { index: IrqIndex::MSIX, start, count, action: IrqAction::Trigger, data })
    };
    send!(line, msix(0, 1, IrqData::Eventfd));
    expect!(line, SET_IRQS => Reply::Done);
    let files: Vec<_> = (0..20).map(|n| file_of(100 + n)).collect();
    line.talk(&bytes_of(msix(0, 16, IrqData::Eventfd), 7, Flags::COMMAND), usize::MAX, &as_fds(&files[..16]))
        .unwrap();
    expect!(line, SET_IRQS => Reply::Done);
    line.talk(&bytes_of(msix(16, 4, IrqData::Eventfd), 7, Flags::COMMAND), usize::MAX, &as_fds(&files[16..]))
        .unwrap();
    expect!(line, SET_IRQS => Reply::Done);
    expect!(line, log [
        "map 0x0+0xa0000 at 0x0 fd [268435456]",
        "map 0x100000+0xff00000 at 0x100000 fd [268435456]",
        "map 0xfffc0000+0x40000 at 0x0 fd []",
        "write config 0x30 [0, f8, ff, ff]",
        "ERR assign 0 [3]",
        "reset",
        "unmap 0xfffc0000+0x40000",
        "map 0xc0000+0x40000 at 0xc0000 fd []",
        "map 0xfffc0000+0x40000 at 0x0 fd []",
        "MSI-X deassign 0 1",
        "MSI-X assign 0 [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115]",
        "MSI-X assign 16 [116, 117, 118, 119]",
    ]);
    assert_eq!(line.session.counters().refused.total(), 0);
    line.peer.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(line.step(1).unwrap().next, crate::server::Next::Closed);
    assert_eq!(line.step(1), Err(crate::server::SessionError::Over));
}
