//! What two adapters say to each other, one message a frame of the control channel, as JSON.
//!
//! A lane belongs to the host that receives on it: that one gives it a number, offers it, and takes it back.

use crate::ViId;
use rustix::fs::fstat;
use serde::{Deserialize, Serialize};
use shm::SharedFile;
use std::os::fd::OwnedFd;
use vi::filter::{Filter, Target};
use vi::lane::FilterId;

/// The most bytes of one message.
pub(crate) const MESSAGE_BYTES: usize = 4096;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// An interface of this host may send.
    Sender(ViId),
    /// It is gone, and all lanes that it sent on with it.
    SenderGone(ViId),
    /// The filter table of this host changes.
    Filters(Change),
    /// Here is a lane for `from` of yours to send on, to `to` of mine.
    Offer {
        lane: Lane,
        from: ViId,
        to: ViId,
        /// The memory that it will be received in.
        memory: FileIdentity,
    },
    /// The offer is taken: its sender has room for what comes back.
    Taken { lane: Lane, memory: FileIdentity },
    /// A lane that was offered is taken back.
    Withdrawn(Lane),
    /// An interface of yours sleeps, and there is something for it.
    Wake(ViId),
}

/// A lane, and how often its number was given out: what is said of an earlier one concerns nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// Its place in the window.
    pub number: u16,
    /// How often the place was given out.
    pub generation: u32,
}

/// Device and inode: two hosts on one machine see by it whether they mean the same memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileIdentity(u64, u64);

impl FileIdentity {
    pub(crate) fn of(file: &SharedFile) -> Self {
        let (device, inode) = file.identity();
        Self(device, inode)
    }

    /// None of what is no file.
    pub(crate) fn of_descriptor(file: &OwnedFd) -> Option<Self> {
        fstat(file).ok().map(|stat| Self(stat.st_dev, stat.st_ino))
    }
}

/// A change of a filter table. Copies of the table that see the same changes in the same order are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A filter is added behind those of its rank.
    Add(Entry),
    /// A filter is removed.
    Remove(u16),
    /// The members of a filter's set are others now.
    Members {
        /// The filter.
        id: u16,
        /// Its members.
        to: Vec<ViId>,
    },
}

/// A filter of a published table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, by which packets name it.
    pub id: u16,
    /// What it takes, in the grammar of [`vi::filter`].
    pub filter: String,
    /// Whose the frames are: of one, or of one of several by the hash of the flow.
    pub to: Vec<ViId>,
    /// Whether it is several.
    pub set: bool,
}

/// A filter table as its owner has published it.
#[derive(Debug, Clone, Default)]
pub struct Published {
    entries: Vec<(Entry, Filter, FilterId)>,
}

/// The most filters that a peer may publish.
const MOST: usize = vi::filter::MOST_FILTERS;

impl Published {
    /// Takes over a change. False: it makes no sense, and nothing has changed.
    pub fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Add(entry) => {
                let (Ok(filter), Some(id)) = (entry.filter.parse(), FilterId::new(entry.id)) else {
                    return false;
                };
                let fits = self.entries.len() < MOST && self.place(entry.id).is_none();
                if fits && (entry.set || entry.to.len() == 1) {
                    self.entries.push((entry.clone(), filter, id));
                    return true;
                }
                false
            }
            Change::Remove(id) => match self.place(*id) {
                Some(at) => {
                    self.entries.remove(at);
                    true
                }
                None => false,
            },
            Change::Members { id, to } => match self.entries.iter_mut().find(|(entry, ..)| entry.id == *id) {
                Some((entry, ..)) if entry.set => {
                    entry.to.clone_from(to);
                    true
                }
                _ => false,
            },
        }
    }

    fn place(&self, id: u16) -> Option<usize> {
        self.entries.iter().position(|(entry, ..)| entry.id == id)
    }

    /// The filters, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(entry, ..)| entry)
    }

    /// Whether an interface gets anything by a filter.
    #[must_use]
    pub fn receives(&self, vi: ViId) -> bool {
        self.entries().any(|entry| entry.to.contains(&vi))
    }

    /// The table of one who sends: `lane` says on what an interface is reached. A filter none of whose interfaces is reached
    /// yet takes nothing: its frames go where they went before it was there.
    pub fn table<T: Copy + PartialEq>(&self, lane: impl Fn(ViId) -> Option<T>) -> vi::filter::Table<T> {
        let mut table = vi::filter::Table::new();
        for (entry, filter, id) in &self.entries {
            let to: Vec<T> = entry.to.iter().filter_map(|&vi| lane(vi)).collect();
            let target = match (entry.set, to.as_slice()) {
                (_, []) => continue,
                (false, [one, ..]) => Target::One(*one),
                (true, _) => Target::Set(to),
            };
            // What its owner would not have in a table of its own is left out here, too.
            if let Err(error) = table.add_as(*id, *filter, target) {
                tracing::debug!(%error, filter = entry.filter, "a published filter is left out");
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u16, filter: &str, to: &[u16]) -> Change {
        let to: Vec<ViId> = to.iter().map(|&vi| ViId(vi)).collect();
        Change::Add(Entry { id, filter: filter.to_owned(), set: to.len() != 1, to })
    }

    #[test]
    fn a_published_table_is_the_owners_and_nonsense_leaves_it_as_it_was() {
        let mut published = Published::default();
        assert!(published.apply(&entry(1, "udp:10.0.0.1:5", &[1])));
        assert!(published.apply(&entry(2, "ip-protocol:17", &[1, 2])));
        for nonsense in [
            entry(1, "unicast-all", &[1]),
            entry(3, "every good frame", &[1]),
            entry(0x8000, "unicast-all", &[1]),
            Change::Remove(7),
            Change::Members { id: 1, to: vec![] },
            Change::Members { id: 9, to: vec![] },
        ] {
            assert!(!published.apply(&nonsense), "{nonsense:?}");
        }
        assert!(published.receives(ViId(2)) && !published.receives(ViId(3)));
        assert!(published.apply(&Change::Members { id: 2, to: vec![ViId(3)] }));
        assert!(published.receives(ViId(3)) && !published.receives(ViId(2)));
        let reached = published.table(|vi| (vi == ViId(3)).then_some(0_u8));
        assert!(reached.query(FilterId::new(2).unwrap()).is_some());
        assert!(reached.query(FilterId::new(1).unwrap()).is_none(), "nobody to send to");
        assert!(published.apply(&Change::Remove(2)));
        assert!(!published.receives(ViId(3)));
    }

    #[test]
    fn messages_are_small() {
        let id = ViId(u16::MAX);
        let filter = "udp:vid=4095,[fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535,[fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let entry = Entry { id: 0x7FFF, filter: filter.to_owned(), to: vec![id; 32], set: true };
        let bytes = serde_json::to_vec(&Message::Filters(Change::Add(entry))).unwrap();
        assert!(bytes.len() <= MESSAGE_BYTES, "{}", bytes.len());
    }
}
