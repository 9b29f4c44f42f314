//! The table: who gets a frame.

use super::{DEFAULT_KEY, Filter, Headers, flow_hash};
use crate::lane::FilterId;

/// How many filters a table holds. A frame is compared with them one after the other, so few is fast.
pub const MOST_FILTERS: usize = 512;
/// How many members a set has at most.
pub const MOST_MEMBERS: usize = 32;
/// Places of a set's indirection table, by the low bits of the hash.
const INDIRECTION: u32 = 128;

/// Where frames go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<T> {
    /// To one.
    One(T),
    /// To one of several, by the Toeplitz hash of the flow.
    Set(Vec<T>),
}

/// Which frames that nothing takes are dropped instead of going to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block {
    /// Unicast ones.
    pub unicast: bool,
    /// Multicast ones.
    pub multicast: bool,
}

/// Why a filter was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The table is full.
    #[error("a table holds {MOST_FILTERS} filters")]
    Full,
    /// The same target has the same filter.
    #[error("the target has this filter already: {0:?}")]
    Twice(FilterId),
    /// Another filter has this number.
    #[error("another filter has the number {0:?}")]
    Number(FilterId),
    /// A set without members, or with more than 32.
    #[error("a set of {0} members: 1 to 32 are possible")]
    Members(usize),
    /// A local filter whose range is empty.
    #[error("the ports {first} to {last} are no range")]
    Range {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// Addresses of both IP versions in one filter.
    #[error("the two addresses are of different IP versions")]
    Versions,
    /// A tag above 4095.
    #[error("VLAN {0} does not exist")]
    Vlan(u16),
}

/// Who got a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At least one filter, apart from sniffers, took it.
    Taken,
    /// Nobody: it is the kernel's.
    Kernel,
    /// Nobody, and it is dropped.
    Blocked,
}

#[derive(Debug, Clone)]
struct Entry<T> {
    filter: Filter,
    id: FilterId,
    target: Target<T>,
}

/// Filters and where they lead; `T` names an interface.
#[derive(Debug, Clone)]
pub struct Table<T> {
    /// By rank, then by age: the first one that matches takes the frame. Sniffers stand last.
    entries: Vec<Entry<T>>,
    block: Block,
    last_id: u16,
    /// Moves with every change: who has a copy sees that it is old.
    generation: u64,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), block: Block::default(), last_id: 0, generation: 0 }
    }
}

impl<T: Copy + PartialEq> Table<T> {
    /// An empty table: every frame is the kernel's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a filter; the number by which packets name it and by which it is removed.
    ///
    /// # Errors
    /// [`TableError`], and nothing has changed.
    pub fn add(&mut self, filter: Filter, target: Target<T>) -> Result<FilterId, TableError> {
        self.allow(&filter, &target)?;
        let id = self.free_id().ok_or(TableError::Full)?;
        self.put(id, filter, target);
        Ok(id)
    }

    /// Adds a filter under the number that it has in another table, of which this one is a copy.
    ///
    /// # Errors
    /// [`TableError`], and nothing has changed: [`TableError::Number`] when the number is in use here.
    pub fn add_as(&mut self, id: FilterId, filter: Filter, target: Target<T>) -> Result<(), TableError> {
        self.allow(&filter, &target)?;
        if self.query(id).is_some() {
            return Err(TableError::Number(id));
        }
        self.put(id, filter, target);
        Ok(())
    }

    fn allow(&self, filter: &Filter, target: &Target<T>) -> Result<(), TableError> {
        check(filter)?;
        if let Target::Set(members) = target
            && (members.is_empty() || members.len() > MOST_MEMBERS)
        {
            return Err(TableError::Members(members.len()));
        }
        if let Some(twin) =
            self.entries.iter().find(|entry| entry.filter == *filter && entry.target == *target)
        {
            return Err(TableError::Twice(twin.id));
        }
        if self.entries.len() >= MOST_FILTERS {
            return Err(TableError::Full);
        }
        Ok(())
    }

    fn put(&mut self, id: FilterId, filter: Filter, target: Target<T>) {
        // Behind all of the same rank: what was added first comes first.
        let at = self.entries.partition_point(|entry| entry.filter.rank() <= filter.rank());
        self.entries.insert(at, Entry { filter, id, target });
        self.generation += 1;
    }

    /// Numbers are not used again soon, so that a packet on its way is not taken for another filter's.
    fn free_id(&mut self) -> Option<FilterId> {
        for _ in 0..FilterId::MOST {
            self.last_id = if self.last_id >= FilterId::MOST { 1 } else { self.last_id + 1 };
            let id = FilterId::new(self.last_id)?;
            if self.entries.iter().all(|entry| entry.id != id) {
                return Some(id);
            }
        }
        None
    }

    /// Removes a filter; false if there is none of this number.
    pub fn remove(&mut self, id: FilterId) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.id != id);
        let removed = self.entries.len() < before;
        self.generation += u64::from(removed);
        removed
    }

    /// Removes every filter that leads to `target` alone, and takes it out of all sets: what is left when an interface
    /// goes. A set without members goes too.
    pub fn remove_target(&mut self, target: T) {
        for entry in &mut self.entries {
            if let Target::Set(members) = &mut entry.target {
                members.retain(|&member| member != target);
            }
        }
        self.entries.retain(|entry| match &entry.target {
            Target::One(one) => *one != target,
            Target::Set(members) => !members.is_empty(),
        });
        self.generation += 1;
    }

    /// What a filter takes and where it leads.
    #[must_use]
    pub fn query(&self, id: FilterId) -> Option<(&Filter, &Target<T>)> {
        self.entries.iter().find(|entry| entry.id == id).map(|entry| (&entry.filter, &entry.target))
    }

    /// Which frames that nothing takes are dropped.
    pub fn block_kernel(&mut self, block: Block) {
        self.block = block;
        self.generation += 1;
    }

    /// A number that moves with every change.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Calls `each` with everyone who gets a frame with these headers, and by which filter; sniffers last.
    ///
    /// Nothing is allocated. A frame is compared with the filters one by one, in the order of precedence.
    #[inline]
    pub fn steer(&self, headers: &Headers, mut each: impl FnMut(T, FilterId)) -> Verdict {
        let mut taker: Option<&Filter> = None;
        for entry in &self.entries {
            let sniffs = entry.filter == Filter::Sniff;
            let wanted = match taker {
                _ if sniffs => true,
                // Who added an equal filter gets a copy.
                Some(taker) => entry.filter == *taker,
                None => entry.filter.matches(headers),
            };
            if wanted {
                if !sniffs {
                    taker = Some(&entry.filter);
                }
                if let Some(target) = entry.target.choose(headers) {
                    each(target, entry.id);
                }
            }
        }
        let blocked = if headers.is_multicast() { self.block.multicast } else { self.block.unicast };
        match taker {
            Some(_) => Verdict::Taken,
            None if blocked => Verdict::Blocked,
            None => Verdict::Kernel,
        }
    }
}

impl<T: Copy> Target<T> {
    fn choose(&self, headers: &Headers) -> Option<T> {
        match self {
            Self::One(one) => Some(*one),
            Self::Set(members) => {
                let place = (flow_hash(&DEFAULT_KEY, headers) % INDIRECTION) as usize;
                members.get(place.checked_rem(members.len())?).copied()
            }
        }
    }
}

fn check(filter: &Filter) -> Result<(), TableError> {
    let vlan = match *filter {
        Filter::Full { local, remote, vlan, .. } => {
            if local.is_ipv4() != remote.is_ipv4() {
                return Err(TableError::Versions);
            }
            vlan
        }
        Filter::Local { first, last, vlan, .. } => {
            if first > last {
                return Err(TableError::Range { first, last });
            }
            vlan
        }
        Filter::Mac { vlan, .. } | Filter::IpProtocol { vlan, .. } | Filter::Ethertype { vlan, .. } => vlan,
        _ => None,
    };
    match vlan {
        Some(vlan) if vlan > 4095 => Err(TableError::Vlan(vlan)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::{ethernet, udp4};
    use super::super::{Mac, Transport};
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn got(table: &Table<u8>, frame: &[u8]) -> (Vec<(u8, u16)>, Verdict) {
        let mut got = Vec::new();
        let verdict = table.steer(&Headers::parse(frame).unwrap(), |to, id| got.push((to, id.number())));
        (got, verdict)
    }

    fn local(port: (u16, u16)) -> Filter {
        let address = Ipv4Addr::new(10, 0, 0, 2).into();
        Filter::Local { transport: Transport::Udp, address, first: port.0, last: port.1, vlan: None }
    }

    #[test]
    fn the_most_special_filter_takes_a_frame_and_when_it_goes_the_next() {
        let frame = udp4([2; 6], Some(5), "10.0.0.1:7".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let full = Filter::Full {
            transport: Transport::Udp,
            local: "10.0.0.2:80".parse().unwrap(),
            remote: "10.0.0.1:7".parse().unwrap(),
            vlan: Some(5),
        };
        let order = [
            full,
            local((80, 80)),
            local((80, 90)),
            local((1, 65535)),
            Filter::Mac { mac: [2; 6], vlan: Some(5) },
            Filter::Mac { mac: [2; 6], vlan: None },
            Filter::IpProtocol { protocol: 17, vlan: None },
            Filter::Ethertype { ethertype: 0x0800, vlan: None },
            Filter::UnicastAll,
            Filter::UnicastMismatch,
        ];
        let mut table = Table::new();
        let mut ids: Vec<FilterId> =
            order.iter().rev().map(|&filter| table.add(filter, Target::One(1_u8)).unwrap()).collect();
        while let Some(id) = ids.pop() {
            assert_eq!(got(&table, &frame), (vec![(1, id.number())], Verdict::Taken));
            assert_eq!(table.query(id).unwrap().0, &order[order.len() - 1 - ids.len()].clone());
            assert!(table.remove(id) && !table.remove(id));
        }
        assert_eq!(got(&table, &frame), (vec![], Verdict::Kernel));
        table.block_kernel(Block { unicast: true, multicast: false });
        assert_eq!(got(&table, &frame).1, Verdict::Blocked);
        assert_eq!(got(&table, &ethernet([0xFF; 6], None, 0x0806)).1, Verdict::Kernel);
    }

    #[test]
    fn equal_filters_copy_sniffers_see_all_and_sets_spread() {
        let frame = udp4([2; 6], None, "10.0.0.1:7".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let mut table = Table::new();
        table.add(Filter::Sniff, Target::One(9)).unwrap();
        assert_eq!(got(&table, &frame), (vec![(9, 1)], Verdict::Kernel));
        let first = table.add(local((80, 80)), Target::One(1)).unwrap();
        table.add(local((80, 80)), Target::One(2)).unwrap();
        table.add(Filter::UnicastAll, Target::One(3)).unwrap();
        assert_eq!(got(&table, &frame).0, [(1, 2), (2, 3), (9, 1)]);
        assert_eq!(table.add(local((80, 80)), Target::One(1)), Err(TableError::Twice(first)));

        let mut table = Table::new();
        table.add(Filter::IpProtocol { protocol: 17, vlan: None }, Target::Set(vec![0, 1, 2, 3])).unwrap();
        let mut seen = [0; 4];
        for port in 0..1000 {
            let from = std::net::SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), port);
            let frame = udp4([2; 6], None, from, "10.0.0.2:80".parse().unwrap());
            let (to, _) = got(&table, &frame);
            assert_eq!(to, got(&table, &frame).0, "a flow stays with its member");
            seen[usize::from(to[0].0)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 150), "{seen:?}");
        table.remove_target(2);
        assert_eq!(got(&table, &frame).1, Verdict::Taken);
        [0, 1, 3].into_iter().for_each(|member| table.remove_target(member));
        assert_eq!(got(&table, &frame).1, Verdict::Kernel);
    }

    #[test]
    fn filters_that_cannot_be_are_refused() {
        let mut table = Table::<u8>::new();
        let one = || Target::One(1);
        assert_eq!(table.add(local((9, 8)), one()), Err(TableError::Range { first: 9, last: 8 }));
        let mac = Filter::Mac { mac: [2; 6], vlan: Some(4096) };
        assert_eq!(table.add(mac, one()), Err(TableError::Vlan(4096)));
        let mixed = Filter::Full {
            transport: Transport::Tcp,
            local: "10.0.0.1:1".parse().unwrap(),
            remote: "[::1]:1".parse().unwrap(),
            vlan: None,
        };
        assert_eq!(table.add(mixed, one()), Err(TableError::Versions));
        assert_eq!(table.add(Filter::UnicastAll, Target::Set(vec![])), Err(TableError::Members(0)));
        for port in 0..512 {
            table.add(local((port, port)), one()).unwrap();
        }
        assert_eq!(table.add(Filter::UnicastAll, one()), Err(TableError::Full));
    }

    fn small_filter() -> impl Strategy<Value = Filter> {
        let address = (1..3_u8).prop_map(|last| Ipv4Addr::new(10, 0, 0, last));
        let vlan = prop_oneof![Just(None), (0..2_u16).prop_map(Some)];
        let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
        prop_oneof![
            (transport.clone(), address.clone(), 0..3_u16, address.clone(), 0..3_u16, vlan.clone()).prop_map(
                |(transport, to, to_port, from, from_port, vlan)| Filter::Full {
                    transport,
                    local: (to, to_port).into(),
                    remote: (from, from_port).into(),
                    vlan
                }
            ),
            (transport, address, 0..3_u16, 0..3_u16, vlan.clone()).prop_map(
                |(transport, to, first, more, vlan)| {
                    Filter::Local { transport, address: to.into(), first, last: first + more, vlan }
                }
            ),
            (mac(), vlan.clone()).prop_map(|(mac, vlan)| Filter::Mac { mac, vlan }),
            (prop_oneof![Just(6_u8), Just(17), Just(1)], vlan.clone())
                .prop_map(|(protocol, vlan)| Filter::IpProtocol { protocol, vlan }),
            (prop_oneof![Just(0x0800_u16), Just(0x0806)], vlan)
                .prop_map(|(ethertype, vlan)| Filter::Ethertype { ethertype, vlan }),
            Just(Filter::UnicastAll),
            Just(Filter::MulticastAll),
            Just(Filter::UnicastMismatch),
            Just(Filter::MulticastMismatch),
            Just(Filter::Sniff),
        ]
    }

    fn target() -> impl Strategy<Value = Target<u8>> {
        prop_oneof![
            3 => (0..3_u8).prop_map(Target::One),
            1 => proptest::collection::vec(0..9_u8, 1..5).prop_map(Target::Set),
        ]
    }

    fn mac() -> impl Strategy<Value = Mac> {
        prop_oneof![Just([2; 6]), Just([3; 6]), Just([4; 6]), Just([0xFF; 6])]
    }

    /// What a frame was made of: the naive model reads no headers.
    struct Made {
        mac: Mac,
        vlan: Option<u16>,
        transport: Transport,
        from: std::net::SocketAddrV4,
        to: std::net::SocketAddrV4,
    }

    /// What the documentation says of one filter: whether it takes the frame, its rank, the width of its range.
    fn naive_one(filter: &Filter, made: &Made) -> (bool, u8, u16) {
        let tag = |vlan: &Option<u16>| vlan.is_none_or(|vlan| made.vlan == Some(vlan));
        let multicast = made.mac[0] % 2 == 1;
        match filter {
            Filter::Full { transport, local, remote, vlan } => {
                let ends = *local == made.to.into() && *remote == made.from.into();
                (ends && *transport == made.transport && tag(vlan), 1, 0)
            }
            Filter::Local { transport, address, first, last, vlan } => {
                let port = made.to.port();
                let ends = *address == *made.to.ip() && *first <= port && port <= *last;
                (ends && *transport == made.transport && tag(vlan), 2, last - first)
            }
            Filter::Mac { mac, vlan: Some(vlan) } => (*mac == made.mac && made.vlan == Some(*vlan), 3, 0),
            Filter::Mac { mac, vlan: None } => (*mac == made.mac, 4, 0),
            Filter::IpProtocol { protocol, vlan } => {
                let of_frame = if made.transport == Transport::Tcp { 6 } else { 17 };
                (*protocol == of_frame && tag(vlan), 5, 0)
            }
            Filter::Ethertype { ethertype, vlan } => (*ethertype == 0x0800 && tag(vlan), 6, 0),
            Filter::UnicastAll => (!multicast, 7, 0),
            Filter::MulticastAll => (multicast, 7, 0),
            Filter::UnicastMismatch => (!multicast, 8, 0),
            Filter::MulticastMismatch => (multicast, 8, 0),
            Filter::Sniff => (false, 9, 0),
        }
    }

    /// Who gets the frame: of all that take it the lowest rank, then the narrowest range, then the oldest; everybody who
    /// added an equal filter; and the sniffers.
    fn naive(filters: &[(Filter, Target<u8>)], made: &Made, hash: u32) -> Vec<u8> {
        let taker = filters
            .iter()
            .enumerate()
            .filter(|(_, (filter, _))| naive_one(filter, made).0)
            .min_by_key(|(age, (filter, _))| (naive_one(filter, made).1, naive_one(filter, made).2, *age))
            .map(|(_, (filter, _))| *filter);
        let of = |wanted: Option<Filter>| {
            filters.iter().filter(move |(filter, _)| Some(*filter) == wanted).map(move |(_, target)| {
                match target {
                    Target::One(one) => *one,
                    Target::Set(members) => members[(hash % 128) as usize % members.len()],
                }
            })
        };
        of(taker).chain(of(Some(Filter::Sniff))).collect()
    }

    proptest! {
        #[test]
        fn steering_is_what_the_documentation_says(filters in proptest::collection::vec((small_filter(), target()), 0..12),
            mac in mac(), vlan in prop_oneof![Just(None), (0..2_u16).prop_map(Some)],
            from in (1..3_u8, 0..3_u16), to in (1..3_u8, 0..5_u16), tcp: bool, removed: usize) {
            let from = std::net::SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, from.0), from.1);
            let to = std::net::SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, to.0), to.1);
            let mut frame = udp4(mac, vlan, from, to);
            if tcp {
                frame[if vlan.is_some() { 27 } else { 23 }] = 6;
            }
            let transport = if tcp { Transport::Tcp } else { Transport::Udp };
            let made = Made { mac, vlan, transport, from, to };
            let headers = Headers::parse(&frame).unwrap();
            let mut table = Table::new();
            let mut kept: Vec<(Filter, Target<u8>, FilterId)> = Vec::new();
            for (filter, to) in filters {
                match table.add(filter, to.clone()) {
                    Ok(id) => kept.push((filter, to, id)),
                    Err(error) => prop_assert!(matches!(error, TableError::Twice(_))),
                }
            }
            if !kept.is_empty() && removed % 2 == 0 {
                let (_, _, id) = kept.remove(removed % kept.len());
                prop_assert!(table.remove(id));
            }
            let plain: Vec<(Filter, Target<u8>)> =
                kept.iter().map(|(filter, to, _)| (*filter, to.clone())).collect();
            let (got, _) = got(&table, &frame);
            let expected = naive(&plain, &made, flow_hash(&DEFAULT_KEY, &headers));
            prop_assert_eq!(got.iter().map(|&(to, _)| to).collect::<Vec<_>>(), expected);
            for (to, id) in got {
                let leads = |target: &Target<u8>| match target {
                    Target::One(one) => *one == to,
                    Target::Set(members) => members.contains(&to),
                };
                prop_assert!(kept.iter().any(|(_, target, kept)| leads(target) && kept.number() == id));
            }
        }
    }
}
