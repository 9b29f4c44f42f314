//! Filters as texts, and frames that they are asked about.
//!
//! An input is lines, each of which may be a filter; behind the first byte 0 comes a frame.

use crate::filter::{Filter, FlowCache, HEADER_BYTES, Headers, MOST_FILTERS, Table, Target, Verdict};

/// What happened, for tests.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Lines that are filters, and that are none.
    pub filters: usize,
    /// Lines that are none.
    pub refused: usize,
    /// Who gets the frame, by the numbers of lines; none where it is no frame.
    pub taken: Option<(Verdict, Vec<usize>)>,
}

/// Parses, writes and parses again; then steers.
///
/// # Panics
/// Where a promise is broken.
pub fn run(input: &[u8]) -> Outcome {
    let end = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    let (text, frame) = (String::from_utf8_lossy(&input[..end]), input.get(end + 1..).unwrap_or_default());
    let (mut table, mut added, mut refused) = (Table::new(), Vec::new(), 0);
    for (number, line) in text.lines().enumerate().take(2 * MOST_FILTERS) {
        let filter: Filter = match line.parse() {
            Ok(filter) => filter,
            Err(error) => {
                assert!(error.text == line && !error.reason.is_empty());
                refused += 1;
                continue;
            }
        };
        let shown = filter.to_string();
        assert_eq!(shown.parse(), Ok(filter), "{line} is shown as {shown}");
        let target =
            if number % 3 == 2 { Target::Set(vec![number, number + 1]) } else { Target::One(number) };
        match table.add(filter, target.clone()) {
            Ok(id) => {
                assert_eq!(table.query(id), Some((&filter, &target)));
                added.push((number, filter));
            }
            // A text says nothing that a table cannot hold, but for how many there are.
            Err(error) => assert!(added.len() >= MOST_FILTERS, "{line}: {error}"),
        }
    }
    let mut taken = Vec::new();
    let mut cache = FlowCache::default();
    let verdict = cache.steer(&table, frame, |to, _| taken.push(to));
    let headers = Headers::parse(&frame[..frame.len().min(HEADER_BYTES)]);
    let Some(headers) = headers else {
        assert!(frame.len() < 14 && taken.is_empty(), "it is no frame");
        return Outcome { filters: added.len(), refused, taken: None };
    };
    let mut again = Vec::new();
    assert_eq!(cache.steer(&table, frame, |to, _| again.push(to)), verdict);
    assert_eq!(again, taken, "the same frame goes the same way");
    for to in &taken {
        // A set's second member has the next number.
        let by = added.iter().any(|(number, filter)| {
            (number == to || number + 1 == *to && number % 3 == 2) && filter.matches(&headers)
        });
        assert!(by, "nobody asked for it: {to}");
    }
    let special = added.iter().any(|(_, filter)| *filter != Filter::Sniff && filter.matches(&headers));
    if special {
        assert!(verdict == Verdict::Taken && !taken.is_empty(), "{verdict:?}");
    } else {
        assert_eq!(verdict, Verdict::Kernel);
    }
    Outcome { filters: added.len(), refused, taken: Some((verdict, taken)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::replay;

    fn seed(name: &str) -> Outcome {
        let folder =
            std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/vi_filters");
        run(&std::fs::read(folder.join(name)).unwrap())
    }

    #[test]
    fn the_corpus_replays_and_so_does_what_is_near_it() {
        assert!(
            replay("vi_filters", 8_000, |input| {
                run(input);
            }) >= 12
        );
    }

    #[test]
    fn seeds_are_what_their_names_say() {
        let outcome = |filters, refused, taken: &[usize]| {
            let verdict = if taken.is_empty() { Verdict::Kernel } else { Verdict::Taken };
            Outcome { filters, refused, taken: Some((verdict, taken.to_vec())) }
        };
        assert_eq!(seed("every-kind-udp4"), outcome(14, 0, &[0, 13]));
        assert_eq!(seed("nobody"), outcome(2, 0, &[]));
        assert_eq!(seed("vlan"), outcome(2, 0, &[1]));
        assert_eq!(seed("ip6"), outcome(2, 0, &[0]));
        assert_eq!(seed("fragment"), outcome(2, 0, &[1]));
        assert_eq!(seed("no-filters").filters, 0);
        assert_eq!(seed("no-filters").refused, 28);
        assert_eq!(seed("no-frame").taken, None);
    }
}
