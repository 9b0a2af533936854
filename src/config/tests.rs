//! The language as a whole: load, resolve, refuse, print.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::ids::{NodeId, VolumeNumber};

const TWO: &str = r#"
on alice { device /dev/drbd0; disk /dev/sdb1; meta-disk internal; address 10.0.0.1:7789; }
on bob { device /dev/drbd0; disk /dev/sdb1; meta-disk internal; address 10.0.0.2:7789; }
"#;

fn load(text: &str) -> Result<Config, Vec<ConfigError>> {
    Config::load("main.conf", &MemoryFiles::single("main.conf", text))
}

fn good(text: &str) -> Config {
    load(text).unwrap_or_else(|errors| panic!("{}\n{text}", messages(&errors)))
}

fn messages(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn refused(text: &str, expected: &str) {
    match load(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(errors) => assert_eq!(messages(&errors), expected, "{text}"),
    }
}

fn served() -> Served {
    Served { peers_max: 1, macs: vec!["sha1", "sha256"], digests: vec!["crc32c", "sha1"] }
}

fn node(number: u8) -> NodeId {
    NodeId::new(number).expect("small")
}

#[test]
fn a_two_node_resource_resolves_to_defaults_and_what_is_written() {
    let config = good(&format!("resource r {{ protocol B; net {{ timeout 70; }} disk {{ size 1M; }} {TWO} }}"));
    let resource = config.resolve("r", "alice").expect("alice is named");
    assert_eq!(resource.me.name, "alice");
    let [peer] = resource.peers.as_slice() else { panic!("one peer") };
    assert_eq!(peer.name, "bob");
    assert_eq!(peer.net.protocol, ReplicationProtocol::B);
    assert_eq!(peer.net.timeout, Duration::from_secs(7));
    assert_eq!(peer.net.ping_timeout, Duration::from_millis(500));
    assert_eq!(peer.net.after_sb_1pri, AfterSb1Pri::Disconnect);
    assert_eq!(peer.address.to_string(), "ipv4 10.0.0.2:7789");
    assert_eq!(peer.volumes[0].options.resync_rate, 250 * 1024);
    assert_eq!(peer.volumes[0].options.c_max_rate, 100 << 20);
    let [volume] = resource.volumes.as_slice() else { panic!("one volume") };
    assert_eq!(volume.device_name.as_deref(), Some("drbd0"));
    assert_eq!((volume.minor, volume.options.size_sectors, volume.options.al_extents), (0, 2048, 1237));
    assert_eq!(volume.meta, MetaDisk::Internal);
    assert_eq!(resource.defined_at, ("main.conf".to_owned(), 1));
    assert_eq!(resource.startup.wfc_timeout, None);
}

#[test]
fn older_spellings_are_read() {
    let config = good(&format!("resource r {{ net {{ protocol a; }} disk {{ al-extents 7; }} {TWO} }}"));
    let resource = config.resolve("r", "alice").expect("alice is named");
    assert_eq!(resource.peers[0].net.protocol, ReplicationProtocol::A);
    assert_eq!(resource.volumes[0].options.al_extents, 67);
}

#[test]
fn every_default_of_the_table_reaches_the_values() {
    let config = good(&format!("resource r {{ {TWO} }}"));
    let resource = config.resolve("r", "alice").expect("alice is named");
    let net = &resource.peers[0].net;
    assert_eq!((net.max_buffers, net.max_epoch_size, net.ko_count), (2048, 2048, 7));
    assert!(net.use_rle && net.tcp_cork && !net.allow_two_primaries);
    assert_eq!(resource.options.twopc_timeout, Duration::from_secs(30));
    assert_eq!(resource.options.on_no_quorum, OnNoData::SuspendIo);
    let disk = &resource.volumes[0].options;
    assert!(disk.disk_flushes && disk.md_flushes && !disk.disk_barrier && disk.al_updates);
    assert_eq!(disk.on_io_error, OnIoError::Detach);
}

#[test]
fn hosts_match_without_case_and_by_short_name() {
    for (written, uname, expected) in [
        ("alice", "alice", true),
        ("alice", "ALICE", true),
        ("alice", "alice.example.org", true),
        ("alice.example.org", "alice", true),
        ("alice.example.org", "alice.example.com", false),
        ("alice", "alice2", false),
    ] {
        assert_eq!(resolve::is_same_host(written, uname), expected, "{written} {uname}");
    }
}

#[test]
fn a_resource_for_others_says_for_whom() {
    let error = good(&format!("resource r {{ {TWO} }}")).resolve("r", "carol").expect_err("carol is not named");
    assert_eq!(error.to_string(), "resource \"r\" is not for node \"carol\"; it names alice, bob");
    let error = good(&format!("resource r {{ {TWO} }}")).resolve("x", "alice").expect_err("x is not defined");
    assert_eq!(error.to_string(), "resource \"x\" is not defined; the configuration defines r");
}

#[test]
fn three_nodes_of_a_mesh_see_each_other_with_what_is_inherited() {
    let config = good(
        r#"
common { net { protocol A; ping-int 5; max-buffers 8k; } disk { c-max-rate 1M; } }
resource r {
    net { ping-int 6; }
    disk { c-min-rate 100; on-io-error pass_on; }
    volume 0 { device minor 0; disk /dev/a; meta-disk /dev/m[2]; disk { al-extents 257; } }
    volume 1 { device /dev/drbd_log minor 1; disk none; }
    on alice { node-id 2; address 10.0.0.1:1; volume 1 { disk /dev/b; meta-disk /dev/c; disk { on-io-error detach; } } }
    on bob { node-id 0; address 10.0.0.2:1; options { auto-promote no; } }
    on carol { node-id 1; address ipv6 [fd00::3]:1; }
    connection-mesh { hosts alice bob carol; net { protocol B; } }
    connection { host alice port 9; host carol address ipv6 [fd00::33]:2; net { ping-int 7; } volume 1 { disk { c-max-rate 2M; } } }
}"#,
    );
    let resource = config.resolve("r", "alice").expect("alice is named");
    assert_eq!(resource.me.node_id, node(2));
    let names: Vec<_> = resource.peers.iter().map(|peer| (peer.name.as_str(), peer.node_id)).collect();
    assert_eq!(names, [("bob", node(0)), ("carol", node(1))]);
    let (bob, carol) = (&resource.peers[0], &resource.peers[1]);
    assert_eq!((bob.net.protocol, carol.net.protocol), (ReplicationProtocol::B, ReplicationProtocol::A));
    assert_eq!((bob.net.ping_int, carol.net.ping_int), (Duration::from_secs(6), Duration::from_secs(7)));
    assert_eq!(bob.net.max_buffers, 8192);
    assert_eq!((carol.my_address.port, carol.address.to_string()), (9, "ipv6 [fd00::33]:2".to_owned()));
    assert_eq!(carol.volumes[1].options.c_max_rate, 2 << 20);
    assert_eq!(bob.volumes[1].options.c_max_rate, 1 << 20);
    assert_eq!(bob.volumes[0].options.c_min_rate, 100 << 10);
    assert_eq!(bob.diskless_volumes, [VolumeNumber(1)]);
    assert_eq!(resource.volumes[0].meta, MetaDisk::Indexed("/dev/m".to_owned(), 2));
    assert_eq!(resource.volumes[0].options.al_extents, 257);
    assert_eq!(resource.volumes[1].disk.as_deref(), Some("/dev/b"));
    assert_eq!(resource.volumes[1].options.on_io_error, OnIoError::Detach);
    assert!(!config.resolve("r", "bob").expect("bob is named").options.auto_promote);
    assert_eq!(config.resolve("r", "bob").expect("bob is named").volumes[1].disk, None);
}

#[test]
fn two_hosts_without_node_ids_get_them_from_their_addresses() {
    // As the tools number these pairs.
    for (one, other, expected) in [
        ("192.168.1.101:7789", "192.168.1.102:7789", (1, 0)),
        ("10.0.0.1:7789", "10.0.0.2:7789", (0, 1)),
        ("10.0.0.1:70", "10.0.0.2:10", (0, 1)),
        ("172.16.3.4:7788", "172.16.3.5:7788", (1, 0)),
        ("1.2.3.4:5", "6.7.8.9:10", (0, 1)),
        ("ipv6 [fe80::5]:1", "ipv6 [fe80::6]:1", (0, 1)),
        ("ipv6 [::1]:70", "10.0.0.1:70", (1, 0)),
        // The tools give up here; the port decides.
        ("127.0.0.1:7000", "127.0.0.1:7001", (0, 1)),
    ] {
        let host = |name, address| format!("on {name} {{ device minor 0; disk /dev/a; address {address}; }}");
        let config = good(&format!("resource r {{ {} {} }}", host("a", one), host("b", other)));
        let resource = config.resolve("r", "a").expect("a is named");
        assert_eq!((resource.me.node_id.number(), resource.peers[0].node_id.number()), expected, "{one} {other}");
    }
}

#[test]
fn timeouts_of_starting_do_not_grow() {
    let startup = |text: &str| {
        let config = good(&format!("resource r {{ startup {{ {text} }} {TWO} }}"));
        config.resolve("r", "alice").expect("alice is named").startup
    };
    let seconds = |count| Some(Duration::from_secs(count));
    assert_eq!(startup("wfc-timeout 20; degr-wfc-timeout 60;").degr_wfc_timeout, seconds(20));
    assert_eq!(startup("wfc-timeout 20;").outdated_wfc_timeout, seconds(20));
    assert_eq!(startup("degr-wfc-timeout 60;").degr_wfc_timeout, seconds(60));
    assert_eq!(startup("degr-wfc-timeout 60;").wfc_timeout, None);
}

#[test]
fn includes_are_read_once_beside_their_file() {
    let mut files = MemoryFiles::single("etc/main.conf", "include \"d/*.res\"; include d/a.res;");
    files.0.insert("etc/d/a.res".to_owned(), format!("resource a {{ {TWO} }}").into_bytes());
    files.0.insert("etc/d/b.res".to_owned(), b"include \"nothing*\"; include ../main.conf;".to_vec());
    files.0.insert("etc/d/../main.conf".to_owned(), Vec::new());
    let config = Config::load("etc/main.conf", &files).expect("all files are there");
    assert_eq!(config.resources().len(), 1);
    assert_eq!(config.lookup("a").map(|resource| resource.place.to_string()).as_deref(), Some("etc/d/a.res:1:10"));
    files.0.insert("etc/d/b.res".to_owned(), b"\n  include gone.res;".to_vec());
    let errors = Config::load("etc/main.conf", &files).expect_err("a file is missing");
    assert_eq!(messages(&errors), "etc/d/b.res:2:11: cannot read \"etc/d/gone.res\": No such file");
}

#[test]
fn faults_name_their_place_the_range_and_the_nearest_name() {
    refused(
        "resource r { net { ping-itn 3; } }",
        "main.conf:1:20: unknown name \"ping-itn\" in section net; did you mean \"ping-int\"?",
    );
    refused(
        &format!("resource r {{ net {{ ping-int 121; protocol D; use-rle maybe; timeout x; }}\n{TWO} }}"),
        "main.conf:1:29: ping-int 121 is out of range; it takes a number from 1 to 120 (s)\n\
         main.conf:1:43: protocol cannot be \"D\"; allowed values are A, B, C\n\
         main.conf:1:54: use-rle cannot be \"maybe\"; allowed values are yes, no\n\
         main.conf:1:69: timeout cannot be \"x\"; it takes a number from 1 to 600 (tenths of a second)",
    );
    refused("resource r {", "main.conf:1:13: expected a section of the resource or '}', found the end of the file");
    refused(
        "resource r { handlers { split-brain \"a\n\"; } }",
        "main.conf:1:37: the quoted string does not end on its line",
    );
    refused("resouce r { }", "main.conf:1:1: unknown name \"resouce\" in the file; did you mean \"resource\"?");
    refused("resource r { net { protocol C } }", "main.conf:1:31: expected ';', found '}'");
}

#[test]
fn two_volumes_never_share_a_disk() {
    // The tools find this out when the second one attaches; here it is a fault of the file.
    let volume = |number| format!("volume {number} {{ device minor {number}; disk /dev/a; }}");
    refused(
        &format!("resource r {{ on a {{ {} {} }} }}", volume(0), volume(1)),
        "main.conf:1:90: disk /dev/a of volume 1 of host a of resource r is already used by volume 0 of host a of \
         resource r at main.conf:1:48",
    );
}

#[test]
fn three_hosts_without_a_connection_have_no_meaning() {
    let host = |name: &str, id: u8| format!("on {name} {{ node-id {id}; address 10.0.0.{id}:7789; }}");
    let text = format!(
        "resource r {{ device minor 0; disk /dev/a; {} {} {} }}",
        host("alice", 1),
        host("bob", 2),
        host("carol", 3)
    );
    let error = good(&text).resolve("r", "alice").expect_err("nobody said who replicates with whom");
    let expected = "resource \"r\" has 3 hosts (alice, bob, carol) and no connection between them; write connection \
                    sections or a connection-mesh";
    assert_eq!((error.to_string().as_str(), error.is_fault()), (expected, true));
}

#[test]
fn what_cannot_be_negated_is_told_so() {
    refused(
        "common { net { no-timeout; } }",
        "main.conf:1:16: there is no \"no-timeout\": timeout is not switched on and off, it takes 1 to 600 (tenths of a second)",
    );
}

#[test]
fn a_percent_sign_stands_in_ipv6_addresses_only() {
    let text =
        TWO.replace("address 10.0.0.1", "address ipv6 [fe80::1%eth0]").replace("10.0.0.2", "ipv6 [fe80::2%eth0]");
    let resource = good(&format!("resource r {{ {text} }}")).resolve("r", "alice").expect("alice is named");
    assert_eq!(resource.me.address.to_string(), "ipv6 [fe80::1%eth0]:7789");
    refused(
        "resource r { disk a%b; }",
        "main.conf:1:20: unexpected character '%'; put values that need it in double quotes",
    );
}

#[test]
fn a_missing_configuration_has_no_place_in_it() {
    let errors = Config::load("absent.conf", &MemoryFiles::single("main.conf", "")).expect_err("it is not there");
    assert_eq!(messages(&errors), "cannot read the configuration absent.conf: No such file");
    assert!(errors[0].is_unreadable_configuration());
    let errors = load("include \"absent.conf\";").expect_err("it is not there");
    assert!(!errors[0].is_unreadable_configuration(), "{errors:?}");
}

#[test]
fn lint_names_what_has_no_effect() {
    let config = good(&format!(
        "resource r {{ net {{ verify-alg sha512; tcp-cork yes; }} handlers {{ split-brain x; quorum-lost x; }} {TWO} }}"
    ));
    let lints: Vec<String> = config.lint(None, &served()).iter().map(ToString::to_string).collect();
    assert_eq!(
        lints,
        [
            "main.conf:1:20: verify-alg sha512 is not served: no verify can begin; served are crc32c, sha1",
            "main.conf:1:81: handler quorum-lost is not called yet",
        ]
    );
}

#[test]
fn lint_passes_over_nothing() {
    let three = |more: &str| {
        let host = |name: &str, id: u8| format!("on {name} {{ node-id {id}; address 10.0.0.{id}:7789; }}");
        let hosts = [("alice", 1), ("bob", 2), ("carol", 3)].map(|(name, id)| host(name, id)).concat();
        format!("resource r {{ device minor 0; disk /dev/a; {hosts} {more} }}")
    };
    let two = |more: &str| format!("resource r {{ {more} {TWO} }}");
    let path = |port| format!("path {{ host alice address 10.0.0.1:{port}; host bob address 10.0.0.2:{port}; }}");
    let one = "replicates with 2 peers, and does not come up: 1 is served";
    let cases = [
        (
            "global { disable-ip-verification; cmd-timeout-short 9; }".into(),
            "disable-ip-verification in section global",
        ),
        ("global { cmd-timeout-short 9; }".into(), "cmd-timeout-short in section global has no effect yet"),
        ("global { usage-count no; }".into(), ""),
        ("require-drbd-module-version-ge 9.0.0;".into(), "require-drbd-module-version-ge is not checked"),
        (two("options { auto-promote yes; }"), "auto-promote in section options has no effect yet"),
        (two("options { auto-promote no; }"), "auto-promote in section options has no effect yet"),
        (two("disk { al-updates yes; }"), ""),
        (two("disk { on-io-error call-local-io-error; }"), ""),
        (two("disk { resync-after nosuch/0; }"), "resync-after names \"nosuch\", which is no resource"),
        (two("proxy { plugin { zstd level 5; } }"), "plugins of the proxy have no effect yet"),
        (
            two("net { cram-hmac-alg sha9; shared-secret x; }"),
            "cram-hmac-alg sha9 is not served, and keeps the resource",
        ),
        (
            two("net { csums-alg foo; }"),
            "csums-alg foo is not served, and keeps the resource down; served are crc32c, sha1",
        ),
        (two("net { data-integrity-alg bar; }"), "data-integrity-alg bar is not served"),
        (two("net { csums-alg sha1; }"), ""),
        (two("startup { become-primary-on both; }"), "become-primary-on both needs allow-two-primaries"),
        (two("startup { become-primary-on carol; }"), "become-primary-on names \"carol\", which is no host"),
        (
            two(&format!("connection {{ {} {} }}", path(7790), path(7791))),
            "only the first path of a connection is used",
        ),
        (three("connection-mesh { hosts alice bob carol; }"), one),
        (three("connection { host alice; host bob; }"), "host carol of resource r has no connection: it runs alone"),
        (three(""), "has 3 hosts (alice, bob, carol) and no connection between them"),
        (
            "resource r { volume 0 { device minor 0; disk /dev/a; tiebreaker no; } on alice { address 10.0.0.1:7; } }"
                .into(),
            "tiebreaker of volume 0 has no effect yet",
        ),
    ];
    for (text, expected) in &cases {
        let lints: Vec<String> = good(text).lint(None, &served()).iter().map(ToString::to_string).collect();
        match *expected {
            "" => assert_eq!(lints, [""; 0], "{text}"),
            expected => assert!(lints.iter().any(|lint| lint.contains(expected)), "{text}: {lints:#?}"),
        }
    }
}

#[test]
fn lint_of_one_resource_leaves_the_others_out() {
    let resource = |name: &str, port: u16| {
        let hosts =
            TWO.replace("drbd0", &format!("drbd{port}")).replace("sdb1", name).replace("7789", &port.to_string());
        format!("resource {name} {{ net {{ tcp-cork no; }} {hosts} }}\n")
    };
    let config = good(&format!("{}{}", resource("r", 7790), resource("s", 7791)));
    assert_eq!(config.lint(None, &served()).len(), 2);
    assert_eq!(config.lint(Some("s"), &served()).len(), 1);
}

#[test]
fn a_floating_host_is_found_by_our_address() {
    let text = "resource r { device minor 0; disk /dev/a;
        floating 10.0.0.1:7789 { node-id 0; } floating ipv6 [fe80::2%eth0]:7789 { node-id 1; } }";
    let mine = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        good(text).at(addresses).resolve("r", "uname").map(|resource| resource.me.name)
    };
    assert_eq!(mine(&["127.0.0.1", "10.0.0.1"]).as_deref(), Ok("ipv4 10.0.0.1:7789"));
    assert_eq!(mine(&["fe80::2"]).as_deref(), Ok("ipv6 [fe80::2%eth0]:7789"));
    let error = mine(&["127.0.0.1"]).expect_err("nobody is here");
    assert!(error.to_string().contains("is not for node \"uname\""), "{error}");
    // Who names the node means it, whatever addresses there are.
    let addresses = vec!["10.0.0.1".parse().expect("an address")];
    let other = good(text).at(addresses).resolve("r", "fe80::2%eth0").map(|resource| resource.me.name);
    assert_eq!(other.as_deref(), Ok("ipv6 [fe80::2%eth0]:7789"));
}

#[test]
fn names_of_digits_are_quoted_when_they_are_printed() {
    let config = good(&format!("resource \"12\" {{ {} }}", TWO.replace("on bob", "on \"7\"")));
    let dump = config.dump("alice");
    assert!(dump.contains("resource \"12\" {") && dump.contains("on \"7\" {"), "{dump}");
    good(&dump);
}

/// Remarks about a resource with these sections, without those about options that have no effect yet.
fn relations(sections: &str) -> Vec<String> {
    let config = good(&format!("{sections}\nresource r {{ {TWO} }}"));
    let lints = config.lint(None, &served()).into_iter().filter(|lint| !lint.sentence.contains("yet"));
    lints.map(|lint| format!("{}: {}", lint.line, lint.sentence)).collect()
}

#[test]
fn lint_names_options_that_do_not_go_together() {
    let cases: &[(&str, &[&str])] = &[
        (
            "net { timeout 100; }",
            &[
                "1: timeout (10 s) must be lower than connect-int (10 s)",
                "1: timeout (10 s) must be lower than ping-int (10 s)",
            ],
        ),
        (
            "net { connect-int 6;\nping-int 5; }",
            &[
                "1: timeout (6 s) must be lower than connect-int (6 s)",
                "2: timeout (6 s) must be lower than ping-int (5 s)",
            ],
        ),
        (
            "net { ping-timeout 20;\nping-int 1; timeout 5; }",
            &["1: ping-timeout (2 s) must be lower than ping-int (1 s); ping-int is written at main.conf:2:1"],
        ),
        ("net { timeout 59; connect-int 6; ping-int 6; ping-timeout 59; }", &[]),
        (
            "net { allow-two-primaries;\nprotocol B; }",
            &["1: allow-two-primaries needs protocol C, and this is protocol B; protocol is written at main.conf:2:1"],
        ),
        (
            "net { on-congestion pull-ahead; }",
            &["1: on-congestion pull-ahead needs protocol A, and this is protocol C"],
        ),
        ("net { on-congestion pull-ahead; protocol A; }", &[]),
        (
            "net { protocol A; }\ndisk { fencing resource-and-stonith; }\nhandlers { fence-peer x; }",
            &["2: fencing resource-and-stonith needs protocol B or C, and this is protocol A; protocol is written at \
             main.conf:1:16"],
        ),
        (
            "disk { fencing resource-only; }",
            &["1: fencing resource-only asks the handler fence-peer, and there is none"],
        ),
        ("handlers { fence-peer x; }", &["1: the handler fence-peer is asked only with fencing other than dont-care"]),
        ("net { cram-hmac-alg sha1; }", &["1: cram-hmac-alg without shared-secret: the peers need both"]),
        ("net { shared-secret x; }", &["1: shared-secret without cram-hmac-alg: nobody is asked for it"]),
        ("net { csums-after-crash-only; }", &["1: csums-after-crash-only means nothing without csums-alg"]),
        (
            "disk { c-min-rate 2M; c-max-rate 1M; }",
            &["1: c-min-rate (2048 KiB/s) is above c-max-rate (1024 KiB/s); c-max-rate is written at main.conf:1:32"],
        ),
        ("disk { resync-rate 200M; }", &["1: resync-rate (204800 KiB/s) is above c-max-rate (102400 KiB/s)"]),
        ("disk { resync-rate 200M; c-plan-ahead 0; }", &[]),
        (
            "disk { c-plan-ahead 0; c-fill-target 1M; }",
            &[
                "1: c-fill-target counts only with c-plan-ahead; while that is 0, resync-rate is the rate; c-plan-ahead is \
             written at main.conf:1:17",
            ],
        ),
        ("disk { c-delay-target 5; }", &["1: c-delay-target counts only while c-fill-target is 0"]),
        (
            "disk { discard-granularity 5000; block-size 4096; }",
            &["1: discard-granularity 5000 is no multiple of block-size 4096; block-size is written at main.conf:1:43"],
        ),
        (
            "startup { wfc-timeout 60; degr-wfc-timeout 120; outdated-wfc-timeout 0; }",
            &[
                "1: degr-wfc-timeout 120 is longer than wfc-timeout 60, and is lowered to wfc-timeout; wfc-timeout is written \
             at main.conf:1:20",
                "1: outdated-wfc-timeout 0 (for ever) is longer than degr-wfc-timeout 120, and is lowered to wfc-timeout; \
             degr-wfc-timeout is written at main.conf:1:36; wfc-timeout is written at main.conf:1:20",
            ],
        ),
        ("startup { wfc-timeout 60; degr-wfc-timeout 60; outdated-wfc-timeout 5; }", &[]),
        (
            "options { quorum 3; quorum-minimum-redundancy all; }",
            &[
                "1: quorum 3 can never be reached: there are 2 hosts",
                "1: quorum-minimum-redundancy is unreliable while a peer has never been seen; write a number",
            ],
        ),
        ("options { quorum-minimum-redundancy 1; }", &["1: quorum-minimum-redundancy means nothing without quorum"]),
        (
            "options { on-suspended-primary-outdated force-secondary; on-no-quorum io-error; }",
            &["1: on-suspended-primary-outdated force-secondary needs on-no-quorum suspend-io: nothing is suspended; \
             on-no-quorum is written at main.conf:1:67"],
        ),
    ];
    for (sections, expected) in cases {
        assert_eq!(relations(&format!("common {{ {sections} }}")), *expected, "{sections}");
    }
}

#[test]
fn what_is_inherited_is_judged_where_it_counts_and_said_once() {
    let host = |number: u8, port: u16| {
        format!(
            "on h{number} {{ node-id {number}; device /dev/drbd{port}; disk /dev/sd{port}; address 10.0.0.{number}:{port}; }}"
        )
    };
    let resource = |name: &str, port: u16, more: &str| {
        let link = format!("connection {{ host h1; host h2; net {{ {more} }} }}");
        format!("resource {name} {{\n{} {}\n{link}\n}}\n", host(1, port), host(2, port))
    };
    let text = |more: &str| {
        let common = "common { net { ping-int 3; timeout 40; } }\n";
        format!("{common}{}{}", resource("a", 7001, more), resource("b", 7002, more))
    };
    let lints = |more: &str| -> Vec<String> {
        good(&text(more)).lint(None, &served()).iter().map(ToString::to_string).collect()
    };
    let sentence = "timeout (4 s) must be lower than ping-int (3 s); ping-int is written at main.conf:1:16";
    assert_eq!(lints(""), [format!("main.conf:1:28: {sentence}")]);
    assert_eq!(lints("ping-int 5;"), [""; 0], "each connection overrides it");
    let lints = lints("ping-timeout 30;");
    assert_eq!(lints.len(), 3, "one for all, one for each: {lints:#?}");
}

#[test]
fn the_sample_file_is_a_configuration_and_stays_one_when_uncommented() {
    let sample = Config::sample_file();
    good(&sample);
    // A sentence has a blank after its #, an option has none; what has no default shows a placeholder.
    let is_option = |line: &&str| !line.trim_start().starts_with("# ") && !line.contains('…');
    let uncommented: Vec<String> = sample.lines().filter(is_option).map(|line| line.replace('#', "")).collect();
    let uncommented = uncommented.join("\n").replace("resource data {", "skip {");
    let config = good(&uncommented);
    assert!(config.document().common.as_ref().is_some_and(|common| common.net.0.len() > 30), "{uncommented}");
}

/// Words and signs of the language in any order, which reach deeper than arbitrary text does.
fn soup() -> impl Strategy<Value = String> {
    let words = [
        "resource",
        "common",
        "global",
        "net",
        "disk",
        "options",
        "on",
        "floating",
        "connection",
        "connection-mesh",
        "hosts",
        "host",
        "volume",
        "device",
        "minor",
        "meta-disk",
        "internal",
        "address",
        "ipv6",
        "port",
        "node-id",
        "protocol",
        "C",
        "skip",
        "include",
        "template-file",
        "proxy",
        "plugin",
        "inside",
        "stacked-on-top-of",
        "0",
        "1",
        "r",
        "a",
        "/dev/drbd0",
        "10.0.0.1",
        "7789",
        "{",
        "{",
        "}",
        "}",
        "}",
        "[",
        "]",
        ":",
        ";",
        ";",
        ";",
        "\"x y\"",
        "\"",
        "!",
        "99999999999999999999",
        "no-use-rle",
        "use-rle",
        "via",
        "#",
        "\n",
        "syncer",
        "rate",
        "handlers",
        "path",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..60).prop_map(|words| words.join(" "))
}

/// Where a resource is defined differs between a file and its dump.
fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), soup in soup()) {
        let _ = Config::load("f", &MemoryFiles::single("f", bytes));
        let in_resource = format!("resource r {{ {soup} }}");
        for text in [soup, in_resource] {
            if let Ok(config) = load(&text) {
                let dump = config.dump("a");
                prop_assert_eq!(without_comments(&good(&dump).dump("a")), without_comments(&dump));
                for resource in config.resources() {
                    let _ = config.resolve(&resource.name, "a");
                }
            }
        }
    }

    #[test]
    fn any_text_survives_being_quoted(text in "[^\n\r\\x00]{0,60}") {
        let written = format!("resource r {{ handlers {{ split-brain {}; }} {TWO} }}", dump::quoted(&text));
        let config = good(&written);
        let resource = config.resolve("r", "alice").expect("alice is named");
        prop_assert_eq!(resource.handlers.get("split-brain"), Some(&text));
    }
}
