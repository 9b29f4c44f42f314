//! What Linux `drivers/dma/ioat` says to the engine, as far as a device can tell: bring-up, self-test, a ring that wraps,
//! restart, recovery. Every BUG of the driver that a device could cause is an assertion here.

use crate::host::*;
use ntb_spec::ioat::{COMMAND_RESET, COMMAND_SUSPEND, Control, Descriptor, config};
use std::collections::VecDeque;
use twin::ioat::JobKind;

/// IOAT_CHANCTRL_RUN.
const RUN: u16 = 0x1D;
/// Where the driver of channel n keeps its ring: 4 MiB each.
const RINGS: u64 = 0x100_0000;
const RING_BYTES: u64 = 65536 * 64;
/// Where it keeps its completion.
const COMPLETIONS: u64 = 0x8000;
const NOWHERE: u64 = 0x4000_0000;

/// How a client's request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    ReadFailed,
    WriteFailed,
    Aborted,
}

/// One channel of the driver. Counters run modulo 65536, as in the driver.
struct Driver {
    channel: u8,
    head: u16,
    issued: u16,
    tail: u16,
    count: u16,
    last_completion: u64,
    /// Which descriptors in flight belong to requests: a copy or an interrupt of a client.
    in_flight: VecDeque<bool>,
    ends: Vec<End>,
    /// Times that the driver reset the channel because its timer found it halted.
    reboots: u32,
}

/// A host big enough for the rings of two channels.
fn host() -> Host {
    let mut host = Host::new(32 << 20);
    host.engine.reset();
    host
}

/// `ioat_pci_probe` up to the self-test.
fn probe(host: &mut Host) -> Vec<Driver> {
    host.config(0x04, [0x02, 0x04]); // pcim_enable_device
    assert!(u8::from_le_bytes(host.read(0x08)) >= 0x30, "VER");
    host.config(0x04, [0x06, 0x04]); // pci_set_master
    assert_eq!(u32::from_le_bytes(host.read(0x10)), 0, "DMACAP");
    let channels = u8::from_le_bytes(host.read(0x00)) & 0x1F;
    assert_eq!((channels, u8::from_le_bytes(host.read(0x01)) & 0x1F), (4, 20));
    let mut drivers: Vec<Driver> = (0..channels).map(Driver::new).collect();
    for driver in &mut drivers {
        driver.reset_hw(host); // ioat_enumerate_channels
    }
    host.config(0x82, [0x03, 0x80]); // pci_enable_msix_exact
    host.write(0x03, [0x09]); // ioat_dma_setup_interrupts
    drivers
}

impl Driver {
    fn new(channel: u8) -> Self {
        Self {
            channel,
            head: 0,
            issued: 0,
            tail: 0,
            count: 0,
            last_completion: 0,
            in_flight: VecDeque::new(),
            ends: Vec::new(),
            reboots: 0,
        }
    }

    fn at(&self, index: u16) -> u64 {
        RINGS + RING_BYTES * u64::from(self.channel % 2) + 64 * u64::from(index)
    }

    fn completion(&self) -> u64 {
        COMPLETIONS + 64 * u64::from(self.channel)
    }

    fn active(&self) -> u16 {
        self.head.wrapping_sub(self.tail)
    }

    /// `ioat_quiesce` without a time-out. What the engine does meanwhile happens between two polls.
    fn quiesce(&self, host: &mut Host) {
        let busy = |host: &mut Host| matches!(host.status(self.channel) & 7, ACTIVE | DONE);
        if busy(host) {
            host.w8(self.channel, COMMAND, COMMAND_SUSPEND);
        }
        for _ in 0..3 {
            if !busy(host) {
                return;
            }
            host.step();
        }
        panic!("the driver polls without end");
    }

    /// `ioat_reset_hw`.
    fn reset_hw(&self, host: &mut Host) {
        self.quiesce(host);
        let error = host.r32(self.channel, ERROR);
        host.w32(self.channel, ERROR, error);
        let mut pending = [0; 4];
        host.engine.config_read(config::CHANERR_INT, &mut pending);
        host.config(config::CHANERR_INT, pending);
        host.w8(self.channel, COMMAND, COMMAND_RESET);
        assert_eq!(host.r8(self.channel, COMMAND) & COMMAND_RESET, 0, "ioat_reset_pending");
    }

    /// `ioat_alloc_chan_resources`.
    fn alloc(&mut self, host: &mut Host) {
        *self = Self::new(self.channel);
        host.w16(self.channel, CONTROL, RUN);
        host.put(self.completion(), &[0; 8]);
        host.address(self.channel, COMPLETION, self.completion());
        self.start_null(host);
        assert!(matches!(host.status(self.channel) & 7, ACTIVE | DONE), "failed to start channel");
    }

    /// `__ioat_start_null_desc`.
    fn start_null(&mut self, host: &mut Host) {
        let at = self.at(self.head);
        host.address(self.channel, CHAIN, at);
        self.push(host, null(TELL), false);
        self.issue(host);
    }

    /// A descriptor into the ring, not yet issued.
    fn push(&mut self, host: &mut Host, descriptor: Descriptor, request: bool) {
        assert!(self.active() < u16::MAX - 1, "ioat_check_space_lock");
        let next = self.at(self.head.wrapping_add(1));
        host.put(self.at(self.head), &Descriptor { next, ..descriptor }.to_bytes());
        self.head = self.head.wrapping_add(1);
        self.in_flight.push_back(request);
    }

    /// `__ioat_issue_pending`.
    fn issue(&mut self, host: &mut Host) {
        self.count = self.count.wrapping_add(self.head.wrapping_sub(self.issued));
        self.issued = self.head;
        host.w16(self.channel, COUNT, self.count);
    }

    fn submit(&mut self, host: &mut Host, descriptor: Descriptor) {
        self.push(host, descriptor, true);
        self.issue(host);
    }

    /// `ioat_cleanup_preamble` and `__ioat_cleanup`.
    fn clean(&mut self, host: &Host) {
        let completed = host.word(self.completion()) & !0x3F;
        if completed == self.last_completion || completed == 0 {
            return;
        }
        let active = self.active();
        let done = (0..active).find(|&n| self.at(self.tail.wrapping_add(n)) == completed);
        let Some(last) = done else {
            assert_eq!(active, 0, "BUG_ON(active && !seen_current)");
            self.last_completion = completed;
            return;
        };
        for _ in 0..=last {
            if self.in_flight.pop_front().unwrap() {
                self.ends.push(End::Done);
            }
        }
        self.tail = self.tail.wrapping_add(last + 1);
        self.last_completion = completed;
    }

    /// `ioat_cleanup`.
    fn cleanup(&mut self, host: &mut Host) {
        self.clean(host);
        if host.word(self.completion()) & 7 == HALTED {
            let error = host.r32(self.channel, ERROR);
            if error & 0x3_0300 != 0 {
                self.recover(host, error);
            }
        }
    }

    /// `ioat_eh`.
    fn recover(&mut self, host: &mut Host, error: u32) {
        self.clean(host);
        assert!(matches!(error, 0x100 | 0x200), "BUG: {error:#x}");
        if self.in_flight.pop_front() == Some(true) {
            self.ends.push(if error == 0x100 { End::ReadFailed } else { End::WriteFailed });
        }
        self.in_flight.push_front(false);
        host.put(self.completion(), &self.at(self.tail).to_le_bytes());
        self.abort(host);
        self.reset_hw(host);
        host.w32(self.channel, ERROR, error);
        self.restart(host);
    }

    /// `ioat_abort_descs`.
    fn abort(&mut self, host: &mut Host) {
        let rest = self.in_flight.drain(..).skip(1).filter(|&request| request);
        self.ends.extend(rest.map(|_| End::Aborted));
        self.tail = self.head;
        self.last_completion = self.at(self.tail);
        host.put(self.completion(), &self.last_completion.to_le_bytes());
    }

    /// `ioat_restart_channel`.
    fn restart(&mut self, host: &mut Host) {
        host.address(self.channel, COMPLETION, self.completion());
        self.quiesce(host);
        self.clean(host);
        self.issued = self.tail;
        self.count = 0;
        if self.head == self.issued {
            self.start_null(host);
        } else {
            host.address(self.channel, CHAIN, self.at(self.tail));
            self.issue(host);
        }
    }

    /// `ioat_timer_event` where it finds the channel halted.
    fn timer(&mut self, host: &mut Host) {
        if host.status(self.channel) & 7 == HALTED {
            self.reboots += 1;
            self.abort(host);
            self.reset_hw(host);
            self.restart(host);
        }
    }

    /// `ioat_cleanup_event`, once for each interrupt.
    fn interrupts(&mut self, host: &mut Host) -> usize {
        let mut handled = 0;
        loop {
            host.run();
            let raised = host.heard();
            if raised.is_empty() {
                return handled;
            }
            for vector in raised {
                assert_eq!(vector, self.channel);
                handled += 1;
                self.cleanup(host);
                host.w16(self.channel, CONTROL, RUN);
            }
        }
    }

    /// `ioat_free_chan_resources`.
    fn free(&self, host: &mut Host) {
        self.reset_hw(host);
        assert!(!host.engine.has_work());
    }
}

/// Probed, and the first channel allocated and off the ground.
fn started() -> (Host, Driver) {
    let mut host = host();
    let mut driver = probe(&mut host).remove(0);
    driver.alloc(&mut host);
    assert_eq!(driver.interrupts(&mut host), 1);
    (host, driver)
}

#[test]
fn bring_up_and_self_test() {
    let mut host = host();
    let mut drivers = probe(&mut host);
    assert!(!host.engine.has_work() && host.jobs.is_empty());
    let driver = &mut drivers[0];
    driver.alloc(&mut host);
    host.run();
    let at = RINGS;
    assert_eq!(
        host.jobs,
        [
            (0, JobKind::Fetch { address: at }),
            (0, JobKind::WriteBack { address: COMPLETIONS, value: at | DONE })
        ]
    );
    assert_eq!(host.status(0), at | DONE);
    assert_eq!(driver.interrupts(&mut host), 1, "the null descriptor's");
    assert_eq!((driver.active(), driver.last_completion), (0, at));

    // ioat_dma_self_test
    let source: Vec<u8> = (0..2000_u32).map(|n| n.to_le_bytes()[0]).collect();
    host.put(0x1_0000, &source);
    driver.submit(&mut host, copy(0x1_0000, 0x2_0000, 2000, TELL));
    assert_eq!(driver.interrupts(&mut host), 1);
    assert_eq!(driver.ends, [End::Done]);
    assert_eq!(host.bytes(0x2_0000, 2000), source);
    driver.free(&mut host);

    // ioat3_dma_probe
    for channel in 0..4 {
        host.w32(channel, 0x30, u32::MAX);
    }
    let mut control = [0; 2];
    host.engine.config_read(config::DEVICE_CONTROL, &mut control);
    host.config(config::DEVICE_CONTROL, [control[0] & !0x10, control[1]]);

    // ntb_perf takes two channels
    for channel in [0, 1] {
        let driver = &mut drivers[channel];
        driver.alloc(&mut host);
        driver.interrupts(&mut host);
        driver.submit(&mut host, copy(0x1_0000, 0x3_0000, 1 << 20, TELL));
        assert_eq!((driver.interrupts(&mut host), driver.ends.len()), (1, 1));
    }
    // ioat_remove
    for driver in &drivers {
        driver.reset_hw(&mut host);
    }
    host.write(0x03, [0]);
    assert_eq!(host.engine.counters().errors, 0);
}

#[test]
fn the_ring_and_dmacount_wrap() {
    let (mut host, mut driver) = started();
    let mut requests = 0;
    while requests < 2 * 65536 + 10 {
        // A long copy: only its last descriptor tells.
        for n in 0..1000_u16 {
            let control = if n == 999 { TELL } else { Control::new() };
            driver.push(&mut host, copy(0x1_0000, 0x2_0000, 16, control), n == 999);
        }
        driver.issue(&mut host);
        requests += 1000;
        assert_eq!(driver.interrupts(&mut host), 1);
        assert_eq!(driver.active(), 0);
        host.jobs.clear();
    }
    assert_eq!(driver.ends.len(), requests / 1000);
    assert_eq!(host.status(0) & !0x3F, driver.at(driver.tail.wrapping_sub(1)));
}

#[test]
fn a_whole_ring_at_once() {
    let (mut host, mut driver) = started();
    for _ in 0..65533 {
        driver.push(&mut host, null(Control::new()), true);
    }
    driver.push(&mut host, null(TELL), true);
    driver.issue(&mut host);
    assert_eq!(driver.interrupts(&mut host), 1);
    assert_eq!((driver.ends.len(), driver.active()), (65534, 0));
}

/// `ioat_restart_channel` in the middle of work: it quiesces without a time-out and issues again what is not complete.
#[test]
fn restart_in_the_middle() {
    for steps in 0..20 {
        let (mut host, mut driver) = started();
        for n in 0..3 {
            driver.push(&mut host, copy(0x1_0000, 0x10_0000 + n * 0x10_0000, 1 << 20, TELL), true);
        }
        driver.issue(&mut host);
        host.put(0x1_0000, &[9; 4096]);
        for _ in 0..steps {
            host.step();
        }
        driver.restart(&mut host);
        driver.interrupts(&mut host);
        assert_eq!((driver.ends.len(), driver.active()), (3, 0), "after {steps} jobs");
        assert_eq!(host.bytes(0x30_0000, 4096), [9; 4096]);
    }
}

#[test]
fn bad_addresses_are_recovered_by_the_interrupt() {
    for (bad, end) in [
        (copy(NOWHERE, 0x2_0000, 2000, TELL), End::ReadFailed),
        (copy(0x1_0000, NOWHERE, 2000, TELL), End::WriteFailed),
        (copy(NOWHERE, NOWHERE, 2000, TELL), End::ReadFailed),
    ] {
        let (mut host, mut driver) = started();
        for round in 1..=3 {
            driver.ends.clear();
            for descriptor in [null(TELL), bad, null(TELL), null(TELL)] {
                driver.push(&mut host, descriptor, true);
            }
            driver.issue(&mut host);
            driver.interrupts(&mut host);
            assert_eq!(driver.ends, [End::Done, end, End::Aborted, End::Aborted]);
            driver.submit(&mut host, copy(0x1_0000, 0x2_0000, 2000, TELL));
            driver.interrupts(&mut host);
            assert_eq!(driver.ends.last(), Some(&End::Done), "round {round}");
            assert_eq!((driver.reboots, host.engine.counters().errors), (0, round));
        }
        driver.free(&mut host);
    }
}

/// The first descriptor after a start fails: the completion says 0, halted.
#[test]
fn the_first_descriptor_fails() {
    let (mut host, mut driver) = started();
    driver.restart(&mut host);
    driver.interrupts(&mut host);
    driver.reset_hw(&mut host);
    driver.push(&mut host, copy(NOWHERE, 0, 8, TELL), true);
    driver.restart(&mut host);
    driver.interrupts(&mut host);
    assert_eq!(driver.ends, [End::ReadFailed]);
    driver.submit(&mut host, null(TELL));
    driver.interrupts(&mut host);
    assert_eq!(driver.ends, [End::ReadFailed, End::Done]);
}

/// Whatever else halts is left to the timer, and never reaches `ioat_eh`.
#[test]
fn malformed_descriptors_are_recovered_by_the_timer() {
    for bad in [
        copy(0x1_0000, 0x2_0000, 0, TELL),
        copy(0x1_0000, 0x2_0000, (1 << 20) + 1, TELL),
        copy(0x1_0000, 0x2_0000, 64, TELL.with_operation(0x89)),
        Descriptor { size: 0, ..null(TELL) },
    ] {
        let (mut host, mut driver) = started();
        driver.submit(&mut host, bad);
        driver.interrupts(&mut host);
        assert_eq!((driver.ends.len(), driver.reboots), (0, 0));
        driver.timer(&mut host);
        driver.interrupts(&mut host);
        driver.submit(&mut host, null(TELL));
        assert!(driver.interrupts(&mut host) > 0, "interrupts still come");
        assert_eq!((driver.ends.last(), driver.reboots), (Some(&End::Done), 1));
    }
}

/// The completion's address is withdrawn under the driver.
#[test]
fn a_lost_completion_is_recovered_by_the_timer() {
    let (mut host, mut driver) = started();
    host.address(0, COMPLETION, NOWHERE);
    driver.submit(&mut host, null(TELL));
    driver.interrupts(&mut host);
    assert_eq!(host.r32(0, ERROR), 0x1000);
    driver.timer(&mut host);
    driver.submit(&mut host, null(TELL));
    driver.interrupts(&mut host);
    assert_eq!(driver.ends.last(), Some(&End::Done));
}

/// A completion arrives between `ioat_cleanup` and the write of CHANCTRL: the driver would wait for its timer.
#[test]
fn the_re_arm_race() {
    let (mut host, mut driver) = started();
    driver.submit(&mut host, null(TELL));
    host.run();
    assert_eq!(host.heard(), [0]);
    driver.cleanup(&mut host);
    driver.submit(&mut host, null(TELL));
    host.run();
    assert_eq!((host.heard(), driver.ends.len()), (vec![], 1));
    host.w16(0, CONTROL, RUN);
    assert_eq!(driver.interrupts(&mut host), 1);
    assert_eq!(driver.ends.len(), 2);
}

/// The driver polls (`ioat_tx_status`) and tears the channel down before the engine's caller said that the
/// completion is written.
#[test]
fn a_completion_seen_early() {
    let (mut host, mut driver) = started();
    driver.submit(&mut host, null(TELL));
    assert!(host.step());
    let completion = host.engine.next_job().unwrap();
    let result = host.carry_out(completion.kind);
    driver.cleanup(&mut host);
    assert_eq!(driver.ends, [End::Done]);
    host.w8(0, COMMAND, COMMAND_SUSPEND);
    assert_eq!(host.status(0) & 7, ACTIVE);
    host.w8(0, COMMAND, COMMAND_RESET);
    assert_eq!(host.r8(0, COMMAND), COMMAND_RESET);
    host.give_back(completion, result);
    assert_eq!((host.r8(0, COMMAND), host.status(0)), (0, HALTED));
    driver.alloc(&mut host);
    assert_eq!(driver.interrupts(&mut host), 1);
}
