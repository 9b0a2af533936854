//! One backing device with a volatile cache, as a pure model; the world decides when operations end and how.
//!
//! A write that has ended is in the *view* (what reads return) and in the cache; it is *stable* once a flush that began
//! after its end has ended, or at its end if it had FUA. Power loss keeps, loses or tears (by sectors) everything that is
//! not stable, each write for itself, in any mixture; what is under way fares the same. A write with preflush that left
//! any trace proves that its preflush had happened, on the other device of the volume too.
//!
//! Invariant: no two operations in flight change the same sector (the machine promises that). A read beside a write sees the
//! old or the new contents.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use shimai::model::ids::Ticket;
use shimai::replica::action::DiskOperation;
use shimai::replica::event::DiskError;

use crate::contents::{Contents, SECTOR, is_zero};
use crate::rng::Rng;

/// Unstable writes kept before the cache stores the oldest by itself.
const CACHE_WRITES_MAX: usize = 400;

/// A device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) bytes: u64,
    /// What reads return.
    pub(crate) view: Contents,
    /// What a power loss cannot take.
    pub(crate) stable: Contents,
    /// Sectors that cannot be read until they are written again.
    pub(crate) unreadable: std::collections::BTreeSet<u64>,
    /// Every operation fails.
    pub(crate) dead: bool,
    /// First sector of a block that is never torn (a v09 superblock is larger than a sector and has no checksum).
    pub(crate) untorn: Option<u64>,
    cache: VecDeque<Change>,
    in_flight: BTreeMap<u64, InFlight>,
    ended: u64,
    begun: u64,
}

/// A write or zeroing, by sectors.
#[derive(Clone, Debug)]
struct Change {
    /// Position among the writes that have ended.
    number: u64,
    start: u64,
    sectors: u64,
    /// `None`: zeroes.
    bytes: Option<Bytes>,
}

#[derive(Clone, Debug)]
struct InFlight {
    incarnation: u32,
    ticket: Ticket,
    operation: DiskOperation,
    /// Writes up to this number had ended when the operation began.
    ended_before: u64,
    /// The same for the other device of the volume.
    other_ended_before: u64,
    fails: bool,
    read_early: Option<Bytes>,
}

/// What the world learns of an operation that ended.
pub(crate) struct Ended {
    pub(crate) incarnation: u32,
    pub(crate) ticket: Ticket,
    pub(crate) result: Result<Bytes, DiskError>,
    /// What has changed.
    pub(crate) changed: Option<Span>,
    /// With that, what had ended on the other device up to this number is stable.
    pub(crate) proves: u64,
}

/// What a loss of power has done.
pub(crate) struct Loss {
    /// Whose contents may have changed.
    pub(crate) spans: Vec<Span>,
    /// What had ended on the other device up to this number was stable before.
    pub(crate) proves: u64,
}

/// Sectors `start..end`.
pub(crate) type Span = (u64, u64);

impl InFlight {
    fn proves(&self) -> u64 {
        match self.operation {
            DiskOperation::Write { preflush: true, .. } => self.other_ended_before,
            _ => 0,
        }
    }
}

impl Change {
    fn apply(&self, to: &mut Contents) {
        match &self.bytes {
            Some(bytes) => to.write(self.start, bytes),
            None => to.zero(self.start, self.sectors),
        }
    }

    /// What is left of it outside `from..to`.
    fn without(self, from: u64, to: u64) -> impl Iterator<Item = Self> {
        let end = self.start + self.sectors;
        let parts = [(self.start, end.min(from)), (self.start.max(to), end)];
        parts.into_iter().filter(|(first, last)| first < last).map(move |(first, last)| {
            let cut = |bytes: &Bytes| {
                let range = ((first - self.start) * SECTOR) as usize..((last - self.start) * SECTOR) as usize;
                bytes.slice(range)
            };
            Self { number: self.number, start: first, sectors: last - first, bytes: self.bytes.as_ref().map(cut) }
        })
    }

    fn apply_some(&self, to: &mut Contents, rng: &mut Rng) {
        for sector in 0..self.sectors {
            if rng.coin() {
                match &self.bytes {
                    Some(bytes) => {
                        let at = (sector * SECTOR) as usize;
                        to.write(self.start + sector, &bytes.slice(at..at + SECTOR as usize));
                    }
                    None => to.zero(self.start + sector, 1),
                }
            }
        }
    }
}

/// The sectors an operation covers and whether it changes them; `None` for a flush.
pub(crate) fn span_of(operation: &DiskOperation) -> Option<(Span, bool)> {
    let span = |offset: u64, bytes: u64| (offset / SECTOR, (offset + bytes).div_ceil(SECTOR));
    match operation {
        DiskOperation::Read { offset, bytes, .. } => Some((span(*offset, *bytes), false)),
        DiskOperation::Write { offset, payload, .. } => Some((span(*offset, payload.len() as u64), true)),
        DiskOperation::Zero { offset, bytes, .. } => Some((span(*offset, *bytes), true)),
        DiskOperation::Flush { .. } => None,
    }
}

fn change_of(operation: &DiskOperation) -> Option<Change> {
    let ((start, end), changes) = span_of(operation)?;
    let bytes = match operation {
        DiskOperation::Write { payload, .. } if changes && !is_zero(payload) => Some(payload.clone()),
        _ => None,
    };
    changes.then_some(Change { number: 0, start, sectors: end - start, bytes })
}

impl Disk {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Puts bytes there as if they had always been there.
    pub(crate) fn prepare(&mut self, offset: u64, bytes: &Bytes) {
        self.view.write(offset / SECTOR, bytes);
        self.stable.write(offset / SECTOR, bytes);
    }

    /// How many writes have ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended
    }

    /// How many operations have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// An operation of this process is under way that changes data in `start..end`.
    pub(crate) fn is_changing(&self, (start, end): Span) -> bool {
        self.in_flight.values().any(|flight| {
            span_of(&flight.operation).is_some_and(|((from, to), changes)| changes && from < end && start < to)
        })
    }

    /// Begins an operation; the number names it until its end. `Err` says which law of the interface it breaks.
    pub(crate) fn begin(
        &mut self,
        incarnation: u32,
        ticket: Ticket,
        operation: DiskOperation,
        fails: bool,
        other_ended_before: u64,
        rng: &mut Rng,
    ) -> Result<u64, String> {
        if let Some((span, changes)) = span_of(&operation) {
            if span.1 * SECTOR > self.bytes {
                return Err(format!("{operation:?} reaches behind the end of the device"));
            }
            for other in self.in_flight.values() {
                let Some((other_span, other_changes)) = span_of(&other.operation) else { continue };
                let overlaps = span.0 < other_span.1 && other_span.0 < span.1;
                if overlaps && changes && other_changes {
                    return Err(format!("a write of sectors {span:?} begins while one of {other_span:?} is in flight"));
                }
            }
        }
        let bad = span_of(&operation)
            .is_some_and(|((from, to), changes)| !changes && self.unreadable.range(from..to).next().is_some());
        let read_early = match span_of(&operation) {
            Some(((from, to), false)) if rng.coin() => Some(self.view.read(from, to - from)),
            _ => None,
        };
        self.begun += 1;
        let fails = fails || bad || self.dead;
        let ended_before = self.ended;
        let flight = InFlight { incarnation, ticket, operation, ended_before, other_ended_before, fails, read_early };
        self.in_flight.insert(self.begun, flight);
        Ok(self.begun)
    }

    /// The operation ends now. `None` if power loss ended it before.
    pub(crate) fn end(&mut self, number: u64, rng: &mut Rng) -> Option<Ended> {
        let flight = self.in_flight.remove(&number)?;
        let result = if flight.fails { self.end_failed(&flight, rng) } else { Ok(self.end_well(&flight)) };
        let changed = span_of(&flight.operation).filter(|(_, changes)| *changes).map(|(span, _)| span);
        let proves = if result.is_ok() { flight.proves() } else { 0 };
        Some(Ended { incarnation: flight.incarnation, ticket: flight.ticket, result, changed, proves })
    }

    fn end_well(&mut self, flight: &InFlight) -> Bytes {
        match &flight.operation {
            DiskOperation::Read { .. } => match (&flight.read_early, span_of(&flight.operation)) {
                (Some(bytes), _) => bytes.clone(),
                (None, Some(((from, to), _))) => self.view.read(from, to - from),
                (None, None) => Bytes::new(),
            },
            DiskOperation::Flush { .. } => {
                self.stabilise(flight.ended_before);
                Bytes::new()
            }
            DiskOperation::Write { preflush, fua, .. } => {
                if *preflush {
                    self.stabilise(flight.ended_before);
                }
                self.change(&flight.operation, *fua);
                Bytes::new()
            }
            DiskOperation::Zero { fua, .. } => {
                self.change(&flight.operation, *fua);
                Bytes::new()
            }
        }
    }

    /// A failed write may have reached any of its sectors; a failed flush has stored nothing.
    fn end_failed(&mut self, flight: &InFlight, rng: &mut Rng) -> Result<Bytes, DiskError> {
        if let Some(mut change) = change_of(&flight.operation)
            && !self.dead
        {
            let torn =
                self.untorn.is_some_and(|block| change.start < block + 8 && block < change.start + change.sectors);
            if !torn {
                let mut after = self.view.clone();
                change.apply_some(&mut after, rng);
                change.bytes = Some(after.read(change.start, change.sectors)).filter(|bytes| !is_zero(bytes));
                self.ended += 1;
                change.number = self.ended;
                change.apply(&mut self.view);
                self.cache.push_back(change);
            }
        }
        let (operation, offset, bytes) = match &flight.operation {
            DiskOperation::Read { offset, bytes, .. } => ("read", *offset, *bytes),
            DiskOperation::Write { offset, payload, .. } => ("write", *offset, payload.len() as u64),
            DiskOperation::Zero { offset, bytes, .. } => ("discard", *offset, *bytes),
            DiskOperation::Flush { .. } => ("flush", 0, 0),
        };
        Err(DiskError { operation, offset, bytes, reason: "Input/output error (simulated)".into() })
    }

    fn change(&mut self, operation: &DiskOperation, fua: bool) {
        let Some(mut change) = change_of(operation) else { return };
        self.ended += 1;
        change.number = self.ended;
        let end = change.start + change.sectors;
        let written: Vec<u64> = self.unreadable.range(change.start..end).copied().collect();
        written.iter().for_each(|sector| {
            self.unreadable.remove(sector);
        });
        change.apply(&mut self.view);
        if fua {
            // Older unstable versions of these sectors must not come back over the stable one.
            let old = std::mem::take(&mut self.cache);
            self.cache = old.into_iter().flat_map(|old| old.without(change.start, end)).collect();
            change.apply(&mut self.stable);
        } else {
            self.cache.push_back(change);
            if self.cache.len() > CACHE_WRITES_MAX
                && let Some(oldest) = self.cache.pop_front()
            {
                oldest.apply(&mut self.stable);
            }
        }
    }

    /// What had ended up to that number is stable.
    pub(crate) fn stabilise(&mut self, up_to: u64) {
        while self.cache.front().is_some_and(|change| change.number <= up_to) {
            if let Some(change) = self.cache.pop_front() {
                change.apply(&mut self.stable);
            }
        }
    }

    /// The power is gone.
    pub(crate) fn lose_power(&mut self, rng: &mut Rng) -> Loss {
        let keep = *rng.pick(&[0, 0, 100, 500, 900, 1000]);
        let mut survivors: Vec<(Change, Fate)> = Vec::new();
        let (mut proven, mut proves) = (0, 0);
        for flight in std::mem::take(&mut self.in_flight).into_values() {
            let Some(change) = change_of(&flight.operation) else { continue };
            let fate = self.fate(&change, keep, rng);
            if fate != Fate::Lost && matches!(flight.operation, DiskOperation::Write { preflush: true, .. }) {
                proven = proven.max(flight.ended_before);
                proves = proves.max(flight.proves());
            }
            survivors.push((change, fate));
        }
        self.stabilise(proven);
        let mut changed = Vec::new();
        let cached: Vec<Change> = self.cache.drain(..).collect();
        for change in cached {
            changed.push((change.start, change.start + change.sectors));
            let fate = self.fate(&change, keep, rng);
            self.suffer(&change, fate, rng);
        }
        for (change, fate) in survivors {
            changed.push((change.start, change.start + change.sectors));
            self.suffer(&change, fate, rng);
        }
        self.view = self.stable.clone();
        Loss { spans: changed, proves }
    }

    fn fate(&self, change: &Change, keep: u64, rng: &mut Rng) -> Fate {
        let whole = self.untorn.is_some_and(|block| change.start < block + 8 && block < change.start + change.sectors);
        match rng.chance(keep) {
            true => Fate::Kept,
            false if !whole && keep > 0 && rng.chance(300) => Fate::Torn,
            false => Fate::Lost,
        }
    }

    fn suffer(&mut self, change: &Change, fate: Fate, rng: &mut Rng) {
        match fate {
            Fate::Kept => change.apply(&mut self.stable),
            Fate::Torn => change.apply_some(&mut self.stable, rng),
            Fate::Lost => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Torn,
    Lost,
}

#[cfg(test)]
mod tests {
    use shimai::replica::action::Area;

    use super::*;

    fn write(value: u8, preflush: bool, fua: bool, offset: u64) -> DiskOperation {
        DiskOperation::Write { area: Area::Data, offset, payload: Bytes::from(vec![value; 4096]), preflush, fua }
    }

    fn run(disk: &mut Disk, operation: DiskOperation, rng: &mut Rng) {
        let number = disk.begin(1, Ticket(1), operation, false, 0, rng).expect("legal");
        assert!(disk.end(number, rng).is_some_and(|ended| ended.result.is_ok()));
    }

    #[test]
    fn flushed_and_forced_writes_survive_and_others_sometimes_do_not() {
        let (mut lost, mut torn) = (0, 0);
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut disk = Disk::new(1 << 20);
            run(&mut disk, write(1, false, false, 0), &mut rng);
            run(&mut disk, DiskOperation::Flush { area: Area::Data }, &mut rng);
            run(&mut disk, write(2, false, true, 8192), &mut rng);
            run(&mut disk, write(3, false, false, 16384), &mut rng);
            disk.lose_power(&mut rng);
            assert_eq!(disk.view.read(0, 1)[0], 1);
            assert_eq!(disk.view.read(16, 1)[0], 2);
            let third = disk.view.read(32, 8);
            lost += u32::from(third.iter().all(|&byte| byte == 0));
            torn += u32::from(third.contains(&0) && third.contains(&3));
        }
        assert!(lost > 50 && torn > 5, "lost {lost}, torn {torn}");
    }

    #[test]
    fn a_surviving_write_with_preflush_proves_the_flush() {
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let mut disk = Disk::new(1 << 20);
            run(&mut disk, write(1, false, false, 0), &mut rng);
            disk.begin(1, Ticket(2), write(2, true, true, 8192), false, 0, &mut rng).expect("legal");
            disk.lose_power(&mut rng);
            let survived = disk.view.read(16, 8).contains(&2);
            assert!(!survived || disk.view.read(0, 8).iter().all(|&byte| byte == 1));
        }
    }

    #[test]
    fn overlapping_writes_are_refused() {
        let mut rng = Rng::new(1);
        let mut disk = Disk::new(1 << 20);
        disk.begin(1, Ticket(1), write(1, false, false, 0), false, 0, &mut rng).expect("the first");
        assert!(disk.begin(1, Ticket(2), write(1, false, false, 2048), false, 0, &mut rng).is_err());
        let read = DiskOperation::Read { area: Area::Data, offset: 0, bytes: 512 };
        assert!(disk.begin(1, Ticket(3), read, false, 0, &mut rng).is_ok(), "a reader races at its own risk");
    }
}
