//! Options that are right one by one and wrong together.
//!
//! Each rule sees the options of one scope with what the scope inherits and with defaults: a resource, one of its
//! connections, one of its volumes. A remark stands at the line that counts for the first of the rule's options that is
//! written at all; defaults alone break no rule.
//!
//! Not here: what cannot be read or contradicts itself so that nothing could run (`check`).

use std::fmt::Write as _;

use super::Lints;
use crate::config::fill::Settings;
use crate::config::options::Section;
use crate::config::syntax::{Document, OptionLine, Options, ResourceConfig, Sections};
use crate::config::value::Quorum;

/// All that the rules can ask about.
struct Scope<'a> {
    options: Settings<'a>,
    net: Settings<'a>,
    disk: Settings<'a>,
    startup: Settings<'a>,
    handlers: Settings<'a>,
    /// Hosts of the resource; none where there is no resource.
    hosts: Option<usize>,
}

/// What the rule is about, most telling first, and what is wrong, if it is.
struct Rule {
    about: &'static [(Section, &'static str)],
    fault: fn(&Scope) -> Option<String>,
}

use Section::{Disk, Handlers, Net, Options as Resource, Startup};

const RULES: &[Rule] = &[
    Rule {
        about: &[(Net, "timeout"), (Net, "connect-int")],
        fault: |scope| below(&scope.net, "timeout", "connect-int"),
    },
    Rule { about: &[(Net, "timeout"), (Net, "ping-int")], fault: |scope| below(&scope.net, "timeout", "ping-int") },
    Rule {
        about: &[(Net, "ping-timeout"), (Net, "ping-int")],
        fault: |scope| below(&scope.net, "ping-timeout", "ping-int"),
    },
    Rule {
        about: &[(Net, "allow-two-primaries"), (Net, "protocol")],
        fault: |scope| {
            let protocol = scope.net.text("protocol")?;
            let is_wrong = scope.net.yes("allow-two-primaries") && protocol != "C";
            is_wrong.then(|| format!("allow-two-primaries needs protocol C, and this is protocol {protocol}"))
        },
    },
    Rule {
        about: &[(Net, "on-congestion"), (Net, "protocol")],
        fault: |scope| {
            let protocol = scope.net.text("protocol")?;
            let is_wrong = scope.net.text("on-congestion") == Some("pull-ahead") && protocol != "A";
            is_wrong.then(|| format!("on-congestion pull-ahead needs protocol A, and this is protocol {protocol}"))
        },
    },
    Rule {
        about: &[(Net, "fencing"), (Disk, "fencing"), (Net, "protocol")],
        fault: |scope| {
            let is_wrong = fencing(scope) == Some("resource-and-stonith") && scope.net.text("protocol") == Some("A");
            is_wrong.then(|| "fencing resource-and-stonith needs protocol B or C, and this is protocol A".to_owned())
        },
    },
    Rule {
        about: &[(Net, "fencing"), (Disk, "fencing")],
        fault: |scope| {
            let policy = fencing(scope).filter(|policy| *policy != "dont-care")?;
            let is_wrong = scope.handlers.written("fence-peer").is_none();
            is_wrong.then(|| format!("fencing {policy} asks the handler fence-peer, and there is none"))
        },
    },
    Rule {
        about: &[(Handlers, "fence-peer")],
        fault: |scope| {
            let is_wrong = fencing(scope).is_none_or(|policy| policy == "dont-care");
            is_wrong.then(|| "the handler fence-peer is asked only with fencing other than dont-care".to_owned())
        },
    },
    Rule {
        about: &[(Net, "cram-hmac-alg"), (Net, "shared-secret")],
        fault: |scope| match (scope.net.written("cram-hmac-alg"), scope.net.written("shared-secret")) {
            (Some(_), None) => Some("cram-hmac-alg without shared-secret: the peers need both".to_owned()),
            (None, Some(_)) => Some("shared-secret without cram-hmac-alg: nobody is asked for it".to_owned()),
            _ => None,
        },
    },
    Rule {
        about: &[(Net, "csums-after-crash-only")],
        fault: |scope| {
            let is_wrong = scope.net.yes("csums-after-crash-only") && scope.net.written("csums-alg").is_none();
            is_wrong.then(|| "csums-after-crash-only means nothing without csums-alg".to_owned())
        },
    },
    Rule { about: &[(Disk, "c-min-rate"), (Disk, "c-max-rate")], fault: |scope| rates(scope, "c-min-rate") },
    Rule { about: &[(Disk, "resync-rate"), (Disk, "c-max-rate")], fault: |scope| rates(scope, "resync-rate") },
    Rule {
        about: &[(Disk, "c-fill-target"), (Disk, "c-plan-ahead")],
        fault: |scope| unplanned(scope, "c-fill-target"),
    },
    Rule { about: &[(Disk, "c-max-rate"), (Disk, "c-plan-ahead")], fault: |scope| unplanned(scope, "c-max-rate") },
    Rule {
        about: &[(Disk, "c-delay-target")],
        fault: |scope| {
            let is_unused = scope.disk.number("c-fill-target") != 0;
            unplanned(scope, "c-delay-target")
                .or_else(|| is_unused.then(|| "c-delay-target counts only while c-fill-target is 0".to_owned()))
        },
    },
    Rule {
        about: &[(Disk, "discard-granularity"), (Disk, "block-size")],
        fault: |scope| {
            let (granularity, block) = (scope.disk.number("discard-granularity"), scope.disk.number("block-size"));
            let is_wrong = block > 0 && !granularity.is_multiple_of(block);
            is_wrong.then(|| format!("discard-granularity {granularity} is no multiple of block-size {block}"))
        },
    },
    Rule {
        about: &[(Startup, "degr-wfc-timeout"), (Startup, "wfc-timeout")],
        fault: |scope| patience(scope, "degr-wfc-timeout", "wfc-timeout"),
    },
    Rule {
        about: &[(Startup, "outdated-wfc-timeout"), (Startup, "degr-wfc-timeout"), (Startup, "wfc-timeout")],
        fault: |scope| {
            patience(scope, "outdated-wfc-timeout", "degr-wfc-timeout")
                .or_else(|| patience(scope, "outdated-wfc-timeout", "wfc-timeout"))
        },
    },
    Rule {
        about: &[(Startup, "become-primary-on"), (Net, "allow-two-primaries")],
        fault: |scope| {
            let is_wrong =
                scope.startup.written("become-primary-on") == Some("both") && !scope.net.yes("allow-two-primaries");
            is_wrong.then(|| "become-primary-on both needs allow-two-primaries".to_owned())
        },
    },
    Rule { about: &[(Resource, "quorum")], fault: |scope| countable(scope, "quorum") },
    Rule {
        about: &[(Resource, "quorum-minimum-redundancy")],
        fault: |scope| countable(scope, "quorum-minimum-redundancy").or_else(|| redundancy(scope)),
    },
    Rule {
        about: &[(Resource, "on-suspended-primary-outdated"), (Resource, "on-no-quorum")],
        fault: |scope| {
            let is_wrong = scope.options.text("on-suspended-primary-outdated") == Some("force-secondary")
                && scope.options.text("on-no-quorum") == Some("io-error");
            is_wrong.then(|| {
                "on-suspended-primary-outdated force-secondary needs on-no-quorum suspend-io: nothing is suspended"
                    .into()
            })
        },
    },
];

/// A time that must be shorter than another one.
fn below(net: &Settings, name: &str, other: &str) -> Option<String> {
    let (own, limit) = (net.duration(name), net.duration(other));
    (own >= limit)
        .then(|| format!("{name} ({} s) must be lower than {other} ({} s)", own.as_secs_f64(), limit.as_secs_f64()))
}

/// A resync rate above the ceiling; a fixed rate has none.
fn rates(scope: &Scope, name: &str) -> Option<String> {
    let (own, ceiling) = (scope.disk.number(name), scope.disk.number("c-max-rate"));
    let is_wrong = scope.disk.number("c-plan-ahead") != 0 && ceiling != 0 && own > ceiling;
    is_wrong.then(|| format!("{name} ({own} KiB/s) is above c-max-rate ({ceiling} KiB/s)"))
}

/// An option of the resync's controller where there is none.
fn unplanned(scope: &Scope, name: &str) -> Option<String> {
    let is_fixed = scope.disk.written(name).is_some() && scope.disk.number("c-plan-ahead") == 0;
    is_fixed.then(|| format!("{name} counts only with c-plan-ahead; while that is 0, resync-rate is the rate"))
}

/// The tools cut what is longer; 0 is for ever.
fn patience(scope: &Scope, name: &str, limit: &str) -> Option<String> {
    let of = |name| Some(scope.startup.duration(name).as_secs()).filter(|seconds| *seconds > 0);
    let written = scope.startup.written(name)?;
    let limit_seconds = of(limit)?;
    let is_wrong = of(name).is_none_or(|own| own > limit_seconds);
    is_wrong.then(|| {
        let endless = if written == "0" { " (for ever)" } else { "" };
        format!("{name} {written}{endless} is longer than {limit} {limit_seconds}, and is lowered to wfc-timeout")
    })
}

/// More nodes than there are.
fn countable(scope: &Scope, name: &str) -> Option<String> {
    let hosts = scope.hosts?;
    match scope.options.quorum(name) {
        Quorum::Count(count) if usize::from(count) > hosts => {
            Some(format!("{name} {count} can never be reached: there are {hosts} hosts"))
        }
        _ => None,
    }
}

fn redundancy(scope: &Scope) -> Option<String> {
    let name = "quorum-minimum-redundancy";
    if scope.options.quorum("quorum") == Quorum::Off && scope.options.quorum(name) != Quorum::Off {
        return Some(format!("{name} means nothing without quorum"));
    }
    let is_unreliable = matches!(scope.options.quorum(name), Quorum::Majority | Quorum::All);
    is_unreliable.then(|| format!("{name} is unreliable while a peer has never been seen; write a number"))
}

/// The language of DRBD 9 has it in `net`, that of 8.4 in `disk`.
fn fencing<'a>(scope: &Scope<'a>) -> Option<&'a str> {
    scope.net.written("fencing").or_else(|| scope.disk.written("fencing"))
}

impl<'a> Scope<'a> {
    fn new(places: &[&'a Sections], net: &[&'a Options], disk: &[&'a Options], hosts: Option<usize>) -> Self {
        let settings = |section, of: fn(&Sections) -> &Options, more: &[&'a Options]| {
            let all: Vec<&Options> = places.iter().map(|place| of(place)).chain(more.iter().copied()).collect();
            Settings::new(section, &all)
        };
        Self {
            options: settings(Resource, |place| &place.options, &[]),
            net: settings(Net, |place| &place.net, net),
            disk: settings(Disk, |place| &place.disk, disk),
            startup: settings(Startup, |place| &place.startup, &[]),
            handlers: settings(Handlers, |place| &place.handlers, &[]),
            hosts,
        }
    }

    fn line(&self, section: Section, name: &str) -> Option<&'a OptionLine> {
        let settings = match section {
            Section::Options => &self.options,
            Section::Net => &self.net,
            Section::Disk => &self.disk,
            Section::Startup => &self.startup,
            Section::Handlers => &self.handlers,
            Section::Global | Section::Proxy => return None,
        };
        settings.line(name)
    }

    fn judge(&self, lints: &mut Lints) {
        for rule in RULES {
            let mut written = rule.about.iter().filter_map(|(section, name)| self.line(*section, name));
            let Some(first) = written.next() else { continue };
            if let Some(mut sentence) = (rule.fault)(self) {
                for other in written.filter(|other| other.place != first.place) {
                    write!(sentence, "; {} is written at {}", other.spec.name, other.place)
                        .expect("a String takes all");
                }
                lints.say_once(&first.place, sentence);
            }
        }
    }
}

/// Remarks about every scope of a document.
pub(super) fn document(document: &Document, only: Option<&str>, lints: &mut Lints) {
    if document.resources.is_empty()
        && let Some(common) = &document.common
    {
        Scope::new(&[common], &[], &[], None).judge(lints);
    }
    for resource in document.resources.iter().filter(|resource| only.is_none_or(|name| resource.name == name)) {
        scopes(document, resource, lints);
        names(document, resource, lints);
    }
}

/// Options that name what is not there. The tools only say so, too.
fn names(document: &Document, resource: &ResourceConfig, lints: &mut Lints) {
    let is_resource = |name: &str| document.resources.iter().any(|other| other.name == name);
    let volumes = resource.volumes.iter().chain(resource.hosts.iter().flat_map(|host| &host.volumes));
    let disks = volumes.map(|volume| &volume.disk_options).chain([&resource.sections.disk]);
    for line in disks.filter_map(|options| options.line("resync-after")) {
        let name = line.value.split('/').next().unwrap_or_default();
        let is_minor = name == "-1" || name.bytes().all(|byte| byte.is_ascii_digit());
        if !is_minor && !is_resource(name) {
            lints.say(&line.place, format!("resync-after names {name:?}, which is no resource"));
        }
    }
    if let Some(line) = resource.sections.startup.line("become-primary-on").filter(|line| line.value != "both") {
        let is_host = |name: &str| resource.hosts.iter().any(|host| host.is_named(name));
        for name in line.value.split(' ').filter(|name| !is_host(name)) {
            lints.say(&line.place, format!("become-primary-on names {name:?}, which is no host of the resource"));
        }
    }
}

fn scopes(document: &Document, resource: &ResourceConfig, lints: &mut Lints) {
    let inherited = match &resource.template {
        Some((_, template)) => Some(&**template),
        None => document.common.as_ref(),
    };
    let places: Vec<&Sections> = inherited.into_iter().chain([&resource.sections]).collect();
    let hosts = Some(resource.hosts.len());
    let mut judge = |net: &[&Options], disk: &[&Options]| Scope::new(&places, net, disk, hosts).judge(lints);
    let links: Vec<(&Options, &Options)> = resource
        .connections
        .iter()
        .map(|connection| (&connection.net, &connection.disk))
        .chain(resource.meshes.iter().map(|mesh| (&mesh.net, &mesh.disk)))
        .collect();
    for (net, disk) in &links {
        judge(&[net], &[disk]);
    }
    let volumes = resource.volumes.iter().chain(resource.hosts.iter().flat_map(|host| &host.volumes));
    for volume in volumes.filter(|volume| !volume.disk_options.0.is_empty()) {
        judge(&[], &[&volume.disk_options]);
    }
    // What no connection overrides holds for the resource itself.
    if links.is_empty() {
        judge(&[], &[]);
    }
}
