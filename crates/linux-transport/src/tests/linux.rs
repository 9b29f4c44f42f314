//! Ours against Linux, written down from `ntb_transport.c` as it is, its deferred work included, and as naive as it is.

use super::{Ours, frame, number};
use crate::heap::{Link, range};
use crate::port::Port;
use crate::{Config, Time, Transport};
use proptest::prelude::*;

const VERSION: usize = 0;
const QP_LINKS: usize = 1;
const NUM_QPS: usize = 2;
const NUM_MWS: usize = 3;
const WINDOW: u64 = 256 << 10;
/// `tx_max_frame` and entries of a window of 256 KiB.
const FRAME: u64 = 65536;
const ENTRIES: u32 = 3;
const RX_INFO: u64 = WINDOW - 4;
const ME: usize = 1;
const BIT: u32 = 1;

/// `struct ntb_transport_ctx` with its queue pair 0 and `ntb_netdev` on it; times are those of `delayed_work`.
#[derive(Default)]
struct Linux {
    /// `lnk_sta` of ntb_hw_intel: changes in between go unnoticed.
    known_link: bool,
    link_is_up: bool,
    link_work: Option<Time>,
    link_cleanup: bool,
    client_ready: bool,
    qp_up: bool,
    active: bool,
    qp_link_work: Option<Time>,
    qp_link_cleanup: bool,
    tasklet: bool,
    interrupted: bool,
    tx_index: u32,
    tx_pkts: u32,
    rx_index: u32,
    rx_pkts: u32,
    received: Vec<Vec<u8>>,
}

impl Linux {
    /// `gen3_poll_link` and `ntb_transport_event_callback`.
    fn link_event(&mut self, now: Time, link: &Link) {
        if self.known_link != link.up {
            self.known_link = link.up;
            if link.up {
                self.link_work = Some(now);
            } else {
                self.link_cleanup = true;
            }
        }
    }

    /// `ntb_transport_doorbell_callback`: one interrupt until the bit is cleared.
    fn doorbell(&mut self, link: &Link) {
        if link.halves[ME].doorbells & 1 != 0 && !self.interrupted {
            self.interrupted = true;
            self.tasklet |= self.active;
        }
    }

    /// Everything that is due, once.
    fn work(&mut self, now: Time, link: &mut Link) {
        let due = |work: &mut Option<Time>| work.take_if(|at| *at <= now).is_some();
        if std::mem::take(&mut self.link_cleanup) {
            self.transport_link_cleanup(link);
        }
        if due(&mut self.link_work) {
            self.transport_link_work(now, link);
        }
        if std::mem::take(&mut self.qp_link_cleanup) {
            self.qp_cleanup(link);
            if self.link_is_up {
                self.qp_link_work = Some(now.after_ms(10));
            }
        }
        if due(&mut self.qp_link_work) {
            self.qp_work(now, link);
        }
        if std::mem::take(&mut self.tasklet) {
            self.rxc_db(link);
        }
    }

    fn transport_link_cleanup(&mut self, link: &mut Link) {
        self.qp_cleanup(link);
        self.qp_link_cleanup = false;
        if !self.link_is_up {
            self.link_work = None;
        }
        for window in 0..2 {
            link.halves[ME].inbound[window] = None;
        }
        link.halves[ME].scratchpads = [0; 16];
    }

    fn transport_link_work(&mut self, now: Time, link: &mut Link) {
        let mut side = link.side(ME);
        for (spad, value) in [(4, 0), (5, 256 << 10), (6, 0), (7, 256 << 10), (NUM_MWS, 2), (NUM_QPS, 2)] {
            side.set_peer_scratchpad(spad, value).unwrap();
        }
        side.set_peer_scratchpad(VERSION, 4).unwrap();
        let spads = link.halves[ME].scratchpads;
        if (spads[VERSION], spads[NUM_QPS], spads[NUM_MWS]) != (4, 2, 2) {
            if self.known_link {
                self.link_work = Some(now.after_ms(10));
            }
            return;
        }
        for window in 0..2 {
            assert_eq!((spads[4 + 2 * window], spads[5 + 2 * window]), (0, 256 << 10));
            // "No need to re-setup".
            link.halves[ME].inbound[window].get_or_insert_with(|| vec![0; 256 << 10]);
        }
        self.link_is_up = true;
        self.set_own(link, RX_INFO, &(ENTRIES - 1).to_le_bytes());
        for slot in 0..u64::from(ENTRIES) {
            self.set_own(link, FRAME * (slot + 1) - 12, &[0; 12]);
        }
        (self.rx_pkts, self.tx_pkts, self.tx_index, self.rx_index) = (0, 0, 0, 0);
        if self.client_ready {
            self.qp_link_work = Some(now);
        }
    }

    /// `ntb_qp_link_work`.
    fn qp_work(&mut self, now: Time, link: &mut Link) {
        let val = link.halves[ME].scratchpads[QP_LINKS];
        link.side(ME).set_peer_scratchpad(QP_LINKS, val | BIT).unwrap();
        if val & BIT != 0 {
            (self.qp_up, self.active, self.tasklet) = (true, true, true);
        } else if self.link_is_up {
            self.qp_link_work = Some(now.after_ms(10));
        }
    }

    /// `ntb_qp_link_cleanup`.
    fn qp_cleanup(&mut self, link: &mut Link) {
        self.qp_link_work = None;
        self.down_reset(link);
    }

    fn down_reset(&mut self, link: &mut Link) {
        (self.qp_up, self.active) = (false, false);
        (self.rx_pkts, self.tx_pkts, self.tx_index, self.rx_index) = (0, 0, 0, 0);
        self.set_own(link, RX_INFO, &(ENTRIES - 1).to_le_bytes());
    }

    /// `ntb_transport_link_up`.
    fn open(&mut self, now: Time) {
        if !self.client_ready {
            self.client_ready = true;
            if self.link_is_up {
                self.qp_link_work = Some(now);
            }
        }
    }

    /// `ntb_transport_link_down`.
    fn close(&mut self, link: &mut Link) {
        if !self.client_ready {
            return;
        }
        self.client_ready = false;
        let val = link.halves[ME].scratchpads[QP_LINKS];
        link.side(ME).set_peer_scratchpad(QP_LINKS, val & !BIT).unwrap();
        if self.qp_up {
            self.put(&[], 3, link);
            self.down_reset(link);
        } else {
            self.qp_link_work = None;
        }
    }

    fn set_own(&self, link: &mut Link, at: u64, data: &[u8]) {
        if let Some(memory) = link.halves[ME].inbound[0].as_mut() {
            range(memory, at, data.len()).unwrap().copy_from_slice(data);
        }
    }

    fn own(&self, link: &mut Link, at: u64, bytes: usize) -> Vec<u8> {
        let memory = link.halves[ME].inbound[0].as_mut();
        memory.map_or_else(|| vec![0; bytes], |memory| range(memory, at, bytes).unwrap().to_vec())
    }

    fn own_word(&self, link: &mut Link, at: u64) -> u32 {
        u32::from_le_bytes(self.own(link, at, 4).try_into().unwrap())
    }

    /// `ntb_process_tx`, `ntb_async_tx`, `ntb_tx_copy_callback`.
    fn put(&mut self, payload: &[u8], flags: u32, link: &mut Link) -> bool {
        if self.own_word(link, RX_INFO) == self.tx_index {
            return false;
        }
        let end = FRAME * u64::from(self.tx_index + 1);
        let mut side = link.side(ME);
        let length = u32::try_from(payload.len()).unwrap();
        side.write_outbound(0, end - 8, &length.to_le_bytes()).unwrap();
        side.write_outbound(0, end - 12, &self.tx_pkts.to_le_bytes()).unwrap();
        side.write_outbound(0, end - FRAME, payload).unwrap();
        side.write_outbound(0, end - 4, &flags.to_le_bytes()).unwrap();
        side.ring_peer(1).unwrap();
        self.tx_index = (self.tx_index + 1) % ENTRIES;
        self.tx_pkts += 1;
        true
    }

    fn send(&mut self, payload: &[u8], link: &mut Link) -> bool {
        self.qp_up && self.put(payload, 1, link)
    }

    /// `ntb_transport_rxc_db`.
    fn rxc_db(&mut self, link: &mut Link) {
        for _ in 0..ENTRIES {
            if !self.process_rxc(link) {
                if link.halves[ME].doorbells & 1 != 0 {
                    link.halves[ME].doorbells = 0;
                    self.interrupted = false;
                    self.tasklet |= self.active;
                }
                return;
            }
        }
        self.tasklet |= self.active;
    }

    /// `ntb_process_rxc`.
    fn process_rxc(&mut self, link: &mut Link) -> bool {
        let end = FRAME * u64::from(self.rx_index + 1);
        let flags = self.own_word(link, end - 4);
        if flags & 1 == 0 {
            return false;
        }
        if flags & 2 != 0 {
            self.qp_link_cleanup = true;
            self.set_own(link, end - 4, &[0; 4]);
            return false;
        }
        if self.own_word(link, end - 12) != self.rx_pkts {
            return false;
        }
        let length = usize::try_from(self.own_word(link, end - 8)).unwrap();
        let payload = self.own(link, end - FRAME, length);
        self.rx_pkts += 1;
        self.set_own(link, end - 4, &[0; 4]);
        link.side(ME).write_outbound(0, RX_INFO, &self.rx_index.to_le_bytes()).unwrap();
        self.received.push(payload);
        self.rx_index = (self.rx_index + 1) % ENTRIES;
        true
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// The link falls and both sides notice, Linux perhaps late.
    Link(bool),
    LinuxEvent,
    LinuxWork,
    LinuxOpen,
    LinuxClose,
    LinuxSend(u8),
    Enable,
    Disable,
    /// Our process is killed and another one starts.
    Kill,
    Poll,
    Send(u8),
    Receive(u8),
    Wait(u8),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let one = prop_oneof![
        1 => any::<bool>().prop_map(Action::Link),
        4 => Just(Action::LinuxEvent),
        12 => Just(Action::LinuxWork),
        3 => Just(Action::LinuxOpen),
        1 => Just(Action::LinuxClose),
        6 => (1_u8..4).prop_map(Action::LinuxSend),
        3 => Just(Action::Enable),
        2 => Just(Action::Disable),
        1 => Just(Action::Kill),
        8 => Just(Action::Poll),
        6 => (1_u8..4).prop_map(Action::Send),
        6 => (1_u8..4).prop_map(Action::Receive),
        8 => (0_u8..60).prop_map(Action::Wait),
    ];
    prop::collection::vec(one, 0..120)
}

struct World {
    link: Link,
    told: bool,
    ours: Ours,
    linux: Linux,
    now: Time,
    sent: [u32; 2],
    received: Vec<u32>,
}

impl World {
    fn new() -> Self {
        Self {
            link: Link::new([WINDOW; 2]),
            told: false,
            ours: Ours::new(0),
            linux: Linux::default(),
            now: Time(0),
            sent: [0; 2],
            received: Vec::new(),
        }
    }

    /// A link that was down trains for 100 ms: Linux has noticed by then. One that comes earlier cancels the
    /// hand-shake there (`cancel_delayed_work_sync(&nt->link_work)` in `ntb_transport_link_cleanup`).
    fn set_link(&mut self, up: bool) {
        if up && !self.link.up {
            self.linux.link_event(self.now, &self.link);
            self.now = self.now.after_ms(100);
            self.linux();
        }
        self.link.up = up;
        if self.told != up {
            self.told = up;
            self.ours.link(self.now, &mut self.link);
        }
    }

    fn linux(&mut self) {
        self.linux.doorbell(&self.link);
        self.linux.work(self.now, &mut self.link);
    }

    fn send(&mut self) -> bool {
        let sent = self.ours.send(&frame(self.sent[0]), &mut self.link);
        self.sent[0] += u32::from(sent);
        sent
    }

    fn linux_send(&mut self) -> bool {
        let sent = self.linux.send(&frame(self.sent[1]), &mut self.link);
        self.sent[1] += u32::from(sent);
        sent
    }

    fn receive(&mut self) -> bool {
        let Some(bytes) = self.ours.receive(&mut self.link) else { return false };
        self.received.push(number(&bytes));
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Link(up) => self.set_link(up),
            Action::LinuxEvent => self.linux.link_event(self.now, &self.link),
            Action::LinuxWork => self.linux(),
            Action::LinuxOpen => self.linux.open(self.now),
            Action::LinuxClose => {
                // Its "link down" does not fit, or will be overwritten by what it sends next: it can only be noticed by
                // its ready bit, which is watched once the queue pair has been up for a second.
                let full = self.linux.own_word(&mut self.link, RX_INFO) == self.linux.tx_index;
                if self.linux.qp_up && (full || self.linux.tx_pkts == 0) {
                    for _ in 0..120 {
                        self.now = self.now.after_ms(10);
                        self.linux();
                        self.ours.poll(self.now, &mut self.link);
                    }
                }
                self.linux.close(&mut self.link);
            }
            Action::LinuxSend(count) => drop((0..count).all(|_| self.linux_send())),
            Action::Enable => self.ours.transport.enable(0),
            Action::Disable => self.ours.transport.disable(0, &mut self.link.side(0)).unwrap(),
            Action::Kill => {
                self.set_link(false);
                self.link.halves[0].scratchpads = [0; 16];
                self.link.halves[0].inbound = [const { None }; 2];
                self.ours.transport = Transport::new(Config::default()).unwrap();
            }
            Action::Poll => drop(self.ours.poll(self.now, &mut self.link)),
            Action::Send(count) => drop((0..count).all(|_| self.send())),
            Action::Receive(count) => drop((0..count).all(|_| self.receive())),
            Action::Wait(milliseconds) => self.now = self.now.after_ms(milliseconds.into()),
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.now = self.now.after_ms(10);
            self.linux.link_event(self.now, &self.link);
            self.linux();
            self.ours.poll(self.now, &mut self.link);
            while self.receive() {}
        }
    }

    /// Whatever was before: two clients that want it get a queue pair that loses nothing.
    fn must_work(&mut self) {
        self.set_link(true);
        self.ours.transport.enable(0);
        self.linux.open(self.now);
        self.settle();
        // That Linux closed, could not say so and came back at once shows when it sends.
        self.send();
        self.linux_send();
        self.settle();
        assert!(self.ours.transport.is_up(0), "ours is not up");
        assert!(self.linux.qp_up, "Linux is not up");
        self.received.clear();
        self.linux.received.clear();
        let first = self.sent;
        for _ in 0..20 {
            assert!(self.send());
            assert!(self.linux_send());
            self.linux();
            assert!(self.receive());
        }
        let linux: Vec<_> = self.linux.received.iter().map(|bytes| number(bytes)).collect();
        assert_eq!(linux, (first[0]..first[0] + 20).collect::<Vec<_>>());
        assert_eq!(self.received, (first[1]..first[1] + 20).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_works_after_any_history(actions in actions()) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        world.must_work();
    }
}

#[test]
fn either_side_may_come_and_go() {
    let mut world = World::new();
    world.must_work();
    for turn in 0..20 {
        world.act(Action::Send(2));
        world.act(Action::LinuxSend(2));
        match turn % 4 {
            0 => world.act(Action::Kill),
            1 => world.act(Action::Disable),
            2 => world.act(Action::LinuxClose),
            _ => world.set_link(false),
        }
        if turn % 3 == 0 {
            world.settle();
        }
        world.must_work();
    }
}
