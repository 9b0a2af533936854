//! What operators ask for: one function a verb, and the commands that wait for something.

use super::Resource;
use super::action::Action;
use super::event::Command;
use super::link::Connection;
use super::metadata_writer::Then;
use super::promotion::Promotion;
use super::refusal::Refusal;
use super::settings::Fencing;
use super::state::{Origin, View};
use super::state_request::{Agreement, Leaving};
use super::verify::Part;
use crate::control::refusal::{ConfigurationRefusal, StateRefusal};
use crate::generation;
use crate::model::ids::CommandId;
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::wire::packet::UuidFlags;

/// Commands that have not been answered.
#[derive(Debug, Default)]
pub(super) struct Commands {
    pub(super) promotion: Option<Promotion>,
    pub(super) rejudge_promotion: bool,
    /// Waits until nothing is under way.
    pub(super) demotion: Option<CommandId>,
    /// Demoted; superblocks that are not durable yet.
    pub(super) demoted: Option<(CommandId, usize)>,
    detaching: Vec<(usize, CommandId)>,
    wait_connect: Vec<CommandId>,
    wait_sync: Vec<(usize, CommandId)>,
    down: Option<CommandId>,
    /// A Primary with a fencing policy has been asked to let us go.
    parting_asked: bool,
    /// Connections to leave at the end of this event.
    pub(super) disconnect_now: Vec<usize>,
}

impl Commands {
    /// Nobody waits for this answer any more.
    pub(super) fn give_up(&mut self, id: CommandId) {
        self.wait_connect.retain(|waiting| *waiting != id);
        self.wait_sync.retain(|(_, waiting)| *waiting != id);
        if self.demotion == Some(id) {
            self.demotion = None;
        }
        if let Some(promotion) = self.promotion.as_mut().filter(|promotion| promotion.id() == id) {
            promotion.give_up();
        }
    }

    /// Whether the detach still waits. When a disk goes by itself the detach is answered, and what is attached next is not
    /// the disk it was about.
    pub(super) fn is_detaching(&self, id: CommandId) -> bool {
        self.detaching.iter().any(|(_, waiting)| *waiting == id)
    }

    /// True if it was still waiting for its answer.
    pub(super) fn forget_detach(&mut self, id: CommandId) -> bool {
        let before = self.detaching.len();
        self.detaching.retain(|(_, waiting)| *waiting != id);
        self.detaching.len() < before
    }
}

impl Resource {
    pub(super) fn answer(&mut self, id: CommandId, result: Result<(), Refusal>) {
        self.actions.push(Action::Answer { id, result });
    }

    pub(super) fn on_command(&mut self, id: CommandId, command: Command) {
        let result = match command {
            Command::Attach { volume, facts } => return self.begin_attach(id, volume, facts),
            Command::Detach { volume, force } => return self.detach(id, volume, force),
            Command::Connect { discard_my_data } => self.connect(discard_my_data),
            Command::Disconnect { force } => return self.disconnect(id, force),
            Command::Primary { force } => return self.begin_promotion(id, force),
            Command::Secondary => return self.begin_demotion(id),
            Command::Invalidate { volume } => return self.invalidate(id, volume, false),
            Command::InvalidateRemote { volume } => return self.invalidate(id, volume, true),
            Command::Verify { volume, start, stop } => return self.verify(id, volume, Part { start, stop }),
            Command::Outdate { volume } => return self.outdate(id, volume),
            Command::PauseSync { volume } => self.set_pause(volume, true),
            Command::ResumeSync { volume } => self.set_pause(volume, false),
            Command::SuspendIo => self.set_suspended(true),
            Command::ResumeIo => self.set_suspended(false),
            Command::NewCurrentUuid { volume, clear_bitmap } => return self.new_current_uuid(id, volume, clear_bitmap),
            Command::WaitConnect => return self.commands.wait_connect.push(id),
            Command::WaitSync { volume } => return self.commands.wait_sync.push((volume, id)),
            Command::Down => return self.begin_down(id),
            Command::Adjust { peers, volumes, handlers } => {
                self.settings.handlers = handlers;
                self.adjust(peers, volumes);
                Ok(())
            }
        };
        self.answer(id, result);
    }

    fn connect(&mut self, discard_my_data: bool) -> Result<(), Refusal> {
        if self.peers.is_empty() {
            return Err(StateRefusal::NoNetConfig.into());
        }
        if discard_my_data && self.role == Role::Primary {
            let refusal = Refusal::configuration(
                ConfigurationRefusal::DiscardWhilePrimary,
                "a Primary cannot discard its data: it is in use",
            );
            return Err(refusal.next(format!("secondary {}", self.settings.name)));
        }
        let idle: Vec<usize> =
            (0..self.peers.len()).filter(|peer| matches!(self.peers[*peer].connection, Connection::Off)).collect();
        if idle.is_empty() {
            return Err(Refusal::configuration(
                ConfigurationRefusal::AlreadyConnected,
                format!("{} is connected, or looking for its peer, already", self.settings.name),
            ));
        }
        for peer in idle {
            self.peers[peer].discard_my_data = discard_my_data;
            self.peers[peer].reason = None;
            self.start_connecting(peer, std::time::Duration::ZERO);
        }
        Ok(())
    }

    fn disconnect(&mut self, id: CommandId, force: bool) {
        let mut asked = false;
        for peer in 0..self.peers.len() {
            let connected =
                (0..self.volumes.len()).any(|volume| self.view(volume, peer).conn >= ConnectionState::Connected);
            if connected && !force && !asked {
                if let Some(refusal) = self.refuse_to_disconnect(peer) {
                    return self.answer(id, Err(refusal));
                }
                asked = true;
                let how = if self.outdates_on_leaving(peer) { Leaving::OutdatesPeer } else { Leaving::Plain };
                self.ask_to_leave(peer, how, id);
            } else if self.peers[peer].conn != ConnectionState::StandAlone {
                self.leave(peer);
            }
        }
        if !asked {
            self.answer(id, Ok(()));
        }
    }

    /// Whether the peer's disk must be old when we leave: a Primary with a fencing policy does not go on alone otherwise.
    fn outdates_on_leaving(&self, peer: usize) -> bool {
        self.role == Role::Primary && self.peers[peer].settings.fencing != Fencing::DontCare
    }

    /// A Primary that needs the peer's data keeps the peer.
    fn refuse_to_disconnect(&self, peer: usize) -> Option<Refusal> {
        (0..self.volumes.len()).find_map(|volume| {
            let view = self.view(volume, peer);
            let pdsk = if self.outdates_on_leaving(peer) { view.pdsk.min(DiskState::Outdated) } else { view.pdsk };
            let wanted = View { conn: ConnectionState::Disconnecting, pdsk, ..view };
            let code = super::state::transition(view, wanted, self.rules(volume), Origin::Wish).err()?;
            let number = self.volumes[volume].settings.number;
            let sentence = format!("{}; volume {number} is {} here", code.text(), view.disk);
            let name = &self.settings.name;
            let next = match view.disk {
                DiskState::Diskless => format!("attach {name}/{number}"),
                _ if view.conn > ConnectionState::Connected => format!("wait-sync {name}"),
                _ => format!("why {name}"),
            };
            Some(Refusal::state(code, sentence).next(next))
        })
    }

    fn leave(&mut self, peer: usize) {
        self.end_link(peer, ConnectionState::Disconnecting);
        self.peers[peer].reason = Some("disconnected by the operator".into());
    }

    pub(super) fn detach(&mut self, id: CommandId, volume: usize, force: bool) {
        if let Err(refusal) = self.refuse_without_disk(volume) {
            return self.answer(id, Err(refusal));
        }
        if !force && self.volumes[volume].attach.is_some() {
            let refusal = Refusal::state(StateRefusal::InTransientState, "the disk is being attached; try again");
            return self.answer(id, Err(refusal));
        }
        if !force && (0..self.peers.len()).any(|peer| self.is_shaking_hands(peer)) {
            let sentence = "the nodes are comparing what they have; try again";
            return self.answer(id, Err(Refusal::state(StateRefusal::InTransientState, sentence)));
        }
        self.commands.detaching.push((volume, id));
        if force {
            return self.fail_disk(volume);
        }
        for peer in 0..self.peers.len() {
            let view = self.view(volume, peer);
            let wanted = View { disk: DiskState::Failed, ..view };
            let judged = super::state::transition(view, wanted, self.rules(volume), Origin::Wish);
            if let Err(code) = judged {
                self.commands.forget_detach(id);
                let sentence = format!("{}: this is the only good copy that is in use", code.text());
                let refusal = Refusal::state(code, sentence).next(format!("secondary {}", self.settings.name));
                return self.answer(id, Err(refusal));
            }
            if view.conn >= ConnectionState::Connected {
                return self.ask_to_detach(volume, peer, id);
            }
        }
        self.begin_close(volume);
    }

    fn invalidate(&mut self, id: CommandId, volume: usize, remote: bool) {
        let Some(peer) = (0..self.peers.len()).next() else {
            return self.answer(id, Err(StateRefusal::NoNetConfig.into()));
        };
        let view = self.view(volume, peer);
        let conn = if remote { ConnectionState::StartingSyncS } else { ConnectionState::StartingSyncT };
        let wanted = View { conn, ..view };
        if view.conn < ConnectionState::Connected {
            return self.invalidate_alone(id, volume, peer, remote);
        }
        let missing = super::state_request::refusal_of_full_sync(view, conn);
        let judged = super::state::transition(view, wanted, self.rules(volume), Origin::Wish).err();
        if let Some(code) = missing.or(judged) {
            let (number, name) = (self.volumes[volume].settings.number, &self.peers[peer].settings.name);
            let sentence =
                format!("{}; volume {number} is {} here and {} on {name}", code.text(), view.disk, view.pdsk);
            return self.answer(id, Err(Refusal::state(code, sentence).next(format!("why {}", self.settings.name))));
        }
        let agreement = if remote { Agreement::InvalidateRemote(id) } else { Agreement::Invalidate(id) };
        self.ask_connection(volume, peer, conn, agreement);
    }

    /// Without a connection only what concerns nobody else is allowed.
    fn invalidate_alone(&mut self, id: CommandId, volume: usize, peer: usize, remote: bool) {
        let stand_alone = self.peers[peer].conn == ConnectionState::StandAlone;
        let right_role = self.role == if remote { Role::Primary } else { Role::Secondary };
        if !stand_alone || !right_role || !self.volumes[volume].has_disk() {
            let (name, other) = (&self.settings.name, &self.peers[peer].settings.name);
            let next = if stand_alone {
                format!("connect {name}")
            } else {
                format!("up {name}    (on {other}; this node looks for it already)")
            };
            let refusal = Refusal::from(StateRefusal::NeedConnection).next(next);
            return self.answer(id, Err(refusal));
        }
        self.set_all_bits(volume, peer);
        if !remote {
            self.need_full_sync(volume, peer);
        }
        let view = self.view(volume, peer);
        let new = if remote {
            View { pdsk: DiskState::Inconsistent, ..view }
        } else {
            View { disk: DiskState::Inconsistent, ..view }
        };
        self.change_fact(volume, peer, new);
        if !remote {
            // It says that every bit counts; the pages may follow.
            return self.after_superblock(volume, Then::Answer(id));
        }
        self.superblock_changed(volume);
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            disk.after_pages(Then::Invalidated(id));
        }
    }

    fn outdate(&mut self, id: CommandId, volume: usize) {
        if let Err(refusal) = self.refuse_without_disk(volume) {
            return self.answer(id, Err(refusal));
        }
        for peer in 0..self.peers.len() {
            let view = self.view(volume, peer);
            if view.disk < DiskState::Outdated {
                // What was never whole does not become it by a word.
                let number = self.volumes[volume].settings.number;
                let sentence = format!("{}; volume {number} is {}", StateRefusal::LowerThanOutdated.text(), view.disk);
                return self.answer(id, Err(Refusal::state(StateRefusal::LowerThanOutdated, sentence)));
            }
            // While connected the rules would quietly make UpToDate of it again.
            if view.conn >= ConnectionState::Connected && view.disk > DiskState::Outdated {
                let refusal = Refusal::from(StateRefusal::ConnectedOutdates);
                return self.answer(id, Err(refusal.next(format!("disconnect {}", self.settings.name))));
            }
            if let Err(code) = self.change(volume, peer, View { disk: DiskState::Outdated, ..view }, Origin::Wish) {
                let sentence =
                    format!("{}; volume {} is {}", code.text(), self.volumes[volume].settings.number, view.disk);
                return self.answer(id, Err(Refusal::state(code, sentence)));
            }
        }
        self.after_superblock(volume, Then::Answer(id));
    }

    fn set_pause(&mut self, volume: usize, pause: bool) -> Result<(), Refusal> {
        for peer in 0..self.peers.len() {
            let view = self.view(volume, peer);
            if view.user_isp == pause {
                let (name, number) = (&self.settings.name, self.volumes[volume].settings.number);
                let (code, next) = match (pause, view.peer_isp) {
                    (true, _) => (ConfigurationRefusal::PauseAlreadySet, None),
                    (false, false) => (ConfigurationRefusal::PauseAlreadyClear, None),
                    (false, true) => {
                        let other = &self.peers[peer].settings.name;
                        (
                            ConfigurationRefusal::PausedByPeer,
                            Some(format!("resume-sync {name}/{number}    (on {other})")),
                        )
                    }
                };
                let refusal = Refusal::configuration(code, code.text());
                return Err(next.into_iter().fold(refusal, Refusal::next));
            }
            self.change_fact(volume, peer, View { user_isp: pause, ..view });
        }
        Ok(())
    }

    fn set_suspended(&mut self, suspended: bool) -> Result<(), Refusal> {
        if !suspended && self.door.is_frozen() && (0..self.peers.len()).any(|peer| self.is_shaking_hands(peer)) {
            // A new generation would be due, and generations are being compared.
            let sentence = "the nodes are comparing what they have; try again";
            return Err(Refusal::state(StateRefusal::InTransientState, sentence));
        }
        self.suspended = suspended;
        if !suspended {
            self.suspended_no_data = false;
            self.thaw("an operator resumed I/O");
            for volume in 0..self.volumes.len() {
                self.release_frozen(volume);
                self.settle_blocked(volume);
            }
        }
        Ok(())
    }

    fn new_current_uuid(&mut self, id: CommandId, volume: usize, clear_bitmap: bool) {
        if let Err(refusal) = self.refuse_without_disk(volume) {
            return self.answer(id, Err(refusal));
        }
        for peer in 0..self.peers.len() {
            let view = self.view(volume, peer);
            let (rules, index) = (self.history_rules(volume), self.generation_index(volume, peer));
            let (random, primary) = (self.random.next_u64(), self.role == Role::Primary);
            let fresh = self.own_tuple(volume, peer).is_some_and(|own| own.current.is_just_created());
            let skip = clear_bitmap && fresh && view.conn == ConnectionState::Connected && self.version(peer) >= 90;
            if !skip && view.conn != ConnectionState::StandAlone {
                let code = ConfigurationRefusal::ConnectedAlready;
                let refusal =
                    Refusal::configuration(code, code.text()).next(format!("disconnect {}", self.settings.name));
                return self.answer(id, Err(refusal));
            }
            let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
            let generations = &mut disk.superblock.generations;
            if skip {
                generation::skip_initial_sync(generations, index, random, primary, rules);
            } else {
                generation::new_current_by_admin(generations, index, random, primary, rules);
            }
            if clear_bitmap {
                (0..disk.bitmap.slots()).for_each(|slot| disk.bitmap.clear_all(slot));
                // Whoever copies the disk after the answer may copy these blocks before they are written.
                let running = self
                    .writes
                    .iter()
                    .filter(|(_, it)| it.volume == volume && it.local == super::request::Local::Running);
                let ranges: Vec<_> = running.map(|(_, write)| write.range).collect();
                for range in ranges {
                    self.mark_out_of_sync(volume, range);
                }
            }
            if skip {
                self.send_uuids_with(volume, peer, UuidFlags::SKIP_INITIAL_SYNC);
                self.change_fact(volume, peer, View { disk: DiskState::UpToDate, pdsk: DiskState::UpToDate, ..view });
                self.peers[peer].volumes[volume].declared_equal = true;
            }
        }
        self.after_superblock(volume, Then::Answer(id));
    }

    fn begin_down(&mut self, id: CommandId) {
        if let Some(refusal) = self.refuse_while_open() {
            return self.answer(id, Err(refusal));
        }
        self.commands.down = Some(id);
    }

    /// Applications at work are a reason against taking their volume away.
    pub(super) fn refuse_while_open(&self) -> Option<Refusal> {
        let volume = self.volumes.iter().find(|volume| volume.openers > 0)?;
        let who = if volume.openers == 1 { "1 client has".into() } else { format!("{} clients have", volume.openers) };
        let sentence = format!("{}: {who} volume {} open", StateRefusal::DeviceInUse.text(), volume.settings.number);
        Some(Refusal::state(StateRefusal::DeviceInUse, sentence))
    }

    fn adjust(&mut self, peers: Vec<super::settings::PeerSettings>, volumes: Vec<super::settings::VolumeSettings>) {
        for (state, settings) in self.peers.iter_mut().zip(peers) {
            state.settings = settings;
        }
        let paces: Vec<_> = self.volumes.iter().map(|volume| volume.settings.resync).collect();
        for (state, settings) in self.volumes.iter_mut().zip(volumes) {
            state.settings = settings;
        }
        for (volume, before) in paces.into_iter().enumerate() {
            if before != self.volumes[volume].settings.resync {
                self.tell_pace(volume);
            }
        }
    }

    /// Commands that wait for a state are answered when it holds.
    pub(super) fn settle_commands(&mut self) {
        for peer in std::mem::take(&mut self.commands.disconnect_now) {
            self.leave(peer);
        }
        self.settle_promotion();
        self.settle_demotion();
        self.settle_detaching();
        self.settle_waiting();
        self.settle_down();
    }

    fn settle_detaching(&mut self) {
        if self.commands.detaching.is_empty() {
            return;
        }
        let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.commands.detaching)
            .into_iter()
            .partition(|(volume, _)| self.volumes[*volume].disk_state == DiskState::Diskless);
        self.commands.detaching.extend(left);
        for (_, id) in gone {
            self.answer(id, Ok(()));
        }
    }

    fn settle_waiting(&mut self) {
        if !self.commands.wait_connect.is_empty() {
            let connected = (0..self.peers.len()).all(|peer| {
                (0..self.volumes.len()).all(|volume| self.view(volume, peer).conn >= ConnectionState::Connected)
            });
            if connected {
                for id in std::mem::take(&mut self.commands.wait_connect) {
                    self.answer(id, Ok(()));
                }
            }
        }
        if self.commands.wait_sync.is_empty() {
            return;
        }
        let (done, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.commands.wait_sync)
            .into_iter()
            .partition(|(volume, _)| (0..self.peers.len()).all(|peer| self.is_in_sync(*volume, peer)));
        self.commands.wait_sync.extend(left);
        for (_, id) in done {
            self.answer(id, Ok(()));
        }
    }

    /// Connected, and not only without a resync but without need of one: a resync that was given up leaves a target that
    /// is Inconsistent and Connected. A volume that is to have no disk here has nothing to be synced.
    fn is_in_sync(&self, volume: usize, peer: usize) -> bool {
        let view = self.view(volume, peer);
        view.conn == ConnectionState::Connected
            && view.pdsk == DiskState::UpToDate
            && (view.disk == DiskState::UpToDate || self.is_client(volume))
    }

    /// A Primary with a fencing policy would fence a peer that just goes: it is told, once, that our disks are old from then
    /// on. True while its answer is waited for.
    fn parts_from_primary(&mut self, peer: usize) -> bool {
        let is_connected =
            (0..self.volumes.len()).any(|volume| self.view(volume, peer).conn >= ConnectionState::Connected);
        let concerns = self.peers[peer].role == Role::Primary && self.peers[peer].settings.fencing != Fencing::DontCare;
        if !is_connected || !concerns {
            return false;
        }
        if !std::mem::replace(&mut self.commands.parting_asked, true) {
            self.ask_to_leave(peer, Leaving::OutdatesUs, CommandId::OF_THE_MACHINE);
        }
        self.peers[peer].request.is_some()
    }

    /// Down: demote, leave, detach, in this order, as each becomes possible.
    fn settle_down(&mut self) {
        let Some(id) = self.commands.down else { return };
        if self.role == Role::Primary {
            if self.commands.demotion.is_none() && self.commands.promotion.is_none() {
                self.commands.demotion = Some(CommandId::OF_THE_MACHINE);
                self.settle_demotion();
            }
            return;
        }
        self.going_down = true;
        for peer in 0..self.peers.len() {
            if self.parts_from_primary(peer) {
                return;
            }
            if self.peers[peer].conn != ConnectionState::StandAlone {
                self.leave(peer);
            }
        }
        for volume in 0..self.volumes.len() {
            let state = &self.volumes[volume];
            if state.disk.as_ref().is_some_and(|disk| disk.closing.is_none()) && state.disk_state > DiskState::Failed {
                let drained = (0..self.peers.len()).all(|peer| self.is_drained(peer));
                if drained {
                    self.begin_close(volume);
                    self.settle_disk(volume);
                }
            }
        }
        if self.volumes.iter().all(|volume| volume.disk_state == DiskState::Diskless) {
            self.commands.down = None;
            self.commands.parting_asked = false;
            self.going_down = false;
            self.answer(id, Ok(()));
        }
    }
}
