//! A lane in a memory file of its own: both ends on one machine, in one process or in two.
//!
//! ```text
//!   0                          receive_bytes                 + return_bytes
//!   │ receive area: slots, buffers │ return area: credit, posted buffers │
//! ```

use super::{BadGeometry, Geometry, Receiver, Sender};
use shm::{Access, MapError, Mapping, SharedFile, Unfit};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The sending end of a lane in a memory file.
pub type MappedSender = Sender<Mapping, Mapping>;
/// The receiving end of a lane in a memory file.
pub type MappedReceiver = Receiver<Mapping, Mapping>;

/// Why a lane could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SharedLaneError {
    /// No lane has this shape.
    #[error(transparent)]
    Geometry(#[from] BadGeometry),
    /// The kernel gives no memory.
    #[error("memory for a lane")]
    Memory(#[source] io::Error),
    /// The descriptor that came is no memory for this lane.
    #[error("the descriptor is no memory for this lane")]
    Unfit(#[from] Unfit),
    /// It cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// The memory of one lane: a sealed memfd. Its descriptor is what one process hands another.
///
/// Each end is made once. Two senders on one lane, or two receivers, are two programs that write the same words: they
/// fail, but they harm nobody outside the lane.
#[derive(Debug)]
pub struct SharedLane {
    file: SharedFile,
    geometry: Geometry,
}

impl SharedLane {
    /// A fresh lane.
    ///
    /// # Errors
    /// [`SharedLaneError`].
    pub fn create(geometry: Geometry) -> Result<Self, SharedLaneError> {
        let geometry = geometry.check()?;
        let bytes = geometry.receive_bytes() + geometry.return_bytes();
        let file = SharedFile::create("isthmus-lane", bytes).map_err(SharedLaneError::Memory)?;
        Ok(Self { file, geometry })
    }

    /// A lane whose descriptor another process sent, in the shape that came with it.
    ///
    /// # Errors
    /// [`SharedLaneError`]; memory that is too short or can be cut is refused.
    pub fn accept(descriptor: OwnedFd, geometry: Geometry) -> Result<Self, SharedLaneError> {
        let geometry = geometry.check()?;
        let bytes = geometry.receive_bytes() + geometry.return_bytes();
        Ok(Self { file: SharedFile::accept(descriptor, bytes)?, geometry })
    }

    /// The lane's shape: it goes with the descriptor.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The sending end.
    ///
    /// # Errors
    /// [`SharedLaneError::Map`].
    pub fn sender(&self) -> Result<MappedSender, SharedLaneError> {
        Ok(Sender::new(self.geometry, self.receive_area()?, self.return_area()?)?)
    }

    /// The receiving end.
    ///
    /// # Errors
    /// [`SharedLaneError::Map`].
    pub fn receiver(&self) -> Result<MappedReceiver, SharedLaneError> {
        Ok(Receiver::new(self.geometry, self.receive_area()?, self.return_area()?)?)
    }

    fn receive_area(&self) -> Result<Mapping, MapError> {
        Mapping::new(&self.file, 0, self.geometry.receive_bytes(), Access::ReadWrite)
    }

    fn return_area(&self) -> Result<Mapping, MapError> {
        let at = self.geometry.receive_bytes();
        Mapping::new(&self.file, at, self.geometry.return_bytes(), Access::ReadWrite)
    }
}

impl AsFd for SharedLane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::lane::Meta;

    #[test]
    fn two_mappings_of_one_descriptor_are_one_lane() {
        let lane = SharedLane::create(Geometry::default()).unwrap();
        let descriptor = lane.as_fd().try_clone_to_owned().unwrap();
        let other = SharedLane::accept(descriptor, lane.geometry()).unwrap();
        let (sender, receiver) = (lane.sender().unwrap(), other.receiver().unwrap());
        sender.send(b"hello", Meta::default()).unwrap();
        let body = receiver.take().unwrap().unwrap().body;
        let mut bytes = [0; 5];
        receiver.read(&body, 0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn memory_that_is_too_short_for_the_shape_is_refused() {
        let lane = SharedLane::create(Geometry { buffers: 1, ..Geometry::default() }).unwrap();
        let descriptor = lane.as_fd().try_clone_to_owned().unwrap();
        assert!(matches!(
            SharedLane::accept(descriptor, Geometry::default()),
            Err(SharedLaneError::Unfit(Unfit::TooShort { .. }))
        ));
        assert!(matches!(
            SharedLane::create(Geometry { slots: 3, ..Geometry::default() }),
            Err(SharedLaneError::Geometry(BadGeometry::Slots(3)))
        ));
    }
}
