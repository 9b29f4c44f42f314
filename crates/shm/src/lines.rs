//! A row of cache lines, found by their number.

use crate::counted;
use crate::mapping::Mapping;
use crate::raw::fetch_to_store;
use crate::window::{LoadOrder, Memory, StoreOrder, Window, WindowError};
#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::arch::x86_64::__m128i;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

/// Words of a line of 64 bytes before its last one.
pub const LINE_WORDS: usize = 7;
/// Bytes of a line.
const BYTES: usize = BODY + 8;
/// Bytes of its words but the last.
const BODY: usize = 8 * LINE_WORDS;

/// A window whose beginning is a row of cache lines, a power of two of them: the `n`th line ever is the one at `n` modulo
/// their count, so that no number leads outside.
///
/// Of a window that is memory of this machine the bounds are asked once, here, and an access is the loads or the stores alone.
/// Other windows, devices too, are asked each time.
#[derive(Debug)]
pub struct Lines<W> {
    window: W,
    /// The first line, if the window is memory of this machine that may be stored to; else null.
    first: *mut u64,
    /// Which bits of a distance in bytes from the first one stay in the row.
    mask: usize,
}

// SAFETY: the pointer leads into memory that `window` owns, and every access to it is volatile or atomic, as the window's are.
unsafe impl<W: Window> Send for Lines<W> {}
// SAFETY: the same.
unsafe impl<W: Window> Sync for Lines<W> {}

impl<W: Window> Lines<W> {
    /// The first `count` lines of a window.
    ///
    /// # Errors
    /// [`WindowError::OutOfBounds`] when they are not a power of two or the window is shorter.
    pub fn new(window: W, count: usize) -> Result<Self, WindowError> {
        let bytes = count.checked_mul(BYTES).filter(|_| count.is_power_of_two());
        let bytes = bytes.filter(|&bytes| bytes <= window.bytes()).ok_or(WindowError::OutOfBounds)?;
        let first = window.as_mapping().and_then(|mapping| first_line(mapping, bytes));
        Ok(Self { first: first.map_or(ptr::null_mut(), NonNull::as_ptr), window, mask: bytes - BYTES })
    }

    /// The window.
    #[inline(always)]
    pub fn window(&self) -> &W {
        &self.window
    }

    /// Where the window has the `n`th line, in bytes.
    #[inline(always)]
    fn at(&self, n: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are asked alone")]
        let n = n as usize;
        n.wrapping_mul(BYTES) & self.mask
    }

    /// The `n`th line, if it may be touched without a question; the window has the last word on whether it leads anywhere.
    #[inline(always)]
    fn line(&self, n: u64) -> Option<*mut u64> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: `first` begins the lines of a mapping, the last of which is at `mask` (`new` has asked), and which lives as
        // long as the window does: `as_mapping` borrows it from the window for as long as the caller likes, so that safe code
        // must keep it until the window is borrowed mutably or dropped, and here it is owned and lent out shared alone. A
        // mapping that moves with its window leaves its memory where it is.
        Some(unsafe { self.first.byte_add(self.at(n)) })
    }

    /// Stores the last `N` words before the last one of the `n`th line, and that one, if it may be done without a question and
    /// the window leads anywhere; whether it was.
    #[inline(always)]
    fn put<const N: usize>(&self, n: u64, word: impl Fn(usize) -> u64, last: u64, order: StoreOrder) -> bool {
        let Some(line) = self.line(n).filter(|_| self.window.is_open()) else { return false };
        // SAFETY: a valid line (see `line`).
        unsafe { put::<N>(line, word, last, order) };
        true
    }

    /// Stores the `n`th line: seven words, not ordered by themselves, then the eighth, ordered as asked.
    ///
    /// # Errors
    /// [`WindowError`]; the last word was not stored.
    #[inline(always)]
    pub fn store(
        &self,
        n: u64,
        body: &[u64; LINE_WORDS],
        last: u64,
        order: StoreOrder,
    ) -> Result<(), WindowError> {
        let word = |n: usize| body.get(n).map_or(0, |word| word.to_le());
        if self.put::<LINE_WORDS>(n, word, last, order) {
            return Ok(());
        }
        self.store_by_window(n, *body, last, order)
    }

    /// The same with the bytes of the seven words: each goes from there to the window, and no more than one is in a register.
    ///
    /// # Errors
    /// [`WindowError`]; the last word was not stored.
    #[inline(always)]
    pub fn store_bytes(
        &self,
        n: u64,
        body: &[u8; BODY],
        last: u64,
        order: StoreOrder,
    ) -> Result<(), WindowError> {
        let (words, _) = body.as_chunks();
        let word = |n: usize| words.get(n).copied().unwrap_or_default();
        if self.put::<LINE_WORDS>(n, |n| u64::from_ne_bytes(word(n)), last, order) {
            return Ok(());
        }
        self.store_by_window(n, std::array::from_fn(|n| u64::from_le_bytes(word(n))), last, order)
    }

    /// The same by stores of 16 bytes where the processor has them: for lines that are stored one behind the other.
    ///
    /// A line that the peer has read comes back before it is stored to, and until then its stores wait in the processor's
    /// store buffer. The fewer they are, the more lines are on their way at once. What is copied is to be in memory for a
    /// while: a load of 16 bytes waits for shorter stores to them.
    ///
    /// # Errors
    /// [`WindowError`]; the last word was not stored.
    #[inline(always)]
    pub fn store_wide(
        &self,
        n: u64,
        body: &[u8; BODY],
        last: u64,
        order: StoreOrder,
    ) -> Result<(), WindowError> {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let Some(line) = self.line(n)
            && self.window.is_open()
        {
            let (wide, rest) = body.as_chunks::<16>();
            counted::stored(16 * wide.len());
            for (index, bytes) in wide.iter().enumerate() {
                // SAFETY: a register's worth of private memory; every x86-64 processor has such registers.
                let bytes = unsafe { bytes.as_ptr().cast::<__m128i>().read_unaligned() };
                // SAFETY: two of the seven first words of a valid line (see `line`).
                let to = unsafe { line.cast::<__m128i>().add(index) };
                // SAFETY: the same, and aligned, for lines are.
                unsafe { to.write_volatile(bytes) };
            }
            let word = rest.first_chunk().map_or(0, |&word| u64::from_ne_bytes(word));
            // SAFETY: the seventh word and the eighth.
            unsafe { put::<1>(line, |_| word, last, order) };
            return Ok(());
        }
        self.store_bytes(n, body, last, order)
    }

    #[cold]
    fn store_by_window(
        &self,
        n: u64,
        body: [u64; LINE_WORDS],
        last: u64,
        order: StoreOrder,
    ) -> Result<(), WindowError> {
        self.window.write(self.at(n), body.map(u64::to_le_bytes).as_flattened())?;
        self.window.store_u64(self.at(n).wrapping_add(BODY), last, order)
    }

    /// Stores the last word of the `n`th line alone.
    ///
    /// # Errors
    /// [`WindowError`]; nothing was stored.
    #[inline(always)]
    pub fn store_last(&self, n: u64, last: u64, order: StoreOrder) -> Result<(), WindowError> {
        if self.put::<0>(n, |_| 0, last, order) {
            return Ok(());
        }
        self.window.store_u64(self.at(n).wrapping_add(BODY), last, order)
    }

    /// Says that a store to the `n`th line follows soon: the processor fetches it, with leave to write it, while the program does
    /// something else. Nothing changes; a window that is not memory of this machine does nothing.
    ///
    /// It pays shortly before the store. A line that a peer polls comes back to it with the peer's next look, and then has
    /// travelled twice for nothing.
    #[inline(always)]
    pub fn will_store(&self, n: u64) {
        if let Some(line) = self.line(n) {
            fetch_to_store(line.cast());
        }
    }
}

impl<W: Memory> Lines<W> {
    /// The last word of the `n`th line.
    ///
    /// # Errors
    /// [`WindowError`].
    #[inline(always)]
    pub fn last(&self, n: u64, order: LoadOrder) -> Result<u64, WindowError> {
        let Some(line) = self.line(n) else {
            return self.window.load_u64(self.at(n).wrapping_add(BODY), order);
        };
        // SAFETY: the eighth word of a valid line (see `line`).
        let from = unsafe { line.add(LINE_WORDS) };
        // SAFETY: valid and aligned; the reference lives for this one load.
        Ok(u64::from_le(unsafe { AtomicU64::from_ptr(from) }.load(order.into())))
    }

    /// The seven words of the `n`th line that stand before its last one.
    ///
    /// # Errors
    /// [`WindowError`].
    #[inline(always)]
    pub fn body(&self, n: u64) -> Result<[u64; LINE_WORDS], WindowError> {
        let Some(line) = self.line(n) else { return self.body_by_window(n) };
        let mut body = [0; LINE_WORDS];
        counted::loaded(size_of_val(&body));
        for (index, to) in body.iter_mut().enumerate() {
            // SAFETY: one of the seven first words of a valid line (see `line`).
            *to = u64::from_le(unsafe { word(line, index) });
        }
        Ok(body)
    }

    #[cold]
    fn body_by_window(&self, n: u64) -> Result<[u64; LINE_WORDS], WindowError> {
        let mut bytes = [[0; 8]; LINE_WORDS];
        self.window.read(self.at(n), bytes.as_flattened_mut())?;
        Ok(bytes.map(u64::from_le_bytes))
    }

    /// Copies the bytes of the `n`th line that stand before its last word, 16 at a time where the processor has such registers.
    ///
    /// # Errors
    /// [`WindowError`], and `out` is unchanged.
    #[inline(always)]
    pub fn read(&self, n: u64, out: &mut [u8; BODY]) -> Result<(), WindowError> {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let Some(line) = self.line(n) {
            let (wide, rest) = out.as_chunks_mut::<16>();
            counted::loaded(16 * wide.len() + rest.len());
            for (index, to) in wide.iter_mut().enumerate() {
                // SAFETY: two of the seven first words of a valid line (see `line`).
                let from = unsafe { line.cast::<__m128i>().add(index) };
                // SAFETY: the same, and aligned, for lines are.
                let bytes = unsafe { from.read_volatile() };
                // SAFETY: 16 bytes of private memory.
                unsafe { to.as_mut_ptr().cast::<__m128i>().write_unaligned(bytes) };
            }
            // SAFETY: the seventh word of a valid line (see `line`).
            let last = unsafe { word(line, LINE_WORDS - 1) };
            rest.copy_from_slice(&last.to_ne_bytes());
            return Ok(());
        }
        self.read_part(n, out)
    }

    /// Copies the first bytes of the `n`th line, no more than stand before its last word, word by word.
    ///
    /// # Errors
    /// [`WindowError`], and `out` is unchanged.
    #[inline(always)]
    pub fn read_part(&self, n: u64, out: &mut [u8]) -> Result<(), WindowError> {
        if out.len() > BODY {
            return Err(WindowError::OutOfBounds);
        }
        let Some(line) = self.line(n) else { return self.window.read(self.at(n), out) };
        counted::loaded(out.len());
        let (whole, part) = out.as_chunks_mut();
        let count = whole.len();
        for (index, to) in whole.iter_mut().enumerate() {
            // SAFETY: one of the seven first words of a valid line (see `line`): there are no more in `out`.
            *to = unsafe { word(line, index) }.to_ne_bytes();
        }
        if !part.is_empty() {
            // SAFETY: the same; where there is a part of a word, there are six whole ones at most.
            let last = unsafe { word(line, count) }.to_ne_bytes();
            part.iter_mut().zip(last).for_each(|(to, byte)| *to = byte);
        }
        Ok(())
    }
}

/// The `index`th of the seven first words of a line, as memory has it.
///
/// # Safety
/// `line` is a whole line, valid and aligned, and `index` is less than seven.
#[inline(always)]
unsafe fn word(line: *const u64, index: usize) -> u64 {
    // SAFETY: in the line, by the caller's word.
    let from = unsafe { line.add(index) };
    // SAFETY: the same, and aligned.
    unsafe { from.read_volatile() }
}

/// Stores the last `N` words of a line before its last one, as memory is to have them, and then that one. Each word is asked for
/// when its turn comes.
///
/// # Safety
/// `line` is a whole line, valid and aligned.
#[inline(always)]
unsafe fn put<const N: usize>(line: *mut u64, word: impl Fn(usize) -> u64, last: u64, order: StoreOrder) {
    const { assert!(N <= LINE_WORDS, "a line has no more") };
    counted::stored(8 * N);
    for n in 0..N {
        // SAFETY: one of the eight words of the line, by the caller's word.
        let to = unsafe { line.add(LINE_WORDS - N + n) };
        // SAFETY: the same, and aligned.
        unsafe { to.write_volatile(word(n)) };
    }
    // SAFETY: the eighth.
    let to = unsafe { line.add(LINE_WORDS) };
    // SAFETY: valid and aligned; the reference lives for this one store.
    unsafe { AtomicU64::from_ptr(to) }.store(last.to_le(), order.into());
}

/// The first byte of memory that may be stored to in any way, if it begins with a line. Devices are no such memory: they
/// want words.
fn first_line(mapping: &Mapping, bytes: usize) -> Option<NonNull<u64>> {
    let first = NonNull::new(mapping.range_for_stores(0, bytes).ok()?)?;
    (!mapping.is_device() && first.addr().get().is_multiple_of(BYTES)).then(|| first.cast())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Access, Heap, Routine, SharedFile, WindowKind};
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn mapping(bytes: u64) -> Arc<Mapping> {
        let file = SharedFile::create("lines", bytes).unwrap();
        Arc::new(Mapping::new(&file, 0, bytes, Access::ReadWrite).unwrap())
    }

    fn bytes(seed: u8) -> [u8; BODY] {
        std::array::from_fn(|n| seed.wrapping_mul(31).wrapping_add(u8::try_from(n).unwrap()))
    }

    /// What every way to store leaves in the window, and every way to load finds there.
    fn all_ways(window: impl Memory + Clone) {
        let lines = Lines::new(window.clone(), 4).unwrap();
        for (seed, n) in [(1, 0), (2, 3), (3, 4), (4, 7), (5, u64::MAX), (6, 1 << 60)] {
            let at = usize::try_from(n % 4).unwrap() * BYTES;
            let body = bytes(seed);
            let words = std::array::from_fn(|n| u64::from_le_bytes(body.as_chunks().0[n]));
            for way in 0..3 {
                window.write(0, &[0xEE; 5 * BYTES]).unwrap();
                match way {
                    0 => lines.store(n, &words, 77, StoreOrder::Release),
                    1 => lines.store_bytes(n, &body, 77, StoreOrder::Release),
                    _ => lines.store_wide(n, &body, 77, StoreOrder::Release),
                }
                .unwrap();
                let mut all = [0; 5 * BYTES];
                window.read(0, &mut all).unwrap();
                assert_eq!(all[at..at + BODY], body, "{n} by {way}");
                assert_eq!(all[at + BODY..at + BYTES], 77_u64.to_le_bytes());
                let others = all[..at].iter().chain(&all[at + BYTES..]);
                assert!(others.copied().all(|byte| byte == 0xEE), "{n} by {way}");
                let mut seen = [0; BODY];
                lines.read(n, &mut seen).unwrap();
                assert_eq!((seen, lines.body(n)), (body, Ok(words)));
                for count in 0..=BODY {
                    let mut part = vec![0; count];
                    lines.read_part(n, &mut part).unwrap();
                    assert_eq!(part, body[..count]);
                }
                assert_eq!(lines.read_part(n, &mut [0; BODY + 1]), Err(WindowError::OutOfBounds));
                assert_eq!(lines.last(n, LoadOrder::Acquire), Ok(77));
            }
            lines.will_store(n);
            lines.store_last(n, 78, StoreOrder::Relaxed).unwrap();
            assert_eq!((lines.body(n), lines.last(n, LoadOrder::Relaxed)), (Ok(words), Ok(78)));
        }
    }

    #[test]
    fn a_line_is_stored_and_loaded_in_every_way_and_its_neighbours_are_left_alone() {
        all_ways(mapping(4096));
        // Not a mapping: each access asks the window.
        all_ways(Arc::new(Heap::new(4096)));
    }

    #[test]
    fn a_device_gets_words_by_its_window() {
        let zero = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap();
        let device = Arc::new(Mapping::device(zero.as_fd(), 0, 4096).unwrap());
        assert!(Lines::new(Arc::clone(&device), 4).unwrap().line(0).is_none());
        all_ways(device);
    }

    #[test]
    fn rows_that_are_no_power_of_two_or_do_not_fit_are_refused() {
        let window = mapping(4096);
        for count in [0, 3, 65, 128, usize::MAX / 2 + 1, usize::MAX] {
            assert_eq!(Lines::new(window.clone(), count).map(drop), Err(WindowError::OutOfBounds), "{count}");
        }
        assert!(Lines::new(window, 64).is_ok());
    }

    #[test]
    fn memory_for_loads_alone_is_loaded_and_refuses_stores() {
        let file = SharedFile::create("lines", 4096).unwrap();
        let window = Mapping::new(&file, 0, 4096, Access::Read).unwrap();
        let lines = Lines::new(window, 2).unwrap();
        assert_eq!(lines.last(1, LoadOrder::Acquire), Ok(0));
        assert_eq!(lines.store_last(1, 1, StoreOrder::Relaxed), Err(WindowError::ReadOnly));
        assert_eq!(lines.store_wide(1, &[0; BODY], 1, StoreOrder::Relaxed), Err(WindowError::ReadOnly));
        assert_eq!(lines.last(1, LoadOrder::Acquire), Ok(0));
    }

    /// A mapping that is closed later on.
    struct Closing(Arc<Mapping>, Arc<AtomicBool>);

    impl Closing {
        fn open(&self) -> Result<&Mapping, WindowError> {
            if self.1.load(Ordering::Relaxed) { Ok(&self.0) } else { Err(WindowError::Closed) }
        }
    }

    impl Window for Closing {
        fn bytes(&self) -> usize {
            Window::bytes(&self.0)
        }
        fn kind(&self) -> WindowKind {
            WindowKind::Mapped
        }
        fn as_mapping(&self) -> Option<&Mapping> {
            self.open().ok()
        }
        fn is_open(&self) -> bool {
            self.open().is_ok()
        }
        fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
            Window::write(self.open()?, at, data)
        }
        fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
            self.open()?.write_by(routine, at, data)
        }
        fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
            self.open()?.store_u32(at, value, order)
        }
        fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
            self.open()?.store_u64(at, value, order)
        }
        fn flush(&self) -> Result<(), WindowError> {
            self.open().map(drop)
        }
        fn settle(&self) -> Result<(), WindowError> {
            self.open().map(drop)
        }
    }

    #[test]
    fn a_window_that_closes_takes_no_stores_any_more() {
        let (memory, open) = (mapping(4096), Arc::new(AtomicBool::new(true)));
        let lines = Lines::new(Closing(Arc::clone(&memory), Arc::clone(&open)), 8).unwrap();
        lines.store(5, &[1; LINE_WORDS], 2, StoreOrder::Release).unwrap();
        open.store(false, Ordering::Relaxed);
        let refused = Err(WindowError::Closed);
        assert_eq!(lines.store(5, &[9; LINE_WORDS], 9, StoreOrder::Release), refused);
        assert_eq!(lines.store_bytes(5, &[9; BODY], 9, StoreOrder::Release), refused);
        assert_eq!(lines.store_wide(5, &[9; BODY], 9, StoreOrder::Release), refused);
        assert_eq!(lines.store_last(5, 9, StoreOrder::Release), refused);
        let theirs = Lines::new(memory, 8).unwrap();
        assert_eq!((theirs.body(5), theirs.last(5, LoadOrder::Acquire)), (Ok([1; LINE_WORDS]), Ok(2)));
    }
}
