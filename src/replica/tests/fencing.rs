//! What fencing does about a peer that is away: each policy, each exit code, and the peer's coming back.

use super::*;
use crate::replica::settings::Fencing;
use crate::wire::packet::StateChange;

fn fencing(policy: Fencing) -> Settings {
    let mut settings = settings();
    settings.peers[0].fencing = policy;
    settings.handlers =
        BTreeMap::from([(Handler::FencePeer, "fence".to_owned()), (Handler::UnfencePeer, "unfence".to_owned())]);
    settings
}

/// Primary, and the peer is connected and in sync.
fn primary(policy: Fencing) -> Scene {
    let mut scene = Scene::begin_with(fencing(policy));
    scene.shake_hands(&EQUAL);
    scene.promote();
    assert_eq!(scene.handler(), None);
    scene
}

/// The other end of both streams goes; the machine looks for the peer again.
fn lose(scene: &mut Scene) {
    let socket = scene.link[0];
    scene.event(Event::Closed { socket, reason: "cut".into() });
}

/// A Primary with resource-and-stonith has lost its peer with a write under way.
fn frozen() -> (Scene, u64) {
    let mut scene = primary(Fencing::ResourceAndStonith);
    let write = scene.write(3, 1);
    lose(&mut scene);
    (scene, write)
}

fn replied(scene: &Scene, id: u64) -> Option<bool> {
    scene.replies.get(&id).copied()
}

fn is_suspended(scene: &Scene) -> bool {
    scene.machine.status(scene.now).suspended.fencing
}

#[test]
fn without_a_policy_nobody_is_asked() {
    let mut scene = primary(Fencing::DontCare);
    let write = scene.write(3, 1);
    lose(&mut scene);
    assert_eq!((scene.handler(), replied(&scene, write)), (None, Some(true)));
    assert_ne!(scene.generations().current.masked(), COMMON.masked());
}

#[test]
fn resource_only_goes_on_while_the_handler_runs() {
    let mut scene = primary(Fencing::ResourceOnly);
    let write = scene.write(3, 1);
    lose(&mut scene);
    assert_eq!((scene.handler(), is_suspended(&scene)), (Some(Handler::FencePeer), false));
    assert_eq!(replied(&scene, write), Some(true));
    assert_ne!(scene.generations().current.masked(), COMMON.masked(), "a generation of its own at once");
    scene.end_handler(Handler::FencePeer, Some(4));
    assert_eq!(scene.state().pdsk, DiskState::Outdated);
}

#[test]
fn stonith_freezes_until_the_peer_is_known_not_to_be_in_use() {
    for (exit, pdsk) in
        [(3, DiskState::Inconsistent), (4, DiskState::Outdated), (5, DiskState::Outdated), (7, DiskState::Outdated)]
    {
        let (mut scene, write) = frozen();
        let later = scene.write(9, 1);
        assert!(is_suspended(&scene));
        assert_eq!([write, later].map(|id| replied(&scene, id)), [None; 2], "exit code {exit}");
        assert_eq!(scene.generations().current.masked(), COMMON.masked(), "nothing has been begun");
        assert_eq!(scene.state().word().susp_fen(), 1);

        scene.holds_back = |operation| matches!(operation, DiskOperation::Write { area: Area::Metadata, .. });
        scene.end_handler(Handler::FencePeer, Some(exit));
        assert_eq!(scene.state().pdsk, pdsk, "exit code {exit}");
        assert!(!is_suspended(&scene));
        assert_ne!(scene.generations().current.masked(), COMMON.masked());
        assert_eq!(replied(&scene, write), None, "the generation is not durable");
        scene.let_go();
        assert_eq!([write, later].map(|id| replied(&scene, id)), [Some(true); 2]);
        assert_eq!(scene.bits(), [3, 9]);
    }
}

#[test]
fn an_answer_that_says_nothing_leaves_everything_frozen() {
    for exit in [Some(6), Some(0), Some(1), Some(20), None] {
        let (mut scene, write) = frozen();
        scene.end_handler(Handler::FencePeer, exit);
        assert!(is_suspended(&scene), "{exit:?}");
        assert_eq!(scene.state().pdsk, DiskState::Unknown);
        assert_eq!(scene.state().disk, DiskState::UpToDate, "a Primary's disk does not become old: {exit:?}");
        assert_eq!((replied(&scene, write), scene.handler()), (None, None));
        assert_eq!(scene.generations().current.masked(), COMMON.masked());
        // The operator knows better.
        scene.order(Command::ResumeIo);
        assert_eq!((replied(&scene, write), is_suspended(&scene)), (Some(true), false));
        assert_ne!(scene.generations().current.masked(), COMMON.masked());
    }
}

#[test]
fn without_a_handler_a_peer_cannot_be_fenced() {
    let mut settings = fencing(Fencing::ResourceAndStonith);
    settings.handlers.clear();
    let mut scene = Scene::begin_with(settings);
    scene.shake_hands(&EQUAL);
    scene.promote();
    let write = scene.write(3, 1);
    lose(&mut scene);
    assert_eq!((scene.handler(), replied(&scene, write), is_suspended(&scene)), (None, None, true));
}

/// It was not away long enough to be fenced, and gets what it missed: the frozen write.
#[test]
fn a_peer_that_comes_back_gets_what_was_frozen() {
    let (mut scene, write) = frozen();
    scene.cut_again();
    scene.shake_hands(&EQUAL);
    assert_eq!(scene.state().conn, ConnectionState::WfBitMapS, "our bits count");
    assert_eq!(scene.generations().current.masked(), COMMON.masked());
    scene.say_bits(&[]);
    assert_eq!(scene.state().conn, ConnectionState::SyncSource);
    assert_eq!(replied(&scene, write), None, "the target may still hold our generation as good");
    // What the handler says now is about a peer that was away.
    scene.end_handler(Handler::FencePeer, Some(4));
    assert_eq!(scene.state().pdsk, DiskState::Inconsistent);
    assert_eq!(replied(&scene, write), None);

    let request = BlockRequest { sector: BlockIndex(3).sector(), block_id: BlockId::RESYNC, bytes: 4096 };
    scene.say(Stream::Data, &Packet::ResyncDataRequest(request));
    assert_eq!((replied(&scene, write), is_suspended(&scene)), (Some(true), false));
    scene.say(Stream::Meta, &Packet::ResyncWriteAck(ack(3, 1)));
    scene.say_state(ConnectionState::Connected, DiskState::UpToDate, DiskState::UpToDate);
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::Connected, vec![]));
    assert_eq!(scene.handler(), Some(Handler::UnfencePeer));
}

/// It went on alone meanwhile: its data is newer than ours, and not another's.
#[test]
fn a_peer_that_took_over_makes_no_split_brain_of_a_frozen_primary() {
    let (mut scene, write) = frozen();
    scene.cut_again();
    scene.shake_hands(&NEWER);
    assert_eq!(scene.state().conn, ConnectionState::StandAlone, "a Primary does not become target");
    assert_eq!((replied(&scene, write), is_suspended(&scene)), (None, true));
    assert_eq!(scene.generations().current.masked(), COMMON.masked());
}

/// It would not understand why bits count between equal generations: it meets another one at the next attempt.
#[test]
fn an_older_peer_follows_a_frozen_primary_under_a_new_generation() {
    let (mut scene, write) = frozen();
    scene.cut_again();
    scene.order(Command::Connect { discard_my_data: false });
    let features = Features::TRIM;
    scene.say(Stream::Data, &Packet::ConnectionFeatures(ConnectionFeatures { features, ..ConnectionFeatures::OURS }));
    assert!(scene.state().conn < ConnectionState::WfReportParams, "this attempt has ended");
    let generations = scene.generations();
    assert_ne!(generations.current.masked(), COMMON.masked());
    assert_eq!(generations.bitmap[0].masked(), COMMON.masked(), "the bits count from what the peer has");
    assert_eq!((replied(&scene, write), is_suspended(&scene)), (None, true));
    // The next one is not turned away.
    scene.cut_again();
    scene.order(Command::Connect { discard_my_data: false });
    scene.say(Stream::Data, &Packet::ConnectionFeatures(ConnectionFeatures { features, ..ConnectionFeatures::OURS }));
    assert_eq!(scene.state().conn, ConnectionState::WfReportParams);
    assert_eq!(scene.generations().current, generations.current);
}

#[test]
fn a_promotion_without_the_peer_asks_first() {
    for (exit, expected) in [(Some(4), true), (Some(5), true), (Some(7), true), (Some(6), false), (Some(1), false)] {
        let mut scene = Scene::begin_with(fencing(Fencing::ResourceOnly));
        // Nobody knows whether the peer went on.
        assert_eq!(scene.state().disk, DiskState::Consistent);
        let id = scene.command(Command::Primary { force: false });
        assert_eq!((scene.answers.get(&id), scene.handler()), (None, Some(Handler::FencePeer)));
        if exit == Some(5) {
            // Without an UpToDate disk that means nothing.
            scene.end_handler(Handler::FencePeer, exit);
            assert_eq!(scene.answers.get(&id), Some(&false));
            continue;
        }
        scene.end_handler(Handler::FencePeer, exit);
        assert_eq!(scene.answers.get(&id), Some(&expected), "{exit:?}");
        assert_eq!(scene.machine.role() == Role::Primary, expected);
        let disk = match exit {
            Some(6) => DiskState::Outdated,
            Some(1) => DiskState::Consistent,
            _ => DiskState::UpToDate,
        };
        assert_eq!(scene.state().disk, disk, "{exit:?}");
    }
}

/// The peer is asked instead, and what the handler says of it is not heard any more.
#[test]
fn a_peer_that_comes_while_it_is_being_fenced_is_asked() {
    let mut scene = Scene::begin_with(fencing(Fencing::ResourceAndStonith));
    let id = scene.command(Command::Primary { force: false });
    scene.shake_hands(&EQUAL);
    assert_eq!((scene.answers.get(&id), scene.state().conn), (None, ConnectionState::Connected));
    scene.end_handler(Handler::FencePeer, Some(6));
    assert_eq!((scene.answers.get(&id), scene.state().disk), (None, DiskState::UpToDate));
    scene.say(Stream::Meta, &Packet::StateChangeReply(1));
    assert_eq!((scene.answers.get(&id), scene.state().pdsk), (Some(&true), DiskState::UpToDate));
}

#[test]
fn force_promotes_against_the_handler() {
    let mut scene = Scene::begin_with(fencing(Fencing::ResourceAndStonith));
    let id = scene.command(Command::Primary { force: true });
    assert_eq!(scene.answers.get(&id), None);
    scene.end_handler(Handler::FencePeer, Some(1));
    assert_eq!((scene.answers.get(&id), scene.state().pdsk), (Some(&true), DiskState::Outdated));
    assert!(!is_suspended(&scene));
    let write = scene.write(3, 1);
    assert_eq!(replied(&scene, write), Some(true));
}

#[test]
fn what_was_found_out_survives_the_power() {
    let (mut scene, _) = frozen();
    scene.end_handler(Handler::FencePeer, Some(7));
    scene.lose_power();
    assert_eq!((scene.state().disk, scene.state().pdsk), (DiskState::UpToDate, DiskState::Outdated));
    scene.order(Command::Primary { force: false });
    assert_eq!(scene.handler(), None, "nobody is asked again");
}

/// A fenced Primary leaves nobody behind who could be promoted.
#[test]
fn to_leave_a_primary_takes_the_peers_disk_along() {
    let mut scene = primary(Fencing::ResourceAndStonith);
    let id = scene.command(Command::Disconnect { force: false });
    let asked = scene.heard(|packet| match packet {
        Packet::ConnectionStateChangeRequest(change) => Some(*change),
        _ => None,
    });
    assert_eq!((asked.mask.pdsk(), asked.value.pdsk()), (15, DiskState::Outdated.number()));
    scene.say(Stream::Meta, &Packet::ConnectionStateChangeReply(1));
    assert_eq!((scene.answers.get(&id), scene.handler()), (Some(&true), None));
    assert_eq!((scene.state().pdsk, is_suspended(&scene)), (DiskState::Outdated, false));
}

fn leaving(mask: StateWord, value: StateWord) -> Packet {
    let (mask, value) = (mask.with_conn(31), value.with_conn(ConnectionState::Disconnecting.number()));
    Packet::ConnectionStateChangeRequest(StateChange { mask, value })
}

fn reply_of(packet: &Packet) -> Option<i32> {
    if let Packet::ConnectionStateChangeReply(code) = packet { Some(*code) } else { None }
}

#[test]
fn a_fencing_primary_lets_go_only_of_an_outdated_peer() {
    let mut scene = primary(Fencing::ResourceAndStonith);
    let (none, outdated) = (StateWord::default(), DiskState::Outdated.number());
    scene.say(Stream::Data, &leaving(none, none));
    assert_eq!((scene.heard(reply_of), scene.state().conn), (-7, ConnectionState::Connected));
    scene.say(Stream::Data, &leaving(none.with_disk(15), none.with_disk(outdated)));
    assert_eq!((scene.heard(reply_of), scene.state().pdsk), (1, DiskState::Outdated));
    assert_eq!((scene.handler(), is_suspended(&scene)), (None, false));
}

#[test]
fn a_secondary_that_leaves_a_fencing_primary_outdates_itself() {
    let mut scene = Scene::begin_with(fencing(Fencing::ResourceOnly));
    scene.shake_hands(&EQUAL);
    let id = scene.command(Command::Disconnect { force: false });
    scene.say(Stream::Meta, &Packet::ConnectionStateChangeReply(-7));
    assert_eq!(scene.answers.get(&id), None, "asked once more");
    scene.say(Stream::Meta, &Packet::ConnectionStateChangeReply(1));
    assert_eq!((scene.answers.get(&id), scene.state().disk), (Some(&true), DiskState::Outdated));
}

#[test]
fn a_secondary_that_goes_down_outdates_itself_first() {
    let mut scene = Scene::begin_with(fencing(Fencing::ResourceAndStonith));
    scene.greet(&EQUAL);
    let word = StateWord::default()
        .with_role(Role::Primary.number())
        .with_peer(Role::Unknown.number())
        .with_conn(ConnectionState::WfReportParams.number())
        .with_disk(DiskState::UpToDate.number())
        .with_pdsk(DiskState::Unknown.number());
    scene.say(Stream::Data, &Packet::State(word));
    assert_eq!((scene.state().conn, scene.state().peer), (ConnectionState::Connected, Role::Primary));
    let id = scene.command(Command::Down);
    assert_eq!((scene.answers.get(&id), scene.state().conn), (None, ConnectionState::Connected));
    scene.say(Stream::Meta, &Packet::ConnectionStateChangeReply(1));
    assert_eq!(scene.answers.get(&id), Some(&true));
    scene.attach();
    assert_eq!(scene.state().disk, DiskState::Outdated);
}

#[test]
fn a_secondary_that_is_left_by_a_fencing_primary_is_outdated() {
    let mut scene = Scene::begin_with(fencing(Fencing::ResourceOnly));
    scene.shake_hands(&EQUAL);
    let (none, outdated) = (StateWord::default(), DiskState::Outdated.number());
    scene.say(Stream::Data, &leaving(none.with_pdsk(15), none.with_pdsk(outdated)));
    assert_eq!(scene.heard(reply_of), 1);
    assert_eq!(scene.state().disk, DiskState::Outdated);
    assert!(scene.state().conn < ConnectionState::Connected);
}
