//! The applications: bursts of requests to whichever node is Primary, overlapping on purpose, and what they make of the
//! answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use shimai::model::ids::RequestId;
use shimai::model::state::{DiskState, Role};
use shimai::model::units::{Sector, SectorRange};
use shimai::replica::action::RequestError;
use shimai::replica::event::{Event, Request, RequestKind};

use crate::disk::Span;
use crate::oracle::stamp;
use crate::profile::name;
use crate::world::{Happening, World};

/// A request that has not been answered.
#[derive(Clone, Debug)]
pub(crate) struct Outstanding {
    pub(crate) node: usize,
    pub(crate) life: u32,
    pub(crate) volume: usize,
    pub(crate) asked: Asked,
    /// The oracle's order at submission.
    pub(crate) order: u64,
    /// Power losses (of either host) before.
    pub(crate) losses: u64,
    /// The node was connected to a good peer at submission, in that session.
    pub(crate) session: Option<u64>,
    /// The node's own disk was good at submission.
    pub(crate) own_disk_good: bool,
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// A write, trim or write-zeroes with this id.
    Write {
        id: u64,
        fua: bool,
    },
    /// With the ids that were legal at submission, per sector: on this copy, and on the other.
    Read {
        span: Span,
        legal: Vec<[Vec<u64>; 2]>,
    },
    Flush,
}

/// All applications of a world.
pub(crate) struct Client {
    pub(crate) outstanding: BTreeMap<u64, Outstanding>,
    /// By volume: where it is open (node and life).
    pub(crate) open: Vec<Option<(usize, u32)>>,
    /// Nobody may begin anything (the operator wants to demote).
    pub(crate) paused: bool,
    next: u64,
    pub(crate) answered: u64,
}

impl Client {
    pub(crate) fn new(volumes: usize) -> Self {
        Self { outstanding: BTreeMap::new(), open: vec![None; volumes], paused: false, next: 1, answered: 0 }
    }
}

impl World {
    pub(crate) fn begin_load(&mut self) {
        for volume in 0..self.volumes() {
            self.after(self.profile.load.gap, Happening::Burst { volume });
        }
    }

    /// A node that is up and Primary.
    pub(crate) fn primary(&self) -> Option<usize> {
        (0..2).find(|&node| self.facts(node, 0).is_some_and(|facts| facts.role == Role::Primary))
    }

    pub(crate) fn on_burst(&mut self, volume: usize) {
        if self.healing {
            return;
        }
        let gap = self.profile.load.gap;
        let next = self.rng.client.spread((gap / 4).max(1), gap * 3);
        self.after(next, Happening::Burst { volume });
        let primaries: Vec<usize> =
            (0..2).filter(|&node| self.facts(node, 0).is_some_and(|facts| facts.role == Role::Primary)).collect();
        if primaries.is_empty() || self.client.paused {
            return;
        }
        let node = *self.rng.client.pick(&primaries);
        self.open(node, volume);
        for _ in 0..self.rng.client.within(1, self.profile.load.burst_max) {
            if self.client.outstanding.len() >= self.profile.load.in_flight_max {
                break;
            }
            self.ask_something(node, volume);
        }
    }

    pub(crate) fn open(&mut self, node: usize, volume: usize) {
        let here = (node, self.nodes[node].life);
        if self.client.open[volume] != Some(here) {
            self.close_volume(volume);
            self.client.open[volume] = Some(here);
            self.deliver(node, Event::Openers { volume, openers: 1 });
        }
    }

    pub(crate) fn close_volume(&mut self, volume: usize) {
        if let Some((node, life)) = self.client.open[volume].take()
            && self.nodes[node].life == life
        {
            self.deliver(node, Event::Openers { volume, openers: 0 });
        }
    }

    fn ask_something(&mut self, node: usize, volume: usize) {
        let load = &self.profile.load;
        let (read, flush, trim) = (load.read, load.flush, load.trim);
        let usable = self.layouts[volume].usable_sectors;
        let rng = &mut self.rng.client;
        let sectors = rng.within(1, load.sectors_max);
        let near = match rng.chance(load.sweep) {
            true => load.hot[self.client.next as usize % load.hot.len()],
            false => *rng.pick(&load.hot),
        };
        let start = (near + rng.below(10)).saturating_sub(rng.below(10)).min(usable.saturating_sub(sectors));
        let sectors = sectors.min(usable - start);
        let span = (start, start + sectors);
        let fua = rng.chance(load.fua);
        if rng.chance(read) {
            self.read(node, volume, span);
        } else if rng.chance(flush) {
            self.flush(node, volume);
        } else if rng.chance(trim) {
            let unmap = rng.coin();
            self.zero(node, volume, span, fua, unmap);
        } else {
            self.write(node, volume, span, fua);
        }
    }

    pub(crate) fn write(&mut self, node: usize, volume: usize, span: Span, fua: bool) -> u64 {
        let payload = stamp(self.oracle.next_id(), span.0, span.1 - span.0);
        let id = self.oracle.submit(volume, span, false);
        self.ask(node, volume, Asked::Write { id, fua }, RequestKind::Write { start: Sector(span.0), payload, fua });
        id
    }

    pub(crate) fn zero(&mut self, node: usize, volume: usize, span: Span, fua: bool, trim: bool) {
        let id = self.oracle.submit(volume, span, true);
        let range = SectorRange { start: Sector(span.0), sectors: span.1 - span.0 };
        let kind = match trim {
            true => RequestKind::Trim { range, fua },
            false => RequestKind::WriteZeroes { range, may_unmap: self.rng.client.coin(), fua },
        };
        self.ask(node, volume, Asked::Write { id, fua }, kind);
    }

    pub(crate) fn read(&mut self, node: usize, volume: usize, span: Span) {
        let legal = (span.0..span.1)
            .map(|sector| {
                [self.oracle.legal(volume, node, sector), self.oracle.legal_for(node, volume, 1 - node, sector)]
            })
            .collect();
        let range = SectorRange { start: Sector(span.0), sectors: span.1 - span.0 };
        self.ask(node, volume, Asked::Read { span, legal }, RequestKind::Read(range));
    }

    pub(crate) fn flush(&mut self, node: usize, volume: usize) {
        self.ask(node, volume, Asked::Flush, RequestKind::Flush);
    }

    fn ask(&mut self, node: usize, volume: usize, asked: Asked, kind: RequestKind) {
        let id = self.client.next;
        self.client.next += 1;
        self.note(|| format!("{}: request {id} volume {volume}: {}", name(node), brief(&asked, &kind)));
        let facts = self.facts(node, volume);
        let good = facts.is_some_and(|facts| facts.is_in_sync());
        let outstanding = Outstanding {
            node,
            life: self.nodes[node].life,
            volume,
            asked,
            order: self.oracle.order,
            losses: self.watch.losses,
            session: good.then_some(self.watch.sessions),
            own_disk_good: facts.is_some_and(|facts| facts.disk == DiskState::UpToDate),
        };
        self.client.outstanding.insert(id, outstanding);
        self.deliver(node, Event::Request(Request { id: RequestId(id), volume, kind }));
    }

    pub(crate) fn on_reply(&mut self, node: usize, id: RequestId, result: Result<Vec<Bytes>, RequestError>) {
        self.note(|| format!("{}: reply {} {:?}", name(node), id.0, result.as_ref().map(|parts| parts.len())));
        let Some(outstanding) = self.client.outstanding.remove(&id.0) else {
            self.fail("R1", format!("{} answers request {} that nobody waits for", name(node), id.0));
            return;
        };
        if outstanding.node != node || outstanding.life != self.nodes[node].life {
            self.fail("R1", format!("{} answers request {} of another process", name(node), id.0));
            return;
        }
        self.client.answered += 1;
        match result {
            Ok(parts) => self.check_reply(id.0, &outstanding, &parts),
            Err(error) => {
                self.count(&format!("error replies: {error:?}"));
                if let Asked::Write { id, .. } = outstanding.asked {
                    self.oracle.end_in_doubt(id);
                }
                self.check_error_reply(&outstanding, error);
            }
        }
    }

    /// The process is gone, and with it whoever waited for it.
    pub(crate) fn abandon_requests(&mut self, node: usize) {
        let lost: Vec<u64> =
            self.client.outstanding.iter().filter(|(_, request)| request.node == node).map(|(&id, _)| id).collect();
        for id in lost {
            if let Some(Asked::Write { id, .. }) = self.client.outstanding.remove(&id).map(|request| request.asked) {
                self.oracle.end_in_doubt(id);
            }
        }
        for open in &mut self.client.open {
            *open = open.filter(|(on, _)| *on != node);
        }
    }

    /// Whether an unanswered write touches the block.
    pub(crate) fn is_being_written(&self, volume: usize, block: u64) -> bool {
        let (from, to) = (block * 8, block * 8 + 8);
        self.client.outstanding.values().any(|request| match request.asked {
            Asked::Write { id, .. } if request.volume == volume => {
                self.oracle.record(id).is_some_and(|record| record.span.0 < to && from < record.span.1)
            }
            _ => false,
        })
    }
}

fn brief(asked: &Asked, kind: &RequestKind) -> String {
    match (asked, kind) {
        (Asked::Read { span, .. }, _) => format!("read {} +{}", span.0, span.1 - span.0),
        (Asked::Flush, _) => "flush".into(),
        (Asked::Write { id, fua }, RequestKind::Write { start, payload, .. }) => {
            format!("write w{id} {} +{} fua {fua}", start.0, payload.len() / 512)
        }
        (Asked::Write { id, fua }, RequestKind::Trim { range, .. } | RequestKind::WriteZeroes { range, .. }) => {
            format!("zero w{id} {range} fua {fua}")
        }
        (Asked::Write { id, .. }, _) => format!("w{id}"),
    }
}
