//! The framework alone: two processes, two memory files that both map, which are the windows of a link without a twin.

use super::rings::{self, Turn};
use super::{PATIENCE, Rows, WINDOW_BYTES, class, setup};
use crate::lab::progress::Progress;
use anyhow::{Context, ensure};
use cells::{Channel, Link, Profile};
use shm::{Access, Mapping, SharedFile};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Opens this side's end over the file that it receives in and the one that the other side does.
fn open(
    own: &SharedFile,
    theirs: &SharedFile,
    profile: Profile,
) -> anyhow::Result<Channel<Mapping, Mapping>> {
    let map = |file| Mapping::new(file, 0, WINDOW_BYTES, Access::ReadWrite).map(Arc::new);
    let link = Link::new(map(theirs)?, map(own)?)?;
    Ok(link.open("sweep", setup(profile)?)?.wait(PATIENCE)?)
}

pub(super) fn measure(time: Duration, rows: &mut Rows, progress: &Progress) -> anyhow::Result<()> {
    for profile in [Profile::Paper, Profile::Fast] {
        progress.tell(&profile.to_string());
        let own = SharedFile::create("isthmus-sweep", WINDOW_BYTES)?;
        let theirs = SharedFile::create("isthmus-sweep", WINDOW_BYTES)?;
        let mut far = Far::start(&own, &theirs, profile)?;
        let channel = open(&own, &theirs, profile)?;
        let class = class(channel.round_trip());
        rings::measure(channel.split(), &profile.to_string(), class, Turn { bytes: 8 << 20, time }, rows)?;
        far.wait()?;
    }
    Ok(())
}

/// The other process.
pub(in crate::perf) fn serve(own: RawFd, theirs: RawFd, paper: bool) -> anyhow::Result<()> {
    let accept = |number| -> anyhow::Result<SharedFile> {
        Ok(SharedFile::accept(shm::take_inherited(number)?, WINDOW_BYTES)?)
    };
    let profile = if paper { Profile::Paper } else { Profile::Fast };
    rings::serve(open(&accept(own)?, &accept(theirs)?, profile)?.split())
}

/// The process opposite; killed if it is left behind.
#[derive(Debug)]
struct Far(Child);

impl Far {
    fn start(own: &SharedFile, theirs: &SharedFile, profile: Profile) -> anyhow::Result<Self> {
        // A duplicate stays open across exec, which the files themselves do not.
        let pass = |file: &SharedFile| -> anyhow::Result<OwnedFd> { Ok(rustix::io::dup(file.as_fd())?) };
        let (own, theirs) = (pass(own)?, pass(theirs)?);
        let program = std::env::current_exe().context("this program is not to be found")?;
        let mut command = Command::new(program);
        command.args(["perf", "sweep-far"]);
        // What is mine here is the other's there.
        command.args([theirs.as_raw_fd().to_string(), own.as_raw_fd().to_string()]);
        if profile == Profile::Paper {
            command.arg("--paper");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.context("the other process does not start")?))
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "the other process ended with {status}");
        Ok(())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It has ended already, or the measurement failed.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
