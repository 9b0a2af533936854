//! What each event does to the identifiers of a disk.
//!
//! ```text
//!                current      bitmap        history
//! in step        G1           -             ...
//! peer lost      G2 (new)     G1            ...              our bitmap counts from G1 on
//! resync, source G2           S             G1 ...           S = G1 + 2^48, or random
//! resync, target S            -             ...
//! resync done    G2           -             S G1 ...         on both sides
//! ```
//!
//! The events are those of DRBD 8.4 on either format of metadata; `peer` is the index of the peer's entry (v08: 0, v09:
//! its node id). On v09 the entries of other nodes join in where their bitmap would otherwise count from a generation
//! that nobody can name any more.
//!
//! Invariant: after every event the bits of a slot cover all changes since the generation in its entry. The caller
//! writes the set to disk, with flush, before anything that relies on it.

use super::tuple::Tuple;
use crate::model::generation_id::{GenerationId, GenerationSet};
use crate::model::ids::NodeId;

/// How a metadata format keeps identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryRules {
    /// One peer, two history entries.
    V08,
    /// An entry per node id, 32 history entries without duplicates.
    V09 {
        /// Our node id: its entry is never used.
        own: NodeId,
        /// Other nodes whose disks get what we write while the event happens, a bit per node id.
        in_step: u32,
    },
}

/// The set as one peer sees it. Flags and the number of changed blocks are left for the caller to fill in.
#[must_use]
pub fn tuple_of(set: &GenerationSet, peer: usize) -> Tuple {
    Tuple {
        current: set.current,
        bitmap: set.bitmap[peer],
        history: [set.history[0], set.history[1]],
        ..Tuple::default()
    }
}

/// Remembers `id` as the youngest entry of the history; "none" is not remembered.
///
/// v09 keeps no duplicates (an entry that is already there moves to the front, where the rules about lost packets look
/// for it), no Primary flags, and neither "just created" nor the current generation. Unlike DRBD 9 itself an id is kept
/// even if the entry of another node holds it: a peer that speaks this protocol is not shown those entries.
pub fn push(set: &mut GenerationSet, id: GenerationId, rules: HistoryRules) {
    if id.is_none() {
        return;
    }
    match rules {
        HistoryRules::V08 => push_unchecked(&mut set.history[..2], id),
        HistoryRules::V09 { .. } if id.is_just_created() || id.same_as(set.current) => {}
        HistoryRules::V09 { .. } => {
            let end = set.history.iter().position(|known| known.same_as(id)).unwrap_or(set.history.len() - 1);
            push_unchecked(&mut set.history[..=end], id.with_primary_flag(false));
        }
    }
}

/// Puts `id` in front; the oldest entry falls off.
pub(super) fn push_unchecked(history: &mut [GenerationId], id: GenerationId) {
    history.rotate_right(1);
    if let Some(first) = history.first_mut() {
        *first = id;
    }
}

/// Data is about to change without `peer` getting the changes: a new current generation, generated from `random`, and
/// the bitmap for that peer counts from the old one.
///
/// If the entry already names an older generation it stays, because the bits count from there; the generation that ends
/// here is then remembered in the history. (DRBD 8.4 overwrites it, which only a forced promotion can bring about, and
/// thereby forgets what its bitmap means.)
pub fn new_current(set: &mut GenerationSet, peer: usize, random: u64, primary: bool, rules: HistoryRules) {
    let ended = set.current;
    let parent = match rules {
        _ if !ended.is_just_created() && !ended.is_none() => ended,
        HistoryRules::V08 => GenerationId::JUST_CREATED,
        HistoryRules::V09 { .. } => fresh(mix(random)),
    };
    set.current = fresh(random).with_primary_flag(primary);
    if set.bitmap[peer].is_none() {
        set.bitmap[peer] = parent;
    } else if !set.bitmap[peer].same_as(ended) {
        push(set, ended.with_primary_flag(false), rules);
    }
    mark_others(set, peer, parent, rules);
}

/// The operator declares a new generation while stand-alone: as [`new_current`], with the old bitmap id retired first.
/// (The bits stay, unless the operator also asks to clear them.)
pub fn new_current_by_admin(set: &mut GenerationSet, peer: usize, random: u64, primary: bool, rules: HistoryRules) {
    retire_bitmap(set, peer, rules);
    new_current(set, peer, random, primary, rules);
}

/// The operator declares two fresh, connected disks equal: a new generation, and nothing to count from. The peer adopts
/// it ([`adopt_skip_initial_sync`]); both clear their bits.
pub fn skip_initial_sync(set: &mut GenerationSet, peer: usize, random: u64, primary: bool, rules: HistoryRules) {
    new_current(set, peer, random, primary, rules);
    set.bitmap[peer] = GenerationId::NONE;
}

/// The peer declared both fresh disks equal: we have its generation.
pub fn adopt_skip_initial_sync(set: &mut GenerationSet, peer: usize, peer_current: GenerationId) {
    set.current = peer_current.with_primary_flag(set.current.primary_flag());
    set.bitmap[peer] = GenerationId::NONE;
}

/// A resync from here to a disk of generation `target` begins: returns its id, which the peer must be sent, after the set
/// is on disk. It is derived from what the bitmap counts from or, where there is no such generation, from the current one,
/// so that the set tells that a resync has been begun: [`resync_may_have_ended`].
///
/// The bits of a resync cover whatever the target lacks, so the bitmap counts from the target's generation if that is one of
/// those we once had. DRBD 8.4 leaves there what was there; a target that never hears of the resync may then not be
/// recognised after the next one.
pub fn resync_started_source(
    set: &mut GenerationSet,
    peer: usize,
    target: GenerationId,
    rules: HistoryRules,
) -> GenerationId {
    // After a split brain that somebody solved the target's is a strange generation: then 8.4's way is kept, so that the
    // question is asked anew if the target never hears.
    let known = set.history[..2].iter().any(|id| id.same_as(target));
    if known && counts_from_another(set.bitmap[peer], set.current, target) {
        retire_bitmap(set, peer, rules);
        set.bitmap[peer] = target.with_primary_flag(false);
    }
    let parent = set.bitmap[peer];
    let sync_id =
        if parent.is_none() || parent.is_just_created() { orphan_sync_id(set.current) } else { derived(parent) };
    push(set, parent, rules);
    set.bitmap[peer] = sync_id;
    sync_id
}

/// Whether a bitmap counts from something else than what the target of a resync has.
fn counts_from_another(bitmap: GenerationId, current: GenerationId, target: GenerationId) -> bool {
    let known = target.is_none() || target.is_just_created() || target.same_as(current);
    !known && !bitmap.same_as(target)
}

/// What the source of a resync under `sync_id` did to its set (`source`) when it began: see [`resync_started_source`].
/// `target` is our generation. A source that does not do it (DRBD 8.4) derives the id from its own entry.
pub fn follow_source_start(source: &mut Tuple, target: GenerationId, sync_id: GenerationId) {
    if counts_from_another(source.bitmap, source.current, target) && sync_id.same_as(derived(target)) {
        push_unchecked(&mut source.history, source.bitmap);
        source.bitmap = target.with_primary_flag(false);
    }
}

/// The id of a resync by a bitmap that counts from `parent`; as in DRBD, which looks for the distance.
fn derived(parent: GenerationId) -> GenerationId {
    GenerationId(parent.masked().wrapping_add(GenerationId::SYNC_OFFSET))
}

/// The id of a resync whose bitmap counts from nothing that has a name. DRBD takes a random one. The distance is one that ids
/// derived from each other do not come to.
fn orphan_sync_id(current: GenerationId) -> GenerationId {
    let id = GenerationId(current.masked().wrapping_add(GenerationId::SYNC_OFFSET << 14));
    if id.is_none() || id.is_just_created() { fresh(id.0) } else { id }
}

/// Whether a resync from here has been begun under the current generation, so that its target may have come to the end and
/// hold that generation too, without our having heard of it.
#[must_use]
pub fn resync_may_have_ended(set: &GenerationSet, peer: usize) -> bool {
    let bitmap = set.bitmap[peer];
    let begun = [derived(set.history[0]), orphan_sync_id(set.current)];
    !bitmap.is_none() && begun.into_iter().any(|id| id.same_as(bitmap))
}

/// A resync to here begins, under the id the peer sent. Our data is a mix from now on, which only this id names.
pub fn resync_started_target(set: &mut GenerationSet, peer: usize, sync_id: GenerationId, rules: HistoryRules) {
    let ended = set.current;
    if !ended.is_just_created() && !ended.is_none() && !ended.same_as(sync_id) {
        mark_others(set, peer, ended, rules);
    }
    set.current = sync_id.with_primary_flag(ended.primary_flag());
    set.bitmap[peer] = GenerationId::NONE;
}

/// The resync from here is over: both sides have our generation.
pub fn resync_finished_source(set: &mut GenerationSet, peer: usize, rules: HistoryRules) {
    retire_bitmap(set, peer, rules);
}

/// The resync to here is over, without failed blocks: we have the source's generation, and its history as of the
/// handshake (`source`, as received there) followed by what the source itself added since.
pub fn resync_finished_target(
    set: &mut GenerationSet,
    peer: usize,
    source: &Tuple,
    primary: bool,
    rules: HistoryRules,
) {
    let sync_id = set.current;
    set.current = source.current.with_primary_flag(primary);
    set.bitmap[peer] = GenerationId::NONE;
    if rules == HistoryRules::V08 {
        set.history[..2].copy_from_slice(&source.history);
    } else {
        push(set, source.history[1], rules);
        push(set, source.history[0], rules);
    }
    push(set, source.bitmap, rules);
    push(set, sync_id, rules);
}

/// This node may write now.
pub fn become_primary(set: &mut GenerationSet) {
    set.current = set.current.with_primary_flag(true);
}

/// This node may not write any more.
pub fn become_secondary(set: &mut GenerationSet) {
    set.current = set.current.with_primary_flag(false);
}

fn retire_bitmap(set: &mut GenerationSet, peer: usize, rules: HistoryRules) {
    let retired = std::mem::take(&mut set.bitmap[peer]);
    push(set, retired, rules);
}

/// v09: whoever else has no entry yet counts from `parent` on. For node ids that are not configured this is "day 0": at
/// the first change every one of them gets the same id, and its bitmap slot, which records every write since, may later
/// be inherited by a new peer.
fn mark_others(set: &mut GenerationSet, peer: usize, parent: GenerationId, rules: HistoryRules) {
    let HistoryRules::V09 { own, in_step } = rules else { return };
    for (index, entry) in set.bitmap.iter_mut().enumerate() {
        let is_concerned = index != peer && index != own.index() && in_step >> index & 1 == 0;
        if is_concerned && entry.is_none() {
            *entry = parent;
        }
    }
}

/// An id from random bits that cannot be taken for "none" or "just created".
fn fresh(random: u64) -> GenerationId {
    let id = GenerationId(random & !1);
    if id.is_none() || id.is_just_created() { GenerationId(mix(random) & !1 | 1 << 63) } else { id }
}

/// A second value from the same random bits, where an event needs two (the mixer of SplitMix64).
fn mix(random: u64) -> u64 {
    let mut bits = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}
