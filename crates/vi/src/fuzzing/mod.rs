//! What the fuzz targets run, and what the replay of their corpora runs without a fuzzer. Each function takes any bytes and panics
//! where a promise is broken: that is the point.
//!
//! | target | function | against |
//! |---|---|---|
//! | `vi` | [`lanes::run`] | a peer that writes nonsense into a lane; filters that nobody in his senses would add |
//! | `vi_files` | [`files::run`] | capture files |
//! | `vi_stream` | [`streams::run`] | the other end of a packed stream |
//! | `vi_clock` | [`times::run`] | a peer that lies about its clock, or is cut off |
//! | `vi_filters` | [`texts::run`] | texts that are no filters, and frames that are no frames |

pub mod files;
pub mod lanes;
pub mod streams;
pub mod texts;
pub mod times;

/// Runs the seeds of a corpus, then each of them with bytes changed, cut out and doubled, so often: what tests do in a second
/// or two of what a fuzzer does for hours. How many seeds there are.
#[cfg(test)]
pub(crate) fn replay(corpus: &str, rounds: u32, run: impl Fn(&[u8])) -> usize {
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(corpus);
    let mut seeds: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    for seed in &seeds {
        run(seed);
    }
    for _ in 0..rounds {
        let mut input = seeds[random(seeds.len())].clone();
        for _ in 0..=random(4) {
            let at = random(input.len());
            match random(5) {
                0 => input.truncate(at),
                1 => {
                    let end = (at + random(12)).min(input.len());
                    let piece = input[at..end].to_vec();
                    let to = random(input.len());
                    input.splice(to..to, piece);
                }
                2 => {
                    let end = (at + random(8)).min(input.len());
                    input.drain(at..end);
                }
                3 => input
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte = [0, 1, 0x7F, 0x80, 0xFF][random(5)]),
                _ => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random(8)),
            }
        }
        run(&input);
    }
    seeds.len()
}

/// The bytes of an input, one after the other; 0 where it has ended.
#[derive(Debug)]
pub(crate) struct Bytes<'input>(std::slice::Iter<'input, u8>);

impl<'input> Bytes<'input> {
    pub(crate) fn new(input: &'input [u8]) -> Self {
        Self(input.iter())
    }

    pub(crate) fn more(&self) -> bool {
        !self.0.as_slice().is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}
