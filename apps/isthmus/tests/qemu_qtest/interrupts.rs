//! Doorbells of one host as MSI-X messages in the memory of the other, and the four places where one can be held back.

use crate::bench::{BOTH, Pair};
use crate::host::DOORBELLS;
use crate::qemu::there_is_a_qemu;
use ntb_spec::bar0::Reg;
use ntb_spec::config;

#[test]
fn qemu_delivers_every_doorbell_as_its_message() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    for port in BOTH {
        let (from, to, _) = pair.direction(port);
        for doorbell in 0..DOORBELLS {
            from.ring(doorbell);
            to.expect_only(doorbell);
            assert_eq!(to.read(Reg::IntStatus, 0), 1 << doorbell);
            // A second ring finds the bit set and says nothing new.
            from.ring(doorbell);
            from.flush();
            to.expect_silence();
            to.clear_status(1 << doorbell);
            assert_eq!(to.read(Reg::IntStatus, 0), 0);
        }
        from.expect_silence();
        // Writing 0 rings nothing.
        from.write(Reg::Doorbell, 1, 0);
        from.flush();
        to.expect_silence();
        // Several at once: each has its own message.
        for doorbell in [30, 0, 7] {
            from.ring(doorbell);
        }
        from.flush();
        to.wait_for_vector(30);
        to.wait_for_vector(0);
        to.wait_for_vector(7);
        to.clear_status(0x7FFF_FFFF);
        to.clear_messages();
        // INTVEC leads a source to another vector.
        to.write(Reg::IntVec, 4, 20);
        to.flush();
        from.ring(4);
        to.expect_only(20);
        to.write(Reg::IntVec, 4, 4);
        to.clear_status(0x7FFF_FFFF);
    }
    for port in pair.twin.status().ports {
        assert_eq!((port.doorbells, port.doorbells_dropped), (31 * 2 + 4, 0), "port {}", port.port);
    }
    pair.finish();
}

#[test]
fn qemu_holds_back_what_is_masked_and_delivers_it_at_unmasking() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    let Pair { a, b, .. } = &mut pair;

    // 1. The device's own mask.
    b.write(Reg::IntDisable, 0, 1 << 5);
    b.flush();
    a.ring(5);
    a.flush();
    b.expect_silence();
    assert_eq!(b.read(Reg::IntStatus, 0), 1 << 5, "latched all the same");
    b.write(Reg::IntDisable, 0, 0);
    b.expect_only(5);
    b.clear_status(1 << 5);

    // 2. The vector's mask in the MSI-X table.
    b.mask_vector(6, true);
    b.flush();
    a.ring(6);
    a.flush();
    b.expect_silence();
    a.ring(9);
    b.expect_only(9);
    b.mask_vector(6, false);
    b.expect_only(6);
    b.clear_status(1 << 6 | 1 << 9);

    // 3. The function's mask in MSI-X control.
    let control = b.config_read(config::MSIX_CONTROL, 2);
    b.config_write(config::MSIX_CONTROL, 2, control | u64::from(config::MSIX_FUNCTION_MASK));
    a.ring(11);
    a.flush();
    b.expect_silence();
    b.config_write(config::MSIX_CONTROL, 2, control);
    b.expect_only(11);
    b.clear_status(1 << 11);

    // 4. MSI-X off: the message is lost, as in hardware, but the doorbell is not.
    b.config_write(config::MSIX_CONTROL, 2, control & !u64::from(config::MSIX_ENABLE));
    a.ring(12);
    a.flush();
    b.expect_silence();
    b.config_write(config::MSIX_CONTROL, 2, control);
    b.expect_silence();
    assert_eq!(b.read(Reg::IntStatus, 0), 1 << 12);
    b.clear_status(1 << 12);
    a.ring(12);
    b.expect_only(12);
    pair.finish();
}

#[test]
fn qemu_delivers_a_message_for_a_vector_that_was_masked_from_the_start() {
    if !there_is_a_qemu() {
        return;
    }
    // QEMU gives a vector an eventfd when it is first unmasked; a doorbell that rang before must not be lost.
    let mut pair = Pair::start(&[]);
    pair.a.probe();
    let b = &mut pair.b;
    b.probe();
    let control = b.config_read(config::MSIX_CONTROL, 2);
    b.config_write(config::MSIX_CONTROL, 2, control & !u64::from(config::MSIX_ENABLE));
    for vector in 0..33 {
        b.mask_vector(vector, true);
    }
    b.config_write(config::MSIX_CONTROL, 2, control);
    b.mask_vector(crate::host::LINK_VECTOR, false);
    pair.bring_link_up();
    pair.a.ring(3);
    pair.a.ring(17);
    pair.a.flush();
    pair.b.expect_silence();
    pair.b.mask_vector(17, false);
    pair.b.expect_only(17);
    pair.b.mask_vector(3, false);
    pair.b.expect_only(3);
    pair.finish();
}
