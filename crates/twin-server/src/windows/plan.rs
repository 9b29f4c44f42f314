//! From what a mapped window should be to the next step that makes it so. Pure.
//!
//! In *direct* mode there is one step: the BAR becomes the neighbour's memory, or is closed. In *alias* mode the neighbour's
//! memory is the window's own, so that it must be put there before the BAR opens, and taken out again only after
//! the BAR has closed, whatever it was before; a translation that moves takes all four steps.

use shm::SharedFile;
use std::sync::Arc;

/// Some bytes of a file, at a place in a window.
#[derive(Debug, Clone)]
pub(crate) struct FilePiece {
    /// Where in the window.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    pub(crate) file: Arc<SharedFile>,
    /// Where in the file.
    pub(crate) offset: u64,
}

/// Whether pieces of one kind and pieces of the other have a byte in common. Each may be thousands, whose every pair would take a
/// tenth of a second: so they are walked in the order of their places, with how far those before reach.
pub(crate) fn meet<'a>(
    some: impl IntoIterator<Item = &'a FilePiece>,
    others: impl IntoIterator<Item = &'a FilePiece>,
) -> bool {
    let place =
        |piece: &FilePiece| (piece.file.identity(), piece.offset, piece.offset.saturating_add(piece.bytes));
    let some = some.into_iter().map(|piece| (place(piece), 0_usize));
    let mut all: Vec<_> = some.chain(others.into_iter().map(|piece| (place(piece), 1))).collect();
    all.retain(|((_, from, end), _)| from < end);
    all.sort_unstable();
    let mut reach = [None; 2];
    for ((file, from, end), kind) in all {
        let meets = |reach: &Option<_>| reach.is_some_and(|(whose, to)| whose == file && to > from);
        if reach.get(1_usize.saturating_sub(kind)).is_some_and(meets) {
            return true;
        }
        if let Some(mine) = reach.get_mut(kind)
            && mine.is_none_or(|(whose, to)| whose != file || to < end)
        {
            *mine = Some((file, end));
        }
    }
    false
}

impl PartialEq for FilePiece {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.bytes, self.offset) == (other.at, other.bytes, other.offset)
            && Arc::ptr_eq(&self.file, &other.file)
    }
}

/// What lies under a BAR in the process that maps it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Under {
    /// The file that the process was given when it attached; nobody else has it.
    Given,
    /// A private copy of all ones.
    Closed,
    /// These files.
    Pieces(Vec<FilePiece>),
}

/// A mapped window as it is or should be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    /// Under the BAR of the port that stores.
    pub(crate) bar: Under,
    /// Which memory of the port that receives is the window's own now (alias).
    pub(crate) replaced: Vec<FilePiece>,
}

impl View {
    pub(crate) const GIVEN: Self = Self { bar: Under::Given, replaced: Vec::new() };
    pub(crate) const CLOSED: Self = Self { bar: Under::Closed, replaced: Vec::new() };
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Change what lies under the BAR.
    Bar(Under),
    /// Make this memory of the receiver the window's own.
    Replace(Vec<FilePiece>),
    /// Give the receiver this memory back.
    Restore(Vec<FilePiece>),
}

/// The step from one view towards another; `None` when it is reached.
pub(crate) fn next_step(actual: &View, wanted: &View) -> Option<Step> {
    if actual.replaced != wanted.replaced {
        let open = matches!(actual.bar, Under::Pieces(_));
        return Some(if actual.replaced.is_empty() && open {
            // It may be that very memory: a store would fall between the copy and the swap.
            Step::Bar(Under::Closed)
        } else if actual.replaced.is_empty() {
            Step::Replace(wanted.replaced.clone())
        } else if actual.bar != Under::Closed {
            Step::Bar(Under::Closed)
        } else {
            Step::Restore(actual.replaced.clone())
        });
    }
    (actual.bar != wanted.bar).then(|| Step::Bar(wanted.bar.clone()))
}

impl View {
    /// What a step that was carried out leaves.
    pub(crate) fn after(&mut self, step: Step) {
        match step {
            Step::Bar(under) => self.bar = under,
            Step::Replace(pieces) => self.replaced = pieces,
            Step::Restore(_) => self.replaced.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(file: &Arc<SharedFile>, offset: u64) -> FilePiece {
        FilePiece { at: 0, bytes: 4096, file: Arc::clone(file), offset }
    }

    fn walk(mut actual: View, wanted: &View) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = next_step(&actual, wanted) {
            steps.push(step.clone());
            actual.after(step);
            assert!(steps.len() < 8, "it must end");
        }
        assert_eq!(&actual, wanted);
        steps
    }

    #[test]
    fn an_alias_that_moves_closes_restores_replaces_and_opens() {
        let ram = Arc::new(SharedFile::create("ram", 8192).unwrap());
        let own = Arc::new(SharedFile::create("window", 4096).unwrap());
        let open =
            |offset| View { bar: Under::Pieces(vec![piece(&own, 0)]), replaced: vec![piece(&ram, offset)] };
        let steps = walk(open(0), &open(4096));
        assert!(matches!(
            steps.as_slice(),
            [Step::Bar(Under::Closed), Step::Restore(_), Step::Replace(_), Step::Bar(Under::Pieces(_))]
        ));
        assert!(matches!(walk(View::GIVEN, &open(0)).as_slice(), [Step::Replace(_), Step::Bar(_)]));
        assert!(matches!(
            walk(open(0), &View::CLOSED).as_slice(),
            [Step::Bar(Under::Closed), Step::Restore(_)]
        ));
    }

    #[test]
    fn a_direct_window_closes_before_its_memory_is_replaced() {
        let ram = Arc::new(SharedFile::create("ram", 8192).unwrap());
        let own = Arc::new(SharedFile::create("window", 4096).unwrap());
        let direct = View { bar: Under::Pieces(vec![piece(&ram, 0)]), replaced: Vec::new() };
        let alias = View { bar: Under::Pieces(vec![piece(&own, 0)]), replaced: vec![piece(&ram, 0)] };
        let steps = walk(direct.clone(), &alias);
        assert!(matches!(
            steps.as_slice(),
            [Step::Bar(Under::Closed), Step::Replace(_), Step::Bar(Under::Pieces(_))]
        ));
        assert!(matches!(
            walk(alias, &direct).as_slice(),
            [Step::Bar(Under::Closed), Step::Restore(_), Step::Bar(Under::Pieces(_))]
        ));
    }

    proptest! {
        #[test]
        fn pieces_meet_where_any_pair_has_a_byte_in_common(
            some in prop::collection::vec((0_usize..2, 0_u64..40, 0_u64..5), 0..8),
            others in prop::collection::vec((0_usize..2, 0_u64..40, 0_u64..5), 0..8),
        ) {
            let files = ["one", "two"].map(|name| Arc::new(SharedFile::create(name, 4096).unwrap()));
            let pieces = |list: &[(usize, u64, u64)]| -> Vec<_> {
                let piece = |&(file, offset, bytes): &(usize, u64, u64)| {
                    FilePiece { at: 0, bytes, file: Arc::clone(&files[file]), offset }
                };
                list.iter().map(piece).collect()
            };
            let bytes = |list: &[(usize, u64, u64)]| -> std::collections::HashSet<_> {
                list.iter().flat_map(|&(file, from, bytes)| (from..from + bytes).map(move |at| (file, at))).collect()
            };
            let expected = !bytes(&some).is_disjoint(&bytes(&others));
            prop_assert_eq!(meet(&pieces(&some), &pieces(&others)), expected);
        }
    }

    #[test]
    fn direct_takes_one_step() {
        let ram = Arc::new(SharedFile::create("ram", 8192).unwrap());
        let open = |offset| View { bar: Under::Pieces(vec![piece(&ram, offset)]), replaced: Vec::new() };
        assert_eq!(walk(open(0), &open(4096)).len(), 1);
        assert_eq!(walk(open(0), &View::CLOSED), [Step::Bar(Under::Closed)]);
        assert!(walk(View::CLOSED, &View::CLOSED).is_empty());
    }
}
