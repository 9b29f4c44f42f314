//! How many accesses a second the model takes, without sockets, threads or guests.
//! `cargo bench -p twin --bench accesses`
//!
//! Two hosts with the link up. Each row is run for several short rounds, one row after the other in each round so
//! that a noisy moment hits all of them; the median and the best round are printed.
#![expect(clippy::print_stdout, reason = "a bench reports to whoever runs it")]

use std::hint::black_box;
use std::time::{Duration, Instant};
use twin::{Effect, LinkState, Setup, Side, Time, Twin};

const ROUNDS: usize = 21;
const PER_ROUND: u32 = 400_000;
const NOW: Time = Time(Duration::ZERO);

struct Bench {
    twin: Twin,
    effects: Vec<Effect>,
}

impl Bench {
    /// Both drivers there, the link up, window 0 open, all doorbells unmasked.
    fn new() -> Self {
        let twin = Twin::new(&Setup { training: Duration::ZERO, ..Setup::default() });
        let mut bench = Self { twin, effects: Vec::new() };
        for side in Side::BOTH {
            bench.twin.attach(NOW, side, &mut bench.effects);
            bench.twin.config_write(NOW, side, 0x04, &[0x06, 0x04], &mut bench.effects);
            bench.twin.config_write(NOW, side, 0x82, &[0x20, 0x80], &mut bench.effects);
            bench.write(side, 0x48, &0_u64.to_le_bytes());
            bench.write(side, 0x10, &0x1000_0000_u64.to_le_bytes());
            bench.write(side, 0x4018, &0x2000_0000_0010_0000_u64.to_le_bytes());
            bench.write(side, 0x00, &0x154_u32.to_le_bytes());
        }
        bench.twin.advance(NOW, &mut bench.effects);
        assert_eq!(bench.twin.link(), LinkState::Up);
        bench
    }

    fn write(&mut self, side: Side, offset: u32, data: &[u8]) {
        self.effects.clear();
        assert!(self.twin.bar0_write(NOW, side, black_box(offset), black_box(data), &mut self.effects));
    }

    fn read<const N: usize>(&mut self, side: Side, offset: u32) {
        let mut out = [0; N];
        assert!(self.twin.bar0_read(side, black_box(offset), &mut out));
        black_box(out);
    }
}

/// Its name, and what it does once.
type Row = (&'static str, fn(&mut Bench, u32));

const ROWS: &[Row] = &[
    ("register read, 8 bytes", |bench, _| bench.read::<8>(Side::A, 0x40)),
    ("register read, scratchpad", |bench, nth| bench.read::<4>(Side::A, 0x80 + nth % 16 * 4)),
    ("register read, peer's scratchpad", |bench, nth| bench.read::<4>(Side::A, 0x180 + nth % 16 * 4)),
    ("register write, scratchpad", |bench, nth| {
        bench.write(Side::A, 0x80 + nth % 16 * 4, &nth.to_le_bytes());
    }),
    ("register write, peer's scratchpad", |bench, nth| {
        bench.write(Side::A, 0x180 + nth % 16 * 4, &nth.to_le_bytes());
    }),
    ("doorbell, already pending", |bench, _| bench.write(Side::A, 0x100, &[1, 0, 0, 0])),
    ("doorbell, interrupt, acknowledge", |bench, nth| {
        let doorbell = 1 + nth % 30;
        bench.write(Side::A, 0x100 + 4 * doorbell, &[1, 0, 0, 0]);
        assert_eq!(bench.effects.len(), 1);
        bench.write(Side::B, 0x40, &(1_u64 << doorbell).to_le_bytes());
    }),
    ("route of a window access", |bench, nth| {
        let range = bench.twin.route(Side::A, 0, black_box(u64::from(nth) % 0x10_0000 / 8 * 8), 8);
        assert!(black_box(range).is_ok());
    }),
    ("configuration read, 2 bytes", |bench, _| {
        let mut out = [0; 2];
        bench.twin.config_read(Side::A, black_box(0x1A2), &mut out);
        black_box(out);
    }),
];

fn main() {
    let mut bench = Bench::new();
    let mut seconds = vec![Vec::new(); ROWS.len()];
    for _ in 0..ROUNDS {
        for (&(_, act), seconds) in ROWS.iter().zip(&mut seconds) {
            let began = Instant::now();
            for nth in 0..PER_ROUND {
                act(&mut bench, nth);
            }
            seconds.push(began.elapsed().as_secs_f64() / f64::from(PER_ROUND));
        }
    }
    println!("{:36} {:>12} {:>10} {:>10}", "", "million/s", "median ns", "best ns");
    for (&(name, _), seconds) in ROWS.iter().zip(&mut seconds) {
        seconds.sort_by(f64::total_cmp);
        let (median, best) = (seconds[ROUNDS / 2], seconds[0]);
        println!("{name:36} {:>12.1} {:>10.1} {:>10.1}", 1e-6 / median, median * 1e9, best * 1e9);
    }
}
