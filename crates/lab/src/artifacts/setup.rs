//! `setup`: everything that was asked for, from the cache where it is there, built where it is not.

use std::path::PathBuf;

use super::apt::{Suite, Universe};
use super::cache::{Cache, Lock};
use super::error::SetupError;
use super::kernel::{self, Kernel};
use super::mirror::Mirror;
use super::progress::Progress;
use super::tools::{Log, check_host};
use super::{GuestImage, Qemu, Series, image, qemu};

/// Space that a build takes at its height: a compiler, a kernel with all modules, the downloads.
const BUILD_MIB: u64 = 2500;

/// What to set up.
#[derive(Debug, Clone)]
pub struct SetupOptions {
    /// The guest kernels to make.
    pub series: Vec<Series>,
    /// The QEMU to use; without it `ISTHMUS_QEMU`, then the machine's own if it will do, then a private one.
    pub qemu: Option<PathBuf>,
    /// Ask the archive for newer packages even if the cache has an answer, and delete what they replace: no
    /// guest should run meanwhile.
    pub refresh: bool,
    /// The cache directory; without it `ISTHMUS_CACHE`, `XDG_CACHE_HOME/isthmus`, `~/.cache/isthmus`.
    pub cache: Option<PathBuf>,
    /// The URI of a Debian mirror; without it `ISTHMUS_DEBIAN_MIRROR`, then what apt is configured with.
    pub mirror: Option<String>,
}

impl Default for SetupOptions {
    fn default() -> Self {
        Self { series: vec![Series::V6_12], qemu: None, refresh: false, cache: None, mirror: None }
    }
}

/// What a setup made.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The QEMU.
    pub qemu: Qemu,
    /// An image per series, in the order asked for.
    pub images: Vec<GuestImage>,
}

/// Makes everything that `options` asks for.
///
/// # Errors
/// A [`SetupError`] is a sentence that says what to do.
pub fn setup(options: &SetupOptions, progress: &mut dyn Progress) -> Result<Artifacts, SetupError> {
    let mut workshop = Workshop::open(options)?;
    let qemu = workshop.qemu(progress)?;
    let images =
        options.series.iter().map(|series| workshop.image(*series, progress)).collect::<Result<_, _>>()?;
    workshop.finish();
    Ok(Artifacts { qemu, images })
}

/// Makes the QEMU alone.
///
/// # Errors
/// As [`setup`].
pub fn setup_qemu(options: &SetupOptions, progress: &mut dyn Progress) -> Result<Qemu, SetupError> {
    Workshop::open(options)?.qemu(progress)
}

/// The QEMU that [`setup_qemu`] would return without making one: nothing is downloaded or written.
///
/// # Errors
/// As [`setup`].
pub fn find_qemu(options: &SetupOptions) -> Result<Option<Qemu>, SetupError> {
    Workshop::open(options)?.found_qemu()
}

/// Makes one guest image alone.
///
/// # Errors
/// As [`setup`].
pub fn setup_image(
    options: &SetupOptions,
    series: Series,
    progress: &mut dyn Progress,
) -> Result<GuestImage, SetupError> {
    Workshop::open(options)?.image(series, progress)
}

/// What a setup has opened so far. A setup that finds all in the cache opens none of it.
struct Workshop<'a> {
    options: &'a SetupOptions,
    cache: Cache,
    bench: Option<Bench>,
}

/// What building needs; there is one in a cache at a time.
struct Bench {
    _lock: Lock,
    log: Log,
    mirror: Mirror,
    bookworm: Option<Universe>,
    trixie: Option<Universe>,
}

impl<'a> Workshop<'a> {
    fn open(options: &'a SetupOptions) -> Result<Self, SetupError> {
        Ok(Self { options, cache: Cache::open(options.cache.as_deref())?, bench: None })
    }

    fn found_qemu(&self) -> Result<Option<Qemu>, SetupError> {
        let variable = std::env::var_os("ISTHMUS_QEMU").filter(|path| !path.is_empty()).map(PathBuf::from);
        if let Some(path) = self.options.qemu.clone().or(variable) {
            return qemu::given(&path).map(Some);
        }
        if let Some(qemu) = qemu::of_machine() {
            return Ok(Some(qemu));
        }
        self.known(qemu::REQUEST, &qemu::recipe()).map(|directory| qemu::load(&directory)).transpose()
    }

    fn qemu(&mut self, progress: &mut dyn Progress) -> Result<Qemu, SetupError> {
        if let Some(qemu) = self.found_qemu()? {
            return Ok(qemu);
        }
        let (cache, bench) = self.bench(progress)?;
        let Bench { log, mirror, trixie, .. } = bench;
        let universe = universe(trixie, Suite::Trixie, mirror, cache, log, progress)?;
        qemu::build(universe, cache, log, progress)
    }

    fn image(&mut self, series: Series, progress: &mut dyn Progress) -> Result<GuestImage, SetupError> {
        let kernel =
            self.known(&kernel::request(series), &kernel::recipe(series)).map(Kernel::load).transpose()?;
        if let Some(kernel) = &kernel
            && let Some(directory) = self.known(&image::request(series), &image::recipe(kernel))
        {
            return Ok(image::load(series, kernel, &directory));
        }
        let (cache, bench) = self.bench(progress)?;
        let Bench { log, mirror, bookworm, trixie, .. } = bench;
        let kernel = match (kernel, series.suite()) {
            (Some(kernel), _) => kernel,
            (None, suite @ Suite::Bookworm) => {
                let universe = universe(bookworm, suite, mirror, cache, log, progress)?;
                kernel::build(series, universe, cache, log, progress)?
            }
            (None, suite @ Suite::Trixie) => {
                let universe = universe(trixie, suite, mirror, cache, log, progress)?;
                kernel::build(series, universe, cache, log, progress)?
            }
        };
        let universe = universe(trixie, Suite::Trixie, mirror, cache, log, progress)?;
        image::build(series, &kernel, universe, cache, log, progress)
    }

    /// Deletes what is needed no more, once all is made.
    fn finish(self) {
        let Some(bench) = self.bench else { return };
        for universe in [bench.bookworm, bench.trixie].iter().flatten() {
            universe.tidy();
        }
        if self.options.refresh {
            self.cache.prune(&["qemu", "kernel", "image"]);
        }
    }

    /// The recorded answer to a request, unless a refresh was asked for.
    fn known(&self, request: &str, recipe: &str) -> Option<PathBuf> {
        if self.options.refresh { None } else { self.cache.answer(request, recipe) }
    }

    /// Opens the bench on first use.
    fn bench(&mut self, progress: &mut dyn Progress) -> Result<(&Cache, &mut Bench), SetupError> {
        let bench = match self.bench.take() {
            Some(bench) => bench,
            None => {
                check_host()?;
                let lock = self.cache.lock(progress)?;
                self.cache.check_space(BUILD_MIB)?;
                let log = Log::create(self.cache.path("setup.log"))?;
                let mirror = Mirror::find(self.options.mirror.as_deref(), &log)?;
                Bench { _lock: lock, log, mirror, bookworm: None, trixie: None }
            }
        };
        Ok((&self.cache, self.bench.insert(bench)))
    }
}

/// A suite's universe, opened on first use.
fn universe<'a>(
    slot: &'a mut Option<Universe>,
    suite: Suite,
    mirror: &Mirror,
    cache: &Cache,
    log: &Log,
    progress: &mut dyn Progress,
) -> Result<&'a Universe, SetupError> {
    let universe = match slot.take() {
        Some(universe) => universe,
        None => Universe::open(suite, mirror, cache, log, progress)?,
    };
    Ok(slot.insert(universe))
}
