//! What applications were promised, kept apart from the machines.
//!
//! Each write has a unique id, stored in every sector it covers. For each node's copy and each sector the oracle keeps the
//! ids that copy may *legally* hold: a submitted write may be anywhere; an acknowledged one replaces, on every copy that
//! holds it, all that had ended before it began; power loss may bring back what was not stable. A copy that missed a write
//! stays legal as it was: whether it may serve is the business of the laws about generations.
//!
//! *Exclusive* writes were acknowledged while one copy only held them. *Alone* means: the only disk under a Primary, so a
//! new generation may have begun there.
//!
//! Protocols A and B acknowledge what the other copy will only get: such writes are *in transit* while the connection lasts,
//! and *owed*: lost legally if the other side takes over, until a new generation has begun where they are.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::contents::{BLOCK, Contents, SECTOR};
use crate::disk::Span;

/// A write, trim or write-zeroes of an application.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) volume: usize,
    pub(crate) span: Span,
    /// Leaves zeroes instead of its id.
    pub(crate) zeroes: bool,
    pub(crate) submitted: u64,
    pub(crate) acked: bool,
    /// Answered, or its process has died.
    pub(crate) ended: Option<u64>,
}

/// One node's copy of a volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    /// Sector → ids it may hold; absent: never written.
    legal: BTreeMap<u64, Vec<u64>>,
    /// Sector → id of an acknowledged write that the other copy lacks.
    pub(crate) exclusive: BTreeMap<u64, u64>,
    /// Sector → id of a write acknowledged when the other copy was still to get it.
    owed: BTreeMap<u64, u64>,
    /// The same, as long as the connection over which it goes.
    transit: BTreeMap<u64, u64>,
    /// Was the only disk under a Primary since both copies were last the same.
    pub(crate) alone: bool,
    /// The order of things when that began, and the generation that the other disk had then.
    pub(crate) alone_since: u64,
    pub(crate) left_behind: Option<u64>,
    /// The operator has given this copy up.
    pub(crate) given_up: bool,
}

impl Copy {
    /// The other copy holds all of it, or this one is to be thrown away.
    pub(crate) fn forget_others_lack(&mut self) {
        self.exclusive.clear();
        let transit = &self.transit;
        self.owed.retain(|sector, _| transit.contains_key(sector));
    }
}

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Zeroes,
    Write(u64),
    Garbage,
}

/// All that is known of a world's writes.
#[derive(Default)]
pub(crate) struct Oracle {
    records: Vec<Record>,
    /// Counts submissions and endings.
    pub(crate) order: u64,
    /// By volume, then node.
    pub(crate) copies: Vec<[Copy; 2]>,
}

/// The bytes of a write: each sector carries the id and its own number, 32 times.
pub(crate) fn stamp(id: u64, start: u64, sectors: u64) -> Bytes {
    let mut bytes = Vec::with_capacity((sectors * SECTOR) as usize);
    for sector in start..start + sectors {
        let mut unit = [0; 16];
        unit[..8].copy_from_slice(&id.to_be_bytes());
        unit[8..].copy_from_slice(&sector.to_be_bytes());
        for _ in 0..SECTOR / 16 {
            bytes.extend_from_slice(&unit);
        }
    }
    Bytes::from(bytes)
}

/// What a sector of a disk or of a reply holds; `None` reads as zeroes.
pub(crate) fn look(sector: u64, bytes: Option<&[u8]>) -> Seen {
    let Some(bytes) = bytes else { return Seen::Zeroes };
    let (units, _) = bytes.as_chunks::<16>();
    let Some(first) = units.first() else { return Seen::Garbage };
    if units.iter().any(|unit| unit != first) {
        return Seen::Garbage;
    }
    let number = u128::from_be_bytes(*first);
    match ((number >> 64) as u64, number as u64) {
        (0, 0) => Seen::Zeroes,
        (id, at) if id > 0 && at == sector => Seen::Write(id),
        _ => Seen::Garbage,
    }
}

fn record(records: &[Record], id: u64) -> Option<&Record> {
    records.get(id.checked_sub(1)? as usize)
}

/// Whether `old` had ended before `new` began: then `new` overwrites it for good.
fn is_superseded(records: &[Record], old: u64, new: u64) -> bool {
    let Some(new) = record(records, new) else { return false };
    match record(records, old) {
        None => true,
        Some(record) => record.ended.is_some_and(|ended| ended < new.submitted),
    }
}

impl Oracle {
    pub(crate) fn new(volumes: usize) -> Self {
        Self { copies: vec![<[Copy; 2]>::default(); volumes], ..Self::default() }
    }

    /// The id the next write will get.
    pub(crate) fn next_id(&self) -> u64 {
        self.records.len() as u64 + 1
    }

    pub(crate) fn record(&self, id: u64) -> Option<&Record> {
        record(&self.records, id)
    }

    pub(crate) fn submit(&mut self, volume: usize, span: Span, zeroes: bool) -> u64 {
        self.order += 1;
        let record = Record { volume, span, zeroes, submitted: self.order, acked: false, ended: None };
        self.records.push(record);
        let id = self.records.len() as u64;
        for copy in &mut self.copies[volume] {
            for sector in span.0..span.1 {
                copy.legal.entry(sector).or_insert_with(|| vec![0]).push(id);
            }
        }
        id
    }

    /// The write will not be answered well any more; it may or may not have happened.
    pub(crate) fn end_in_doubt(&mut self, id: u64) {
        self.order += 1;
        if let Some(record) = self.records.get_mut(id as usize - 1) {
            record.ended.get_or_insert(self.order);
        }
    }

    fn is_superseded(&self, old: u64, new: u64) -> bool {
        is_superseded(&self.records, old, new)
    }

    /// Whether what the sector holds is write `id` or one that could have come after it.
    pub(crate) fn is_at_least(&self, copy: (usize, usize), sector: u64, seen: Seen, id: u64) -> bool {
        match seen {
            Seen::Garbage => false,
            Seen::Write(found) => found == id || !self.is_superseded(found, id),
            Seen::Zeroes => {
                let legal = self.copies[copy.0][copy.1].legal.get(&sector);
                legal.into_iter().flatten().any(|&other| {
                    self.record(other).is_some_and(|record| record.zeroes)
                        && (other == id || !self.is_superseded(other, id))
                })
            }
        }
    }

    /// The write was acknowledged. Returns a sector that no copy holds, if there is one.
    ///
    /// `sender` is the node from which the other one will get what it lacks (protocols A and B, connected); `lapsed`: the
    /// other one may have had it, before a power loss that nobody has noticed yet.
    pub(crate) fn acknowledge(
        &mut self,
        id: u64,
        views: [Option<&Contents>; 2],
        sender: Option<usize>,
        lapsed: bool,
    ) -> Result<[bool; 2], u64> {
        self.order += 1;
        let order = self.order;
        let Some(record) = self.records.get_mut(id as usize - 1) else { return Ok([true; 2]) };
        record.acked = true;
        record.ended = Some(order);
        let (volume, span, zeroes) = (record.volume, record.span, record.zeroes);
        let mut everywhere = [true; 2];
        for sector in span.0..span.1 {
            let holds = [0, 1].map(|node| {
                views[node]
                    .is_some_and(|view| self.is_at_least((volume, node), sector, look(sector, view.sector(sector)), id))
            });
            for node in 0..2 {
                everywhere[node] &= holds[node];
                // Where zeroes were before, an older write may still come.
                if holds[node] && !(zeroes && self.had_zeroes(volume, node, sector, id)) {
                    self.settle(volume, node, sector, id);
                }
            }
            if let Some(sender) = sender {
                let seen = views.map(|view| look(sector, view.and_then(|view| view.sector(sector))));
                if !zeroes && self.has_arrived(volume, sender, sector, seen, id) {
                    self.copies[volume][sender].transit.remove(&sector);
                } else {
                    self.copies[volume][sender].transit.insert(sector, id);
                }
            }
            let copies = &mut self.copies[volume];
            match (holds, sender) {
                ([false, false], _) => return Err(sector),
                ([true, true], _) => copies.iter_mut().for_each(|copy| {
                    copy.exclusive.remove(&sector);
                    copy.owed.remove(&sector);
                }),
                ([first, _], None) if !lapsed => {
                    copies[usize::from(!first)].exclusive.insert(sector, id);
                }
                ([first, _], _) => {
                    copies[usize::from(!first)].exclusive.remove(&sector);
                    copies[usize::from(!first)].owed.insert(sector, id);
                }
            }
        }
        Ok(everywhere)
    }

    /// Whether the sector may have read as zeroes without that write.
    fn had_zeroes(&self, volume: usize, node: usize, sector: u64, id: u64) -> bool {
        let legal = self.copies[volume][node].legal.get(&sector);
        let others = legal.into_iter().flatten().filter(|&&other| other != id);
        others.into_iter().any(|&other| self.record(other).is_none_or(|record| record.zeroes))
    }

    fn settle(&mut self, volume: usize, node: usize, sector: u64, id: u64) {
        let Self { records, copies, .. } = self;
        if let Some(legal) = copies[volume][node].legal.get_mut(&sector) {
            legal.retain(|&old| !is_superseded(records, old, id));
        }
    }

    /// This copy is the only disk under a Primary.
    pub(crate) fn begin_alone(&mut self, volume: usize, node: usize, others_generation: Option<u64>) {
        let order = self.order;
        let copy = &mut self.copies[volume][node];
        (copy.alone, copy.alone_since, copy.left_behind) = (true, order, others_generation);
    }

    /// Whether a write began after the other copy had gone on alone, and this one never has.
    pub(crate) fn is_newer_than_parting(&self, volume: usize, node: usize, id: u64) -> bool {
        let (own, other) = (&self.copies[volume][node], &self.copies[volume][1 - node]);
        other.alone && !own.alone && self.record(id).is_some_and(|record| record.submitted > other.alone_since)
    }

    /// A new generation has begun with this copy: what the other one was still to get may not be lost silently any more.
    pub(crate) fn keep_owed(&mut self, volume: usize, node: usize) {
        let copy = &mut self.copies[volume][node];
        let owed = std::mem::take(&mut copy.owed);
        for (sector, id) in owed {
            copy.exclusive.entry(sector).and_modify(|other| *other = id.max(*other)).or_insert(id);
        }
    }

    /// Sectors of a copy were written: what was on its way there has arrived, or comes later.
    pub(crate) fn arrive(&mut self, volume: usize, node: usize, span: Span, views: [&Contents; 2]) {
        let found: Vec<(u64, u64)> = self.copies[volume][1 - node]
            .transit
            .range(span.0..span.1)
            .map(|(&sector, &id)| (sector, id))
            .filter(|&(sector, id)| {
                let seen = views.map(|view| look(sector, view.sector(sector)));
                self.has_arrived(volume, 1 - node, sector, seen, id)
            })
            .collect();
        for (sector, id) in found {
            self.copies[volume][1 - node].transit.remove(&sector);
            self.copies[volume][1 - node].owed.remove(&sector);
            self.settle(volume, node, sector, id);
        }
    }

    /// Whether the receiver's sector is what the sender's is; one without a disk has nothing but the write itself. Writes at
    /// the same time may land there in an order of which only the end counts.
    fn has_arrived(&self, volume: usize, sender: usize, sector: u64, seen: [Seen; 2], id: u64) -> bool {
        match self.is_at_least((volume, sender), sector, seen[sender], id) {
            true => seen[0] == seen[1],
            false => self.is_among(seen[1 - sender], &[id]),
        }
    }

    /// Nothing is on its way from this node any more.
    pub(crate) fn end_transit(&mut self, volume: usize, node: usize) {
        self.copies[volume][node].transit.clear();
    }

    /// Whether an acknowledged write of these sectors is on its way to the other copy.
    pub(crate) fn is_in_transit(&self, volume: usize, span: Span) -> bool {
        self.copies[volume].iter().any(|copy| copy.transit.range(span.0..span.1).next().is_some())
    }

    /// Ids that a reader on `reader` may find on a copy: what it has sent there comes before its question.
    pub(crate) fn legal_for(&self, reader: usize, volume: usize, node: usize, sector: u64) -> Vec<u64> {
        let mut ids = self.legal(volume, node, sector);
        if let Some(&sent) = self.copies[volume][reader].transit.get(&sector).filter(|_| reader != node) {
            ids.retain(|&id| !self.is_superseded(id, sent));
        }
        ids
    }

    /// Ids that a sector of a copy may hold.
    pub(crate) fn legal(&self, volume: usize, node: usize, sector: u64) -> Vec<u64> {
        self.copies[volume][node].legal.get(&sector).cloned().unwrap_or_else(|| vec![0])
    }

    /// Whether what was seen is a write that had not ended at that point: a read that waited long may have met it, although
    /// others have replaced it since.
    pub(crate) fn was_under_way(&self, seen: Seen, order: u64) -> bool {
        let Seen::Write(id) = seen else { return false };
        self.record(id).is_some_and(|record| record.ended.is_none_or(|ended| ended > order))
    }

    /// Whether what was seen is one of these ids.
    pub(crate) fn is_among(&self, seen: Seen, ids: &[u64]) -> bool {
        match seen {
            Seen::Garbage => false,
            Seen::Write(id) => ids.contains(&id),
            Seen::Zeroes => ids.iter().any(|&id| id == 0 || self.record(id).is_some_and(|record| record.zeroes)),
        }
    }

    /// Power loss has changed what the copy holds: what came back is legal there, what is gone is no longer exclusive, and
    /// an acknowledged write that both held is owed by `other`, the copy of one that goes on.
    pub(crate) fn regress(
        &mut self,
        volume: usize,
        node: usize,
        sector: u64,
        [before, after]: [Seen; 2],
        other: Option<Seen>,
    ) {
        let ids = self.legal(volume, node, sector);
        if let Seen::Write(id) = before
            && other == Some(before)
            && self.record(id).is_some_and(|record| record.acked)
            && !self.is_at_least((volume, node), sector, after, id)
        {
            self.copies[volume][1 - node].owed.insert(sector, id);
        }
        if !self.is_among(after, &ids) {
            let id = if let Seen::Write(id) = after { id } else { 0 };
            self.copies[volume][node].legal.entry(sector).or_insert_with(|| vec![0]).push(id);
        }
        let copy = &self.copies[volume][node];
        if let Some(&id) = copy.exclusive.get(&sector)
            && !self.is_at_least((volume, node), sector, after, id)
        {
            self.copies[volume][node].exclusive.remove(&sector);
        }
    }

    /// Exclusive writes of `node` that are still on its disk and that the other copy does not have.
    pub(crate) fn exclusive(&self, volume: usize, node: usize, views: [&Contents; 2]) -> Vec<(u64, u64)> {
        let holds = |on: usize, sector: u64, id: u64| {
            self.is_at_least((volume, on), sector, look(sector, views[on].sector(sector)), id)
        };
        let exclusive = self.copies[volume][node].exclusive.iter();
        exclusive
            .map(|(&sector, &id)| (sector, id))
            .filter(|&(s, id)| holds(node, s, id) && !holds(1 - node, s, id))
            .collect()
    }

    /// Groups of `grain` blocks of a volume that any write has touched.
    pub(crate) fn written(&self, volume: usize, grain: u64) -> BTreeSet<u64> {
        let spans = self.records.iter().filter(|record| record.volume == volume).map(|record| record.span);
        spans.flat_map(|(from, to)| from / BLOCK / grain..(to.div_ceil(BLOCK)).div_ceil(grain)).collect()
    }

    /// A target holds what its source holds.
    pub(crate) fn adopt(&mut self, volume: usize, target: usize) {
        let source = &self.copies[volume][1 - target];
        let mut legal = source.legal.clone();
        // What has not arrived yet may still be as it was.
        for sector in source.transit.keys() {
            let before = self.legal(volume, target, *sector);
            legal.entry(*sector).or_default().extend(before);
        }
        self.copies[volume][target].legal = legal;
    }

    /// The first sector of a copy that holds what it may not.
    pub(crate) fn illegal(&self, volume: usize, node: usize, view: &Contents) -> Option<(u64, Seen, &[u64])> {
        let sectors = self.copies[volume][node].legal.iter();
        sectors
            .map(|(&sector, ids)| (sector, look(sector, view.sector(sector)), ids.as_slice()))
            .find(|(_, seen, ids)| !self.is_among(*seen, ids))
    }

    /// Both copies hold the same now: what is legal on one is legal on the other.
    pub(crate) fn unify(&mut self, volume: usize, target: Option<usize>, views: [&Contents; 2]) {
        match target {
            Some(target) => self.adopt(volume, target),
            None => self.unify_by_contents(volume, views),
        }
        for copy in &mut self.copies[volume] {
            copy.forget_others_lack();
            copy.alone = false;
            copy.given_up = false;
        }
    }

    fn unify_by_contents(&mut self, volume: usize, views: [&Contents; 2]) {
        let sectors: Vec<u64> = self.copies[volume][0].legal.keys().copied().collect();
        for sector in sectors {
            let own = [0, 1].map(|node| {
                let ids = self.legal(volume, node, sector);
                self.is_among(look(sector, views[node].sector(sector)), &ids)
            });
            match own {
                [true, false] => self.copy_legal(volume, 0, sector),
                [false, true] => self.copy_legal(volume, 1, sector),
                _ => {}
            }
        }
    }

    fn copy_legal(&mut self, volume: usize, from: usize, sector: u64) {
        let ids = self.legal(volume, from, sector);
        self.copies[volume][1 - from].legal.insert(sector, ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(id: u64) -> Contents {
        let mut contents = Contents::default();
        contents.write(8, &stamp(id, 8, 2));
        contents
    }

    #[test]
    fn an_acknowledged_write_replaces_what_had_ended_before() {
        let mut oracle = Oracle::new(1);
        let first = oracle.submit(0, (8, 10), false);
        let view = holding(first);
        assert_eq!(oracle.acknowledge(first, [Some(&view), Some(&view)], None, false), Ok([true, true]));
        let second = oracle.submit(0, (8, 10), false);
        let newer = holding(second);
        assert_eq!(oracle.acknowledge(second, [Some(&newer), Some(&view)], None, false), Ok([true, false]));
        assert_eq!(oracle.legal(0, 0, 8), [second]);
        assert_eq!(oracle.legal(0, 1, 8), [first, second], "the copy that missed it may be as it was, or have it late");
        assert_eq!(oracle.exclusive(0, 0, [&newer, &view]).len(), 2);
        assert_eq!(oracle.exclusive(0, 0, [&newer, &newer]).len(), 0, "it has arrived after all");
    }

    #[test]
    fn writes_at_the_same_time_may_end_in_either_order() {
        let mut oracle = Oracle::new(1);
        let first = oracle.submit(0, (8, 10), false);
        let second = oracle.submit(0, (8, 10), false);
        let view = holding(second);
        assert!(oracle.acknowledge(first, [Some(&view), None], None, false).is_ok());
        assert!(oracle.acknowledge(second, [Some(&view), None], None, false).is_ok());
        assert_eq!(oracle.legal(0, 0, 8), [first, second]);
    }

    #[test]
    fn a_write_that_is_nowhere_is_a_lie() {
        let mut oracle = Oracle::new(1);
        let id = oracle.submit(0, (8, 10), false);
        assert_eq!(oracle.acknowledge(id, [Some(&Contents::default()), None], None, false), Err(8));
    }

    #[test]
    fn a_write_in_transit_is_owed_until_it_arrives_or_a_generation_begins() {
        let mut oracle = Oracle::new(1);
        let id = oracle.submit(0, (8, 10), false);
        let (here, there) = (holding(id), Contents::default());
        assert_eq!(oracle.acknowledge(id, [Some(&here), Some(&there)], Some(0), false), Ok([true, false]));
        assert!(oracle.is_in_transit(0, (8, 16)));
        assert_eq!(oracle.exclusive(0, 0, [&here, &there]), [], "it may be lost with this side");
        assert_eq!(oracle.legal(0, 1, 8), [0, id]);
        assert_eq!(oracle.legal_for(0, 0, 1, 8), [id], "who sent it does not read what was before");
        oracle.end_transit(0, 0);
        oracle.keep_owed(0, 0);
        assert_eq!(oracle.exclusive(0, 0, [&here, &there]).len(), 2, "but not if this side has gone on alone");
    }

    #[test]
    fn what_arrives_is_no_longer_in_transit() {
        let mut oracle = Oracle::new(1);
        let id = oracle.submit(0, (8, 10), false);
        let here = holding(id);
        assert!(oracle.acknowledge(id, [Some(&here), Some(&Contents::default())], Some(0), false).is_ok());
        oracle.arrive(0, 1, (8, 10), [&here, &here]);
        assert!(!oracle.is_in_transit(0, (8, 16)));
        assert_eq!(oracle.legal(0, 1, 8), [id]);
    }

    #[test]
    fn garbage_is_seen() {
        let mut bytes = stamp(7, 3, 1).to_vec();
        assert_eq!(look(3, Some(&bytes)), Seen::Write(7));
        assert_eq!(look(4, Some(&bytes)), Seen::Garbage, "another sector's data");
        bytes[511] ^= 1;
        assert_eq!(look(3, Some(&bytes)), Seen::Garbage);
    }
}
