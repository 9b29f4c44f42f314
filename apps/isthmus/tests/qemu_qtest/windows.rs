//! Memory windows: what one host stores through a BAR is in the other's memory, and nowhere else.

use crate::bench::{BOTH, Pair, Twin};
use crate::host::Host;
use crate::qemu::{RAM_BYTES, there_is_a_qemu};
use control::WindowStatus;
use ntb_spec::bar0::Reg;
use ntb_spec::config;

/// Bytes without a period that a page or a power of two could hide.
fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at * 7 + at / 251) % 251).unwrap() ^ seed).collect()
}

/// Window 0 or 1 in a host's address space.
fn address(host: &Host, window: usize) -> u64 {
    host.bar(if window == 0 { 2 } else { 4 })
}

fn counters(twin: &mut Twin, host: &mut Host, window: usize) -> WindowStatus {
    host.flush();
    twin.window(host.port, window)
}

#[test]
fn qemu_stores_land_in_the_memory_of_the_other_host() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&["--mw-size", "64K"]);
    for port in BOTH {
        let (from, to, twin) = pair.direction(port);
        for window in 0..2 {
            let (out, landing) = (address(from, window), to.buffer(window));
            let last = from.window_bytes(window) - 8;
            for (offset, bytes, value) in [
                (0x0, 8, 0x1122_3344_5566_7788),
                (0x8, 4, 0x99AA_BBCC),
                (0xE, 2, 0xDDEE),
                (0x13, 1, 0xFF),
                (last, 8, 0x8877_6655_4433_2211),
            ] {
                let before = counters(twin, from, window);
                assert_eq!(before.open_bytes, last + 8);
                assert_eq!(before.translation, Some(landing));
                from.qemu.store(out + offset, bytes, value);
                let after = counters(twin, from, window);
                assert_eq!(to.qemu.load(landing + offset, bytes), value, "window {window}, {offset:#x}");
                assert_eq!(from.qemu.load(out + offset, bytes), value, "and it reads back");
                // One access is one store: eight bytes stay whole.
                assert_eq!(after.stores, before.stores + 1);
                assert_eq!(after.stored_bytes, before.stored_bytes + u64::from(bytes));
                assert_eq!(after.dropped, 0);
            }
            // The other way round: what the owner writes is what the peer reads.
            to.qemu.store(landing + 0x100, 8, 0x0F0E_0D0C_0B0A_0908);
            assert_eq!(from.qemu.load(out + 0x100, 8), 0x0F0E_0D0C_0B0A_0908);
            assert_eq!(from.qemu.load(out + 0x102, 2), 0x0B0A);

            // All of it at once: thousands of posted writes, in order and complete.
            let data =
                pattern(1 << 16, from.window_bytes(window).to_le_bytes()[2] ^ u8::try_from(window).unwrap());
            from.qemu.store_bytes(out, &data);
            from.flush();
            assert!(to.qemu.load_bytes(landing, data.len()) == data, "the pattern has changed on its way");
            assert!(from.qemu.load_bytes(out, data.len()) == data, "the pattern reads back differently");
            let after = counters(twin, from, window);
            assert_eq!((after.dropped, after.refused_loads), (0, 0));
        }
    }
    pair.finish();
}

#[test]
fn qemu_stores_across_sections_of_memory() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    let Pair { a, b, twin, .. } = &mut pair;
    let out = address(a, 0);
    let bytes = a.window_bytes(0);

    // The memory of b is in two files of equal size: the window shows the end of one and the beginning of the other.
    let border = RAM_BYTES / 2;
    b.set_translation(0, border - 0x1000, bytes);
    let data = pattern(0x2000, 0x5A);
    a.qemu.store_bytes(out, &data);
    a.flush();
    assert!(b.qemu.load_bytes(border - 0x1000, data.len()) == data);
    assert!(a.qemu.load_bytes(out, data.len()) == data);
    a.qemu.store_bytes(out + 0xFFD, &[1, 2, 3, 4, 5, 6]);
    a.flush();
    assert_eq!(b.qemu.load_bytes(border - 3, 6), [1, 2, 3, 4, 5, 6]);
    assert_eq!(counters(twin, a, 0).dropped, 0);

    // Below 1 MiB firmware cuts memory into pieces. First nothing is there ..
    b.set_translation(0, 0xE_0000, bytes);
    let dropped = |twin: &mut Twin, a: &mut Host| counters(twin, a, 0).dropped;
    a.qemu.store(out, 8, 1);
    assert_eq!(dropped(twin, a), 1);
    assert_eq!(a.qemu.load(out, 8), u64::MAX);
    // .. then all of it, to be read and written ..
    b.shadow([0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
    let data = pattern(0x2_4000, 0xA5);
    a.qemu.store_bytes(out, &data);
    a.flush();
    assert!(b.qemu.load_bytes(0xE_0000, data.len()) == data);
    // .. and at last 0xF0000 to 0xFFFFF to be read only: a store that reaches in there is lost, one beside it is not.
    b.shadow([0x10, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
    let before = dropped(twin, a);
    a.qemu.store(out + 0x0_FFF8, 8, 0x0102_0304_0506_0708);
    a.qemu.store(out + 0x1_0000, 8, 0x1112_1314_1516_1718);
    a.qemu.store(out + 0x1_FFF8, 8, 0x2122_2324_2526_2728);
    a.qemu.store(out + 0x2_0000, 8, 0x3132_3334_3536_3738);
    assert_eq!(dropped(twin, a), before + 2);
    assert_eq!(b.qemu.load(0xE_FFF8, 8), 0x0102_0304_0506_0708);
    assert_eq!(b.qemu.load_bytes(0xF_0000, 8), data[0x1_0000..0x1_0008]);
    assert_eq!(b.qemu.load_bytes(0xF_FFF8, 8), data[0x1_FFF8..0x2_0000]);
    assert_eq!(b.qemu.load(0x10_0000, 8), 0x3132_3334_3536_3738);
    assert_eq!(a.qemu.load_bytes(out + 0x1_0000, 16), data[0x1_0000..0x1_0010], "reading it is allowed");
    pair.finish();
}

#[test]
fn qemu_stores_nothing_through_a_window_that_is_closed() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    let landing = pair.b.buffer(0);
    let bytes = pair.a.window_bytes(0);
    let poison = 0x5555_5555_5555_5555;

    /// A store that must be dropped and a load that must be all ones, each counted.
    fn closed(pair: &mut Pair, offset: u64, why: &str) {
        let Pair { a, twin, .. } = pair;
        let at = address(a, 0) + offset;
        let before = counters(twin, a, 0);
        a.qemu.store(at, 8, 0xBAD);
        assert_eq!(a.qemu.load(at, 8), u64::MAX, "{why}");
        assert_eq!(a.qemu.load(at, 1), 0xFF, "{why}");
        let after = counters(twin, a, 0);
        assert_eq!(after.dropped, before.dropped + 1, "{why}");
        assert_eq!(after.refused_loads, before.refused_loads + 2, "{why}");
        assert_eq!((after.stores, after.loads), (before.stores, before.loads), "{why}");
    }

    /// A store that must arrive: what closed the window does so no longer.
    fn open(pair: &mut Pair, why: &str) {
        let Pair { a, b, .. } = pair;
        let at = address(a, 0);
        a.qemu.store(at, 8, 0x600D);
        assert_eq!(a.qemu.load(at, 8), 0x600D, "{why}");
        assert_eq!(b.qemu.load(b.buffer(0), 8), 0x600D, "{why}");
        let at = b.buffer(0);
        b.qemu.store(at, 8, 0x5555_5555_5555_5555);
    }

    open(&mut pair, "everything is as it should be");
    pair.b.set_command(config::COMMAND_MEMORY);
    closed(&mut pair, 0, "the peer may not master its bus");
    pair.b.set_command(config::COMMAND_MEMORY | config::COMMAND_BUS_MASTER);
    open(&mut pair, "bus master again");

    pair.b.set_translation(0, landing, 0x1000);
    closed(&mut pair, 0x1000, "just beyond the limit");
    closed(&mut pair, bytes - 8, "far beyond the limit");
    let misses = pair.b.read(Reg::UsMemMiss, 0);
    assert_eq!(misses, 6, "the peer counts what missed");
    pair.a.qemu.store(address(&pair.a, 0) + 0xFF8, 8, 0x600D);
    pair.a.flush();
    assert_eq!(pair.b.qemu.load(landing + 0xFF8, 8), 0x600D, "the last bytes before the limit");

    pair.b.set_translation(0, 0, 0);
    closed(&mut pair, 0, "no bytes are open");
    pair.b.set_translation(0, RAM_BYTES - 0x1000, bytes);
    closed(&mut pair, 0x1000, "behind the end of memory");
    pair.b.set_translation(0, !0xFFF, bytes);
    closed(&mut pair, 0, "the last page that an address can name");
    closed(&mut pair, 0x1000, "a range that wraps");
    let own = pair.b.bar(2);
    pair.b.set_translation(0, own, bytes);
    closed(&mut pair, 0, "the peer's own BAR is not memory");
    // 0 is an address like any other.
    pair.b.set_translation(0, 0, bytes);
    pair.a.qemu.store(address(&pair.a, 0) + 0x7000, 8, 0x600D_600D);
    pair.a.flush();
    assert_eq!(pair.b.qemu.load(0x7000, 8), 0x600D_600D);
    pair.b.set_translation(0, landing, bytes);
    open(&mut pair, "translated again");

    pair.b.disable_link();
    pair.a.wait_for_link(false);
    closed(&mut pair, 0, "the link is down");
    pair.b.enable_link();
    pair.wait_until_up();
    open(&mut pair, "the link is up again");

    pair.a.set_command(config::COMMAND_BUS_MASTER);
    let at = address(&pair.a, 0);
    pair.a.qemu.store(at, 8, 0xBAD);
    assert_ne!(pair.a.qemu.load(at, 8), poison, "no memory decode, no window");
    pair.a.set_command(config::COMMAND_MEMORY | config::COMMAND_BUS_MASTER);
    assert_eq!(pair.b.qemu.load(landing, 8), poison, "nothing that was dropped has arrived");
    pair.finish();
}

#[test]
fn qemu_uses_windows_of_512_mib() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::start(&["--mw-size", "512M"]);
    let Pair { a, b, .. } = &mut pair;
    for host in [a, b] {
        host.probe();
        // More than there is memory: the window ends where that does.
        host.set_translation(1, 0, host.window_bytes(1));
        host.enable_link();
    }
    pair.wait_until_up();
    let Pair { a, b, twin: _, .. } = &mut pair;
    let out = address(a, 1);
    for offset in [0x10_0000, RAM_BYTES / 2 - 8, RAM_BYTES / 2, RAM_BYTES - 8] {
        a.qemu.store(out + offset, 8, 0xC0DE_0000 + offset);
        assert_eq!(a.qemu.load(out + offset, 8), 0xC0DE_0000 + offset);
        assert_eq!(b.qemu.load(offset, 8), 0xC0DE_0000 + offset);
    }
    for offset in [RAM_BYTES, (512 << 20) - 8] {
        a.qemu.store(out + offset, 8, 1);
        assert_eq!(a.qemu.load(out + offset, 8), u64::MAX);
    }
    let window = counters(&mut pair.twin, &mut pair.a, 1);
    assert_eq!((window.stores, window.dropped, window.refused_loads), (4, 2, 2));
    pair.finish();
}
