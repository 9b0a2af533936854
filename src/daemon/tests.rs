//! The daemon's verbs, asked as the admin socket asks them, of a node whose peer is not there.

use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use tokio::sync::mpsc;

use super::arguments::Arguments;
use super::node::{Ending, Node};
use super::server::Out;
use super::{operate, verbs};
use crate::control::status::ResourceStatus;
use crate::control::{Request, Response, Verb};
use crate::engine::offline::{MetadataPlace, NewMetadata, create_md};
use crate::io::block_file::{BlockFile, Mode};
use crate::metadata::layout::{Format, Placement};

const DISK_BYTES: u64 = 16 << 20;

/// Alpha, with the resources `data` (two volumes, both with metadata) and `logs` (one, without).
struct World {
    folder: tempfile::TempDir,
    node: Arc<Node>,
}

/// What a request brought: the lines, the last one apart.
#[derive(Debug)]
struct Told {
    lines: Vec<Response>,
    last: Response,
}

impl World {
    fn new() -> Self {
        Self::of("alpha", &[])
    }

    /// As a node of that name, with more options of the daemon.
    fn of(name: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = |name: &str| {
            let path = folder.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
            path
        };
        let disks = ["data0", "data1", "logs0"].map(disk);
        disks[..2].iter().for_each(|path| format(path.clone()));
        let config = folder.path().join("pair.res");
        std::fs::write(&config, text(&disks)).unwrap();
        let config = config.to_string_lossy().into_owned();
        let run_dir = folder.path().to_string_lossy().into_owned();
        let words = ["shimaid", "--config", &config, "--run-dir", &run_dir];
        let arguments = Arguments::parse_from(words.iter().chain(options));
        Self { node: Arc::new(Node::new(arguments, name.into())), folder }
    }

    async fn request(&self, request: Request) -> Told {
        let (sender, mut receiver) = mpsc::channel(1024);
        let out = Arc::new(Out::new(sender, request.verb.name()));
        let last = verbs::answer(&self.node, &request, &out).await;
        let lines = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        Told { lines, last }
    }

    /// Asks about `RESOURCE`, `RESOURCE/VOLUME` or `all`.
    async fn ask(&self, verb: Verb, target: &str) -> Told {
        let (name, volume) = target.split_once('/').unwrap_or((target, ""));
        let mut request = Request::new(verb, (name != "all").then_some(name));
        request.volume = volume.parse().ok();
        self.request(request).await
    }

    /// Asks, and waits no longer than that.
    async fn ask_for(&self, milliseconds: u64, verb: Verb, target: &str) -> Told {
        let (name, volume) = target.split_once('/').unwrap_or((target, ""));
        let mut request = Request::new(verb, (name != "all").then_some(name));
        request.volume = volume.parse().ok();
        request.options.timeout_ms = Some(milliseconds);
        self.request(request).await
    }

    /// A lock on a disk, which an attach waits for: as long as it is held the disk does not answer.
    fn hang(&self, disk: &str) -> BlockFile {
        let file = BlockFile::open(self.folder.path().join(disk), Mode::default()).unwrap();
        file.lock().unwrap();
        file
    }

    async fn wait_until_opening(&self, target: &str) {
        loop {
            let status = self.ask(Verb::Status, target).await.status();
            let reason = status.first().and_then(|status| status.volumes[0].reason.clone());
            if reason.is_some_and(|reason| reason.contains("being opened")) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn ok(&self, verb: Verb, target: &str) -> Told {
        let told = self.ask(verb, target).await;
        assert!(matches!(told.last, Response::Done { .. }), "{verb} {target}: {told:?}");
        told
    }
}

impl Told {
    fn exit(&self) -> i32 {
        match &self.last {
            Response::Refused { exit, .. } | Response::Failed { exit, .. } => *exit,
            _ => 0,
        }
    }

    fn sentence(&self) -> &str {
        match &self.last {
            Response::Refused { sentence, .. } | Response::Failed { sentence, .. } => sentence,
            _ => "",
        }
    }

    fn code(&self) -> Option<i32> {
        match &self.last {
            Response::Refused { code, .. } => Some(*code),
            Response::Failed { code, .. } => *code,
            _ => None,
        }
    }

    fn next(&self) -> &str {
        match &self.last {
            Response::Refused { next, .. } | Response::Failed { next, .. } => next.as_deref().unwrap_or(""),
            _ => "",
        }
    }

    fn status(&self) -> Vec<ResourceStatus> {
        let status = self.lines.iter().filter_map(|line| match line {
            Response::Status(resources) => Some(resources.clone()),
            _ => None,
        });
        status.flatten().collect()
    }

    fn text(&self) -> String {
        let texts = self.lines.iter().filter_map(|line| match line {
            Response::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }
}

fn format(path: PathBuf) {
    let place = MetadataPlace { path, placement: Placement::Internal };
    let new = NewMetadata::plain(Format::V09, 1);
    // It brings a runtime of its own, and the test is in one already.
    std::thread::spawn(move || create_md(&place, &new).map(|_| ())).join().unwrap().unwrap();
}

/// The configuration, with ports that are free now.
fn text(disks: &[PathBuf; 3]) -> String {
    let held = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [a, b, c, d] = held.map(|listener| listener.local_addr().unwrap().port());
    let volume = |number: u8, minor: u8, disk: &PathBuf| {
        format!("volume {number} {{ device minor {minor}; disk \"{}\"; meta-disk internal; }}\n", disk.display())
    };
    format!(
        "resource data {{ {} {} on alpha {{ node-id 0; address 127.0.0.1:{a}; }}
             on bravo {{ node-id 1; address 127.0.0.1:{b}; }} }}
         resource logs {{ {} on alpha {{ node-id 0; address 127.0.0.1:{c}; }}
             on bravo {{ node-id 1; address 127.0.0.1:{d}; }} }}",
        volume(0, 0, &disks[0]),
        volume(1, 1, &disks[1]),
        volume(0, 2, &disks[2])
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_panicked_is_told_of_by_every_look_and_up_starts_it_again() {
    let world = World::new();
    world.ok(Verb::Up, "data").await;
    world.node.find("data").unwrap().panic();
    let all = world.ask(Verb::Status, "all").await;
    assert_eq!((all.exit(), all.status()), (20, vec![]));
    assert!(all.sentence().contains("the thread of data has ended"), "{all:?}");
    for verb in [Verb::Status, Verb::Role, Verb::Primary] {
        let told = world.ask(verb, "data").await;
        assert_eq!((told.exit(), told.next()), (20, "up data"), "{told:?}");
    }
    let why = world.ok(Verb::Why, "data").await.text();
    assert!(why.contains("the thread of data has ended") && why.contains("next: shimai up data"), "{why}");
    world.ok(Verb::Up, "data").await;
    assert_eq!(world.ok(Verb::Status, "data").await.status()[0].volumes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_waits_for_any_more_goes_on() {
    let world = World::new();
    world.ok(Verb::Up, "data").await;
    let mut request = Request::new(Verb::Shutdown, None);
    request.options.timeout_ms = Some(1);
    let given_up = world.request(request).await;
    assert_eq!(given_up.exit(), 20, "nobody has begun to end yet: {given_up:?}");
    assert_eq!(*world.node.ending.borrow(), Ending::Begun);
    assert_eq!(world.ok(Verb::Status, "data").await.status().len(), 1, "what has not ended is still there to be seen");
    let refused = world.ask(Verb::Up, "logs").await;
    assert!(refused.sentence().contains("is ending"), "{refused:?}");
    operate::stop_all(&world.node).await;
    world.node.ending.send_replace(Ending::Done);
    assert_eq!(world.node.names(), Vec::<String>::new());
    world.ok(Verb::Shutdown, "all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_down_that_nobody_waits_for_any_more_does_not_leave_a_dead_resource() {
    let world = World::new();
    world.ok(Verb::Up, "data").await;
    let given_up = world.ask_for(0, Verb::Down, "data").await;
    assert_eq!(given_up.exit(), 20, "{given_up:?}");
    // Nobody asks again.
    while world.node.find("data").is_some() {
        tokio::task::yield_now().await;
    }
    world.ok(Verb::Up, "data").await;
    world.ask_for(0, Verb::Down, "data").await;
    // Whatever has been reached by then: a second down leaves nothing, and calls nothing an accident.
    world.ok(Verb::Down, "data").await;
    assert_eq!(world.ok(Verb::Role, "data").await.text(), "Unconfigured");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_up_after_a_down_that_was_given_up_stays() {
    let world = World::new();
    for _ in 0..5 {
        world.ok(Verb::Up, "data").await;
        world.ask_for(0, Verb::Down, "data").await;
        world.ok(Verb::Up, "data").await;
        assert_eq!(world.ok(Verb::Status, "data").await.status().len(), 1);
        assert!(world.folder.path().join("data.nbd").exists(), "its socket is its own");
        // The end of the first one is behind us: nothing is taken away any more.
        drop(world.node.lives.turn("data", Verb::Up, &Out::unread()).await);
        assert!(world.node.find("data").is_some_and(|running| !running.is_finished()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_before_its_turn_does_not_come_true() {
    let world = World::new();
    let turn = world.node.lives.turn("data", Verb::Down, &Out::unread()).await;
    for verb in [Verb::Up, Verb::Adjust] {
        for target in ["data", "all"] {
            let given_up = world.ask_for(50, verb, target).await;
            assert!(given_up.sentence().ends_with("the end of `down data`, which is under way"), "{given_up:?}");
        }
    }
    drop(turn);
    // Turns come in the order of asking.
    drop(world.node.lives.turn("data", Verb::Down, &Out::unread()).await);
    assert!(world.node.find("data").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_holds_up_its_own_resource_only() {
    let world = World::new();
    let hanging = world.hang("data0");
    let all = world.ask_for(100, Verb::Up, "all").await;
    assert!(all.sentence().ends_with("waited for: the disk of data/0 to be attached"), "{all:?}");
    world.wait_until_opening("data").await;
    assert!(world.ok(Verb::Role, "logs").await.text() == "Secondary/Unknown", "its disk has no metadata, but it is up");
    world.ok(Verb::AdjustPlan, "data").await;
    world.ok(Verb::Down, "logs").await;
    assert_eq!(world.ask(Verb::Adjust, "logs").await.code(), Some(119));
    let attach = world.ask(Verb::Attach, "data/0").await;
    assert_eq!((attach.code(), attach.sentence().contains("is being opened")), (Some(124), true), "{attach:?}");
    let down = world.ask_for(50, Verb::Down, "data").await;
    assert!(down.sentence().ends_with("the end of `up data`, which is under way"), "{down:?}");
    // The way out.
    world.ok(Verb::Detach, "data/0").await;
    world.ok(Verb::Down, "data").await;
    assert_eq!(world.node.names(), ["logs"]);
    drop(hanging);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_not_wait_for_a_disk_that_does_not_answer() {
    let world = World::new();
    let _hanging = world.hang("data0");
    world.ask_for(50, Verb::Up, "data").await;
    world.wait_until_opening("data").await;
    world.node.ending.send_replace(Ending::Begun);
    operate::stop_all(&world.node).await;
    assert_eq!(world.node.names(), Vec::<String>::new());
    drop(world.node.lives.turn("data", Verb::Up, &Out::unread()).await);
    assert_eq!(world.ask(Verb::Status, "data").await.code(), Some(158), "it has ended as it was asked to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_down_that_meets_the_end_of_the_daemon_comes_to_its_own_end() {
    for _ in 0..5 {
        let world = World::new();
        world.ok(Verb::Up, "data").await;
        world.node.ending.send_replace(Ending::Begun);
        let (down, ()) = tokio::join!(world.ok(Verb::Down, "data"), operate::stop_all(&world.node));
        assert!(down.lines.iter().all(|line| !matches!(line, Response::Failed { .. })), "{down:?}");
        assert_eq!(world.node.names(), Vec::<String>::new());
    }
}

/// A pipe that nobody writes into: opening it takes until somebody does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_at_a_disk_that_does_not_answer_stop_nobody_else() {
    let world = World::new();
    let path = world.folder.path().join("data0");
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for _ in 0..3 {
        let told = world.ask_for(50, Verb::ShowGi, "data/0").await;
        assert!(told.sentence().ends_with("waited for: the metadata of data/0 to be read"), "{told:?}");
    }
    world.ok(Verb::Version, "all").await;
    world.ok(Verb::ShowGi, "data/1").await;
    // Whoever looks comes back, or the runtime would wait for it.
    std::mem::forget(std::fs::File::options().read(true).write(true).open(&path).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_and_an_adjust_at_the_same_time_do_not_wait_for_each_other() {
    let world = World::new();
    world.ok(Verb::Up, "data").await;
    let running = world.node.find("data").unwrap();
    let resource = running.resource();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..20_000).for_each(|_| running.was_attached(0)));
        scope.spawn(|| (0..20_000).for_each(|_| running.was_told(resource.clone(), &[0])));
    });
    assert_eq!(running.resource(), resource);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_not_there_is_refused_and_nothing_is_done() {
    let world = World::new();
    for verb in [Verb::Up, Verb::ShowGi, Verb::GetGi, Verb::Why, Verb::DState, Verb::AdjustPlan, Verb::Adjust] {
        let told = world.ask(verb, "data/7").await;
        assert_eq!((told.exit(), told.sentence()), (1, "data has no volume 7; it has 0, 1"), "{verb}: {told:?}");
    }
    assert_eq!(world.node.names(), Vec::<String>::new());
    world.ok(Verb::Up, "data").await;
    for verb in Verb::ALL.iter().filter(|verb| !matches!(verb, Verb::Events | Verb::Resize)) {
        let told = world.ask(*verb, "data/7").await;
        let is_general = matches!(verb, Verb::Version | Verb::Shutdown);
        assert!(is_general || told.sentence().contains("has no volume 7"), "{verb}: {told:?}");
        if is_general {
            break;
        }
    }
    let whole = world.ask(Verb::Down, "data/0").await;
    assert!(whole.sentence().contains("detach data/0"), "{whole:?}");
    assert_eq!(world.ok(Verb::Status, "data").await.status()[0].volumes.len(), 2, "nothing was done");
    let one = world.ok(Verb::Status, "data/1").await.status();
    assert_eq!((one[0].volumes.len(), one[0].volumes[0].number), (1, 1));
    let mut request = Request::new(Verb::Down, None);
    request.volume = Some(9);
    assert_eq!(world.request(request).await.exit(), 1);
    assert_eq!(world.node.names(), ["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_volume_can_come_up_alone() {
    let world = World::new();
    world.ok(Verb::Up, "data/1").await;
    let disks = world.ok(Verb::DState, "data").await.text();
    assert!(disks.starts_with("Diskless/"), "{disks}");
    world.ok(Verb::Up, "data").await;
    assert!(!world.ok(Verb::DState, "data").await.text().contains("Diskless"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_resource_is_told_from_one_that_is_down() {
    let world = World::new();
    for verb in [Verb::Primary, Verb::Role, Verb::Down, Verb::Up, Verb::Why, Verb::Attach] {
        let told = world.ask(verb, "nosuch").await;
        assert!(told.exit() == 1 && told.sentence().contains("not defined"), "{verb}: {told:?}");
    }
    let status = world.ask(Verb::Status, "nosuch").await;
    assert_eq!((status.exit(), status.code(), status.sentence()), (10, None, "No such resource"));
    for verb in [Verb::Primary, Verb::Status] {
        let told = world.ask(verb, "data").await;
        assert_eq!((told.exit(), told.code(), told.next()), (10, Some(158), "up data"), "{verb}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_configuration_does_not_name_hears_so() {
    let world = World::of("zulu", &[]);
    for verb in [Verb::Up, Verb::Adjust, Verb::Why, Verb::Primary, Verb::Role, Verb::Down, Verb::ShowGi] {
        let told = world.ask(verb, "all").await;
        assert!(told.exit() == 1, "{verb}: {told:?}");
        assert!(told.sentence().ends_with("has no resource for node zulu; it names alpha, bravo"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_resources_each_that_failed_is_named_with_what_helps() {
    let world = World::new();
    let both = world.ask(Verb::Secondary, "all").await;
    for words in ["data: Failure: (158)", "next: shimai up data", "logs: Failure: (158)", "next: shimai up logs"] {
        assert!(both.sentence().contains(words), "{both:?}");
    }
    world.ok(Verb::Up, "data").await;
    let one = world.ask(Verb::Secondary, "all").await;
    assert_eq!((one.code(), one.next()), (Some(158), "up logs"));
    assert!(one.sentence().starts_with("logs: "), "{one:?}");
    assert_eq!(world.ok(Verb::Role, "all").await.text(), "Secondary/Unknown\nUnconfigured");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_has_drbds_number_and_why_remembers_it() {
    let world = World::new();
    let config = world.node.config(None).unwrap();
    let mine = world.node.resolve(&config, "logs").unwrap().peers[0].my_address.clone();
    let held = TcpListener::bind((mine.host.as_str(), mine.port)).unwrap();
    let told = world.ask(Verb::Up, "logs").await;
    assert_eq!((told.exit(), told.code()), (10, Some(102)), "{told:?}");
    let why = world.ok(Verb::Why, "logs").await.text();
    assert!(why.contains("Address already in use") && why.contains("next: shimai up logs"), "{why}");
    drop(held);
    // The resource comes up now; its disk has no metadata.
    assert_eq!(world.ask(Verb::Up, "logs").await.code(), Some(119));
    world.ok(Verb::Down, "logs").await;
    let why = world.ok(Verb::Why, "logs").await.text();
    assert!(!why.contains("ended with"), "that is over: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_not_taken_down_for_a_disk_that_cannot_be_used() {
    let world = World::new();
    world.ok(Verb::Up, "data").await;
    let path = world.folder.path().join("pair.res");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::File::create(world.folder.path().join("blank")).unwrap().set_len(DISK_BYTES).unwrap();
    std::fs::copy(world.folder.path().join("data0"), world.folder.path().join("torn")).unwrap();
    let torn = std::fs::File::options().write(true).open(world.folder.path().join("torn")).unwrap();
    // The size of the metadata, in the superblock at the end.
    torn.write_all_at(&[0xff; 4], DISK_BYTES - 4096 + 0x40).unwrap();
    for (useless, code, next) in
        [("absent", 104, ""), ("blank", 119, "create-md data/1    (if the disk is the right one)"), ("torn", 119, "")]
    {
        std::fs::write(&path, text.replace("data1\"", &format!("{useless}\""))).unwrap();
        let plan = world.ok(Verb::AdjustPlan, "data").await.text();
        assert!(plan.starts_with("down data && up data"), "{plan}");
        let told = world.ask(Verb::Adjust, "data").await;
        assert!(told.exit() == 10 && told.sentence().contains(useless), "{told:?}");
        assert_eq!((told.code(), told.next()), (Some(code), next), "{told:?}");
        assert_eq!(world.ok(Verb::CState, "data/1").await.text(), "WFConnection", "nothing was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_file_does_not_hide_what_runs() {
    let world = World::new();
    world.ok(Verb::Up, "data").await;
    let path = world.folder.path().join("pair.res");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("node-id", "nod-id")).unwrap();
    let why = world.ok(Verb::Why, "all").await.text();
    assert!(why.contains("bravo does not answer") && why.contains("next: shimai lint"), "{why}");
    assert_eq!(world.ok(Verb::Role, "all").await.text(), "Secondary/Unknown");
    world.ok(Verb::Down, "all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_comes_up_and_what_goes_down() {
    let world = World::new();
    let mut now = Request::new(Verb::Events, Some("data"));
    now.options.now = true;
    assert_eq!(world.request(now.clone()).await.text(), "exists -", "it is configured and may come");
    now.volume = Some(0);
    assert_eq!(world.request(now.clone()).await.exit(), 1);
    (now.volume, now.resource) = (None, Some("nosuch".into()));
    assert_eq!(world.request(now.clone()).await.exit(), 1);
    let watched = async {
        let mut request = Request::new(Verb::Events, Some("data"));
        (request.options.timestamps, request.options.timeout_ms) = (true, Some(3000));
        world.request(request).await
    };
    let acted = async {
        for verb in [Verb::Up, Verb::Down] {
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
            // Logs has no metadata; it comes up without its disk.
            world.ask(verb, "all").await;
        }
    };
    let (watched, ()) = tokio::join!(watched, acted);
    let text = watched.text();
    let lines: Vec<&str> = text.lines().map(|line| line.split_once("+00:00 ").expect("a time").1).collect();
    assert_eq!(lines[0], "exists -");
    assert!(lines[1].starts_with("create resource name:data role:Secondary suspended:no "), "{text}");
    let minors: Vec<&&str> = lines.iter().filter(|line| line.starts_with("create device name:data volume:")).collect();
    assert!(minors.len() == 2 && minors[1].contains("volume:1 minor:1"), "{text}");
    assert_eq!(lines.last(), Some(&"destroy resource name:data"), "{text}");
    assert!(!text.contains("name:logs"), "{text}");
    now.resource = None;
    now.options.full = true;
    assert_eq!(world.request(now).await.text(), "exists -");
}
