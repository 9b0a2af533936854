//! The state of one volume towards one peer, and what changes of it are allowed.
//!
//! A change touches several states at once (role, disks, connection), so it is a transaction: copy, change, *sanitize*
//! (implicit corrections), *validate* (static rules, then transition rules), commit. Rules and numbers are DRBD 8.4's
//! (drbd-semantics, "Static validity", "Transition rules", "Implicit corrections").
//!
//! Not here: what follows from a change (`effects`), who must be asked (`command`).

use super::settings::Fencing;
use crate::control::refusal::StateRefusal;
use crate::model::state::{ConnectionState, DiskState, Role, StateWord};

/// DRBD's state of one volume towards one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) role: Role,
    pub(super) peer: Role,
    pub(super) conn: ConnectionState,
    pub(super) disk: DiskState,
    pub(super) pdsk: DiskState,
    /// Resync paused here by the operator.
    pub(super) user_isp: bool,
    /// Resync paused by the peer.
    pub(super) peer_isp: bool,
    /// I/O frozen by the operator.
    pub(super) susp: bool,
    /// I/O frozen for want of data.
    pub(super) susp_nod: bool,
    /// I/O frozen until it is known that the peer is not in use.
    pub(super) susp_fen: bool,
}

/// What the rules depend on besides the states.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) allow_two_primaries: bool,
    pub(super) openers: u32,
    pub(super) suspend_without_data: bool,
    /// The policy, while there is a disk here.
    pub(super) fencing: Fencing,
    /// Another volume of the resource sees the peer as Primary.
    pub(super) other_volume_peer_primary: bool,
}

/// Whose change it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Something happened; it cannot be refused.
    Fact,
    /// Somebody asks; the rules may refuse.
    Wish,
}

impl View {
    /// The word as sent.
    pub(super) fn word(self) -> StateWord {
        StateWord::default()
            .with_role(self.role.number())
            .with_peer(self.peer.number())
            .with_conn(self.conn.number())
            .with_disk(sent(self.disk).number())
            .with_pdsk(self.pdsk.number())
            .with_susp(self.susp.into())
            .with_peer_isp(self.peer_isp.into())
            .with_user_isp(self.user_isp.into())
            .with_susp_nod(self.susp_nod.into())
            .with_susp_fen(self.susp_fen.into())
    }

    /// Whether writes of an application go to the peer as data.
    pub(super) fn replicates(self) -> bool {
        self.conn >= ConnectionState::Connected
            && (self.pdsk == DiskState::UpToDate
                || (self.pdsk >= DiskState::Inconsistent
                    && self.pdsk != DiskState::Unknown
                    && (ConnectionState::WfBitMapT..ConnectionState::Ahead).contains(&self.conn)))
    }

    /// Whether writes are announced as out of sync instead of being sent.
    pub(super) fn announces_out_of_sync(self) -> bool {
        matches!(self.conn, ConnectionState::WfBitMapS | ConnectionState::Ahead)
    }
}

/// A disk that is being attached is none yet.
fn sent(disk: DiskState) -> DiskState {
    if disk == DiskState::Attaching { DiskState::Diskless } else { disk }
}

/// The new state, or DRBD's reason why not.
pub(super) fn transition(old: View, wanted: View, rules: Rules, origin: Origin) -> Result<View, StateRefusal> {
    let new = sanitize(old, wanted, rules);
    if new == old {
        return Ok(new);
    }
    if origin == Origin::Wish {
        if let Some(refusal) = static_refusal(new, rules) {
            // A state that was already bad in the same way may move.
            if static_refusal(old, rules) != Some(refusal) {
                return Err(refusal);
            }
        }
        if let Some(refusal) = soft_refusal(old, new) {
            return Err(refusal);
        }
    }
    hard_refusal(old, new).map_or(Ok(new), Err)
}

/// Implicit corrections, applied to every new state.
fn sanitize(old: View, mut new: View, rules: Rules) -> View {
    use ConnectionState as C;
    use DiskState as D;
    if new.conn < C::Connected {
        new.peer_isp = false;
        new.peer = Role::Unknown;
        if new.pdsk > D::Unknown || new.pdsk < D::Inconsistent {
            new.pdsk = D::Unknown;
        }
    }
    if new.conn > C::Connected && (new.disk <= D::Failed || new.pdsk <= D::Failed) {
        new.conn = C::Connected;
    }
    if matches!(new.conn, C::VerifyS | C::VerifyT) && (new.disk != D::UpToDate || new.pdsk != D::UpToDate) {
        // Old data is compared with nothing; and it must not become current by being compared, as it would in DRBD.
        new.conn = C::Connected;
    }
    if new.conn >= C::Connected && new.conn < C::Ahead {
        // Two that need no sync are both current. A target whose sync was aborted before it began needs one, and an old disk
        // that meets a node without one has been compared with nothing: nobody has decided anything about its data.
        let undecided = |old_disk, new_disk, other| {
            (old.conn >= C::Connected && old_disk == new_disk) || (new_disk == D::Outdated && other < D::Negotiating)
        };
        let [disk, pdsk] = [new.disk, new.pdsk];
        let vague = |disk| matches!(disk, D::Consistent | D::Outdated);
        if vague(disk) && new.conn != C::WfBitMapT && !undecided(old.disk, disk, pdsk) {
            new.disk = D::UpToDate;
        }
        if vague(pdsk) && new.conn != C::WfBitMapS && !undecided(old.pdsk, pdsk, disk) {
            new.pdsk = D::UpToDate;
        }
    }
    new = pause(new);
    if let Some((disk, pdsk)) = bounds(new.conn) {
        new.disk = new.disk.clamp(disk.0, disk.1);
        new.pdsk = new.pdsk.clamp(pdsk.0, pdsk.1);
    }
    let lost_data = new.disk < D::UpToDate && new.pdsk < D::UpToDate;
    let had_data = old.role != Role::Primary || old.disk == D::UpToDate || old.pdsk == D::UpToDate;
    if rules.suspend_without_data && new.role == Role::Primary && lost_data && had_data {
        new.susp_nod = true;
    }
    let lost_peer = |view: View| view.role == Role::Primary && view.conn < C::Connected && view.pdsk > D::Outdated;
    if rules.fencing == Fencing::ResourceAndStonith && lost_peer(new) && !lost_peer(old) {
        new.susp_fen = true;
    }
    new
}

/// SyncX and PausedSyncX follow the pause flags.
fn pause(mut new: View) -> View {
    use ConnectionState as C;
    let held = new.user_isp || new.peer_isp;
    new.conn = match (new.conn, held) {
        (C::SyncSource, true) => C::PausedSyncS,
        (C::SyncTarget, true) => C::PausedSyncT,
        (C::PausedSyncS, false) => C::SyncSource,
        (C::PausedSyncT, false) => C::SyncTarget,
        (conn, _) => conn,
    };
    new
}

type Range = (DiskState, DiskState);

/// Which disk states a connection state allows: ours, the peer's.
fn bounds(conn: ConnectionState) -> Option<(Range, Range)> {
    use ConnectionState as C;
    use DiskState as D;
    const CURRENT: Range = (D::UpToDate, D::UpToDate);
    Some(match conn {
        C::WfBitMapT | C::PausedSyncT | C::StartingSyncT | C::WfSyncUuid | C::Behind => {
            ((D::Inconsistent, D::Outdated), CURRENT)
        }
        C::SyncTarget => ((D::Inconsistent, D::Inconsistent), CURRENT),
        C::WfBitMapS | C::PausedSyncS | C::StartingSyncS | C::Ahead => (CURRENT, (D::Inconsistent, D::Consistent)),
        C::SyncSource => (CURRENT, (D::Inconsistent, D::Inconsistent)),
        _ => return None,
    })
}

/// Static validity, first hit wins.
fn static_refusal(new: View, rules: Rules) -> Option<StateRefusal> {
    use ConnectionState as C;
    use DiskState as D;
    use StateRefusal as R;
    let primary = new.role == Role::Primary;
    let syncing = new.conn > C::Connected;
    let source = matches!(new.conn, C::Connected | C::WfBitMapS | C::SyncSource | C::PausedSyncS);
    let starting = matches!(new.conn, C::StartingSyncS | C::StartingSyncT);
    let fences = rules.fencing != Fencing::DontCare;
    let rows = [
        (primary && new.peer == Role::Primary && !rules.allow_two_primaries, R::TwoPrimaries),
        (primary && rules.other_volume_peer_primary && !rules.allow_two_primaries, R::OtherVolumePeerPrimary),
        (new.role == Role::Secondary && rules.openers > 0, R::DeviceInUse),
        (primary && new.conn < C::Connected && new.disk < D::UpToDate, R::NoUpToDateDisk),
        (fences && primary && new.conn < C::Connected && new.pdsk >= D::Unknown, R::PrimaryNop),
        (primary && new.disk <= D::Inconsistent && new.pdsk <= D::Inconsistent, R::NoUpToDateDisk),
        (syncing && new.disk < D::Inconsistent, R::NoLocalDisk),
        (syncing && new.pdsk < D::Inconsistent, R::NoRemoteDisk),
        (syncing && new.disk < D::UpToDate && new.pdsk < D::UpToDate, R::NoUpToDateDisk),
        (source && new.disk == D::Outdated && new.pdsk >= D::Negotiating, R::ConnectedOutdates),
        (primary && new.disk < D::UpToDate && new.pdsk < D::UpToDate, R::NoUpToDateDisk),
        (starting && new.pdsk == D::Unknown, R::NeedConnection),
        (new.conn >= C::Connected && new.pdsk == D::Unknown, R::ConnectedOutdates),
    ];
    rows.into_iter().find(|(broken, _)| *broken).map(|(_, refusal)| refusal)
}

/// Transition rules for wishes; the last row that matches decides.
fn soft_refusal(old: View, new: View) -> Option<StateRefusal> {
    use ConnectionState as C;
    use DiskState as D;
    use StateRefusal as R;
    let to = |conn: C| new.conn == conn && old.conn != conn;
    let starting = to(C::StartingSyncS) || to(C::StartingSyncT);
    let verifying = to(C::VerifyS) || to(C::VerifyT);
    let promoting = new.role == Role::Primary && old.role != Role::Primary;
    let half_synced = new.pdsk == D::UpToDate && new.disk != D::UpToDate && new.disk != D::Diskless;
    let rows = [
        (starting && old.conn > C::Connected, R::ResyncRunning),
        (new.conn == C::Disconnecting && old.conn == C::StandAlone, R::AlreadyStandAlone),
        (to(C::Disconnecting) && old.conn == C::Unconnected, R::InTransientState),
        (new.disk > D::Attaching && old.disk == D::Diskless, R::IsDiskless),
        (to(C::WfConnection) && old.conn < C::Unconnected, R::NoNetConfig),
        (new.disk == D::Outdated && old.disk < D::Outdated && old.disk != D::Attaching, R::LowerThanOutdated),
        (promoting && half_synced && new.conn >= C::Connected && new.conn <= C::WfSyncUuid, R::InTransientState),
        (verifying && old.conn < C::Connected, R::NeedConnection),
        (verifying && old.conn > C::Connected, R::ResyncRunning),
        (starting && old.conn < C::Connected, R::NeedConnection),
    ];
    rows.into_iter().rev().find(|(broken, _)| *broken).map(|(_, refusal)| refusal)
}

/// Transition rules that bind facts too.
fn hard_refusal(old: View, new: View) -> Option<StateRefusal> {
    use ConnectionState as C;
    use StateRefusal as R;
    if old.conn == new.conn {
        return None;
    }
    let rows = [
        (old.conn == C::StandAlone && new.conn == C::Disconnecting, R::AlreadyStandAlone),
        (old.conn == C::StandAlone && new.conn != C::Unconnected, R::NeedConnection),
        (old.conn < C::WfReportParams && new.conn >= C::Connected, R::NeedConnection),
        (old.conn == C::Disconnecting && new.conn != C::StandAlone, R::InTransientState),
    ];
    rows.into_iter().find(|(broken, _)| *broken).map(|(_, refusal)| refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        allow_two_primaries: false,
        openers: 0,
        suspend_without_data: false,
        fencing: Fencing::DontCare,
        other_volume_peer_primary: false,
    };

    fn connected() -> View {
        View {
            role: Role::Secondary,
            peer: Role::Secondary,
            conn: ConnectionState::Connected,
            disk: DiskState::UpToDate,
            pdsk: DiskState::UpToDate,
            user_isp: false,
            peer_isp: false,
            susp: false,
            susp_nod: false,
            susp_fen: false,
        }
    }

    fn wish(old: View, new: View) -> Result<View, StateRefusal> {
        transition(old, new, RULES, Origin::Wish)
    }

    #[test]
    fn promotion_is_refused_where_the_rules_say_so() {
        let old = connected();
        let primary = View { role: Role::Primary, ..old };
        assert_eq!(wish(old, primary).map(|v| v.role), Ok(Role::Primary));
        let other = View { peer: Role::Primary, ..old };
        assert_eq!(wish(other, View { role: Role::Primary, ..other }), Err(StateRefusal::TwoPrimaries));
        let fresh = View { disk: DiskState::Inconsistent, pdsk: DiskState::Inconsistent, ..old };
        assert_eq!(wish(fresh, View { role: Role::Primary, ..fresh }), Err(StateRefusal::NoUpToDateDisk));
        let alone = View { conn: ConnectionState::WfConnection, disk: DiskState::Consistent, ..old };
        assert_eq!(wish(alone, View { role: Role::Primary, ..alone }), Err(StateRefusal::NoUpToDateDisk));
    }

    #[test]
    fn demotion_is_refused_while_the_device_is_open() {
        let old = View { role: Role::Primary, ..connected() };
        let rules = Rules { openers: 1, ..RULES };
        let new = View { role: Role::Secondary, ..old };
        assert_eq!(transition(old, new, rules, Origin::Wish), Err(StateRefusal::DeviceInUse));
    }

    #[test]
    fn losing_the_link_forgets_what_cannot_be_known() {
        let new = View { conn: ConnectionState::NetworkFailure, ..connected() };
        let new = transition(connected(), new, RULES, Origin::Fact).unwrap();
        assert_eq!((new.peer, new.pdsk), (Role::Unknown, DiskState::Unknown));
        let target = View { conn: ConnectionState::SyncSource, pdsk: DiskState::Inconsistent, ..connected() };
        let new = transition(target, View { conn: ConnectionState::Timeout, ..target }, RULES, Origin::Fact).unwrap();
        assert_eq!(new.pdsk, DiskState::Inconsistent, "what is known to be bad is remembered");
    }

    #[test]
    fn an_old_disk_does_not_become_current_by_meeting_a_node_without_one() {
        let alone = View { conn: ConnectionState::WfReportParams, disk: DiskState::Outdated, ..connected() };
        let met = View { conn: ConnectionState::Connected, pdsk: DiskState::Diskless, ..alone };
        assert_eq!(wish(alone, met).map(|view| view.disk), Ok(DiskState::Outdated));
        let mirror = View { disk: DiskState::Diskless, pdsk: DiskState::Outdated, ..met };
        assert_eq!(transition(alone, mirror, RULES, Origin::Fact).map(|view| view.pdsk), Ok(DiskState::Outdated));
        let compared = View { pdsk: DiskState::UpToDate, ..met };
        assert_eq!(wish(alone, compared).map(|view| view.disk), Ok(DiskState::UpToDate));
    }

    #[test]
    fn a_verify_is_one_of_two_current_disks_and_of_nothing_else() {
        use ConnectionState::{Connected, SyncSource, VerifyS, VerifyT, WfConnection};
        let old = connected();
        let verifying = View { conn: VerifyS, ..old };
        assert_eq!(wish(old, verifying).map(|view| view.conn), Ok(VerifyS));
        for (conn, refusal) in [
            (WfConnection, StateRefusal::NeedConnection),
            (SyncSource, StateRefusal::ResyncRunning),
            (VerifyT, StateRefusal::ResyncRunning),
        ] {
            assert_eq!(wish(View { conn, ..old }, verifying), Err(refusal), "{conn}");
        }
        for conn in [VerifyS, VerifyT] {
            let during = View { conn, ..old };
            let ours = View { disk: DiskState::Inconsistent, ..during };
            let theirs = View { pdsk: DiskState::Inconsistent, ..during };
            for worse in [ours, theirs] {
                let stopped = View { conn: Connected, ..worse };
                assert_eq!(transition(during, worse, RULES, Origin::Fact), Ok(stopped));
            }
        }
    }

    #[test]
    fn a_pause_flag_pauses_and_lets_go() {
        let source = View { conn: ConnectionState::SyncSource, pdsk: DiskState::Inconsistent, ..connected() };
        let paused = transition(source, View { user_isp: true, ..source }, RULES, Origin::Fact).unwrap();
        assert_eq!(paused.conn, ConnectionState::PausedSyncS);
        let going = transition(paused, View { user_isp: false, ..paused }, RULES, Origin::Fact).unwrap();
        assert_eq!(going.conn, ConnectionState::SyncSource);
    }
}
