//! When handlers run, and which of them are listened to.

use super::*;
use crate::replica::event::DiskError;
use crate::replica::settings::OnIoError;

fn with(handlers: &[Handler]) -> Settings {
    let handlers = handlers.iter().map(|handler| (*handler, "true".to_owned())).collect();
    Settings { handlers, ..settings() }
}

fn state_of(packet: &Packet) -> Option<StateWord> {
    if let Packet::State(word) = packet { Some(*word) } else { None }
}

#[test]
fn a_target_asks_before_it_gives_its_data_up() {
    let mut scene = Scene::begin_with(with(&[Handler::BeforeResyncTarget, Handler::AfterResyncTarget]));
    scene.become_target(&[5]);
    scene.say(Stream::Data, &Packet::SyncUuid(GenerationId(THEIRS.0 + 0x10)));
    assert_eq!((scene.state().conn, scene.state().disk), (ConnectionState::WfSyncUuid, DiskState::Outdated));
    assert_eq!(scene.generations().current.masked(), COMMON.masked());
    scene.end_handler(Handler::BeforeResyncTarget, Some(0));
    assert_eq!((scene.state().conn, scene.state().disk), (ConnectionState::SyncTarget, DiskState::Inconsistent));
    let sector = scene.heard(asked_of);
    let reply = ReadReply { sector, block_id: BlockId::RESYNC, payload: vec![9; 4096].into(), digest: Bytes::new() };
    scene.say(Stream::Data, &Packet::ResyncDataReply(reply));
    scene.pass(Duration::from_secs(1));
    if scene.state().conn == ConnectionState::SyncTarget {
        scene.say(Stream::Meta, &Packet::PingAck);
    }
    assert_eq!((scene.state().conn, scene.handler()), (ConnectionState::Connected, Some(Handler::AfterResyncTarget)));
}

#[test]
fn a_target_that_is_refused_keeps_its_data() {
    for exit in [Some(1), Some(3), None] {
        let mut scene = Scene::begin_with(with(&[Handler::BeforeResyncTarget]));
        scene.become_target(&[5]);
        scene.say(Stream::Data, &Packet::SyncUuid(GenerationId(THEIRS.0 + 0x10)));
        scene.end_handler(Handler::BeforeResyncTarget, exit);
        assert_eq!(scene.state().conn, ConnectionState::StandAlone, "{exit:?}");
        assert_eq!(scene.generations().current.masked(), COMMON.masked(), "nothing was taken over");
        assert_ne!(scene.state().disk, DiskState::Inconsistent);
    }
}

#[test]
fn a_source_asks_too_and_takes_a_handler_that_old_tools_do_not_know_for_none() {
    for (exit, begins) in [(Some(0), true), (Some(3), true), (Some(1), false), (None, false)] {
        let mut scene = Scene::begin_with(with(&[Handler::BeforeResyncSource]));
        scene.become_source(&[5]);
        assert_eq!(scene.heard_all(sync_uuid_of), []);
        scene.end_handler(Handler::BeforeResyncSource, exit);
        let conn = if begins { ConnectionState::SyncSource } else { ConnectionState::StandAlone };
        assert_eq!((scene.state().conn, scene.heard_all(sync_uuid_of).len()), (conn, usize::from(begins)), "{exit:?}");
    }
}

/// The resync it was about is over; the next one asks anew.
#[test]
fn an_answer_about_a_lost_connection_begins_nothing() {
    let mut scene = Scene::begin_with(with(&[Handler::BeforeResyncSource]));
    scene.become_source(&[5]);
    scene.cut();
    let (id, _) = scene.handlers.remove(0);
    scene.shake_hands(&EQUAL);
    scene.say_bits(&[]);
    scene.event(Event::HandlerEnded { id, exit: Some(0) });
    assert_eq!(scene.state().conn, ConnectionState::WfBitMapS);
    scene.end_handler(Handler::BeforeResyncSource, Some(0));
    assert_eq!(scene.state().conn, ConnectionState::SyncSource);
}

#[test]
fn a_split_brain_is_told_of() {
    let mut scene = Scene::begin_with(with(&[Handler::InitialSplitBrain, Handler::SplitBrain]));
    scene.promote();
    scene.write(3, 1);
    scene.shake_hands(&NEWER);
    assert_eq!(scene.state().conn, ConnectionState::StandAlone);
    let asked: Vec<_> = scene.handlers.iter().map(|(_, handler)| *handler).collect();
    assert_eq!(asked, [Handler::InitialSplitBrain, Handler::SplitBrain]);
}

#[test]
fn a_failed_disk_has_its_handler_before_the_peer_hears_of_it() {
    let mut settings = with(&[Handler::LocalIoError, Handler::PriOnInconDegr]);
    settings.volumes[0].on_io_error = OnIoError::CallHandler;
    let mut scene = Scene::begin_with(settings);
    scene.shake_hands(&EQUAL);
    scene.promote();
    scene.holds_back = is_data_write;
    scene.write(3, 1);
    scene.said.clear();
    let (ticket, _) = scene.held_back.remove(0);
    let error = DiskError { operation: "write", offset: 0, bytes: 4096, reason: "broken".into() };
    let mut actions = Vec::new();
    scene.machine.handle(scene.now, Event::Disk { ticket, result: Err(error) }, &mut actions);
    let position = |of: fn(&Action) -> bool| actions.iter().position(of);
    let handler =
        position(|it| matches!(it, Action::RunHandler { handler: Handler::LocalIoError, volume: Some(0), .. }));
    let packet = position(|it| matches!(it, Action::Send { .. }));
    assert!(handler.is_some() && handler < packet, "{actions:?}");
    for action in actions {
        scene.perform(action);
    }
    let failed = scene.heard(state_of).disk();
    assert!(failed < DiskState::Inconsistent.number(), "the peer knows: {failed}");
    assert_eq!(scene.handlers.len(), 1, "the peer's copy is good");
    // Then the peer goes too.
    let socket = scene.link[0];
    scene.event(Event::Closed { socket, reason: "cut".into() });
    assert_eq!(scene.handlers.last().map(|(_, handler)| *handler), Some(Handler::PriOnInconDegr));
}
