//! `drbdsetup`: what there is to be seen and switched at the kernel's module. Resources have names; volumes have a minor
//! number, peers a node id.

use super::{Asked, Complaint, OWN_OPTIONS, option};

/// Exit code: wrong usage, which is another one than that of `drbdadm`.
const EXIT_USAGE: u8 = 20;

/// What a command is told to be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `[RESOURCE|all]`
    Any,
    /// `RESOURCE`, or the `MINOR` of 8.4.
    Resource,
    /// `RESOURCE PEER`, or the `MINOR` of 8.4.
    Peer,
    /// `RESOURCE PEER VOLUME`, or the `MINOR` of 8.4.
    PeerVolume,
    /// `MINOR`
    Minor,
}

/// The command, that of `shimai`, and what it is about.
const COMMANDS: [(&str, &str, Form); 29] = [
    ("status", "status", Form::Any),
    ("events2", "events2", Form::Any),
    ("role", "role", Form::Resource),
    ("state", "role", Form::Resource),
    ("primary", "primary", Form::Resource),
    ("secondary", "secondary", Form::Resource),
    ("down", "down", Form::Resource),
    ("wait-connect-resource", "wait-connect", Form::Resource),
    ("wait-sync-resource", "wait-sync", Form::Resource),
    ("cstate", "cstate", Form::Peer),
    ("connect", "connect", Form::Peer),
    ("disconnect", "disconnect", Form::Peer),
    ("wait-connect-connection", "wait-connect", Form::Peer),
    ("wait-sync-connection", "wait-sync", Form::Peer),
    ("show-gi", "show-gi", Form::PeerVolume),
    ("get-gi", "get-gi", Form::PeerVolume),
    ("invalidate-remote", "invalidate-remote", Form::PeerVolume),
    ("pause-sync", "pause-sync", Form::PeerVolume),
    ("resume-sync", "resume-sync", Form::PeerVolume),
    ("wait-connect-volume", "wait-connect", Form::PeerVolume),
    ("wait-sync-volume", "wait-sync", Form::PeerVolume),
    ("wait-connect", "wait-connect", Form::Minor),
    ("dstate", "dstate", Form::Minor),
    ("detach", "detach", Form::Minor),
    ("invalidate", "invalidate", Form::Minor),
    ("outdate", "outdate", Form::Minor),
    ("suspend-io", "suspend-io", Form::Minor),
    ("resume-io", "resume-io", Form::Minor),
    ("new-current-uuid", "new-current-uuid", Form::Minor),
];

impl Form {
    const fn text(self) -> &'static str {
        match self {
            Self::Any => "[RESOURCE|all]",
            Self::Resource => "RESOURCE, or a minor number",
            Self::Peer => "RESOURCE PEER_NODE_ID, or a minor number",
            Self::PeerVolume => "RESOURCE PEER_NODE_ID VOLUME, or a minor number",
            Self::Minor => "a minor number",
        }
    }
}

/// What the words after the program's name mean.
pub(super) fn understood(words: &[String]) -> Result<Asked, Complaint> {
    let (mut common, mut options, mut positional) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match option(word) {
            Some(("help", _)) => return Ok(Asked::Text(help())),
            Some((own, value)) if OWN_OPTIONS.contains(&own) || own == "config" => {
                let value = value.map(str::to_owned).or_else(|| rest.next().cloned());
                let value = value.ok_or_else(|| usage(format!("option --{own} needs a value")))?;
                common.extend([format!("--{own}"), value]);
            }
            Some(("color", value)) => options.extend(color(value)?),
            Some(_) => options.push(word.clone()),
            None if word.starts_with('-') => return Err(usage(format!("invalid option {word}"))),
            None => positional.push(word.as_str()),
        }
    }
    let Some((&command, about)) = positional.split_first() else { return Err(usage("which command?".into())) };
    if command == "help" {
        return Ok(Asked::Text(help()));
    }
    let Some(&(_, verb, form)) = COMMANDS.iter().find(|(name, ..)| *name == command) else {
        return Err(usage(format!(
            "{command:?} is no command that shimai has under this name: see `drbdsetup help`; resources are brought up with \
             `drbdadm up`"
        )));
    };
    if verb == "events2" {
        // They have none.
        options.retain(|option| option != "--color=never" && option != "--color=auto");
    }
    let named = |target: String| {
        let mut words = common.clone();
        words.push(verb.into());
        words.extend(options.iter().cloned());
        words.push(target);
        words
    };
    let wrong = || usage(format!("{command} is about {}", form.text()));
    let number = |word: &str| word.parse().map_err(|_| usage(format!("{word:?} is no node id (0 to 31)")));
    match (form, about) {
        (Form::Any, []) => Ok(Asked::Commands(vec![named("all".into())])),
        (Form::Any, [resource]) => Ok(Asked::Commands(vec![named((*resource).into())])),
        (Form::Resource | Form::Peer | Form::PeerVolume | Form::Minor, [only]) => {
            let target = match (minor(only), form) {
                (Some(minor), _) => format!("minor-{minor}"),
                (None, Form::Resource) => (*only).into(),
                _ => return Err(wrong()),
            };
            Ok(Asked::Commands(vec![named(target)]))
        }
        (Form::Peer, [resource, peer]) => Ok(Asked::OfPeer {
            peer: number(peer)?,
            resource: (*resource).into(),
            common: common.clone(),
            command: named((*resource).into()),
        }),
        (Form::PeerVolume, [resource, peer, volume]) => Ok(Asked::OfPeer {
            peer: number(peer)?,
            resource: (*resource).into(),
            common: common.clone(),
            command: named(format!("{resource}/{volume}")),
        }),
        _ => Err(wrong()),
    }
}

/// The number of a device, written as a number or by its usual name.
fn minor(word: &str) -> Option<u32> {
    word.strip_prefix("/dev/drbd").unwrap_or(word).parse().ok()
}

fn color(value: Option<&str>) -> Result<Option<String>, Complaint> {
    match value {
        None | Some("always" | "yes") => Ok(Some("--color=always".into())),
        Some("never" | "no") => Ok(Some("--color=never".into())),
        Some("auto") => Ok(Some("--color=auto".into())),
        Some(other) => Err(usage(format!("{other:?} is no way to use colours: always, auto or never"))),
    }
}

fn usage(sentence: String) -> Complaint {
    Complaint { sentence, exit: EXIT_USAGE }
}

fn help() -> String {
    let mut text =
        "USAGE: drbdsetup command {arguments} [options]\n\nThis is shimai under the name of drbdsetup; options \
                    of a command are those of `shimai COMMAND --help`.\n\nCommands:\n"
            .to_owned();
    for (name, _, form) in COMMANDS {
        text.push_str(&format!("    {name}: {}\n", form.text()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::Arguments;
    use clap::{CommandFactory, Parser};

    fn asked(line: &str) -> Result<Asked, Complaint> {
        understood(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    /// The command of `shimai`, behind it the peer that there must be.
    fn command(line: &str) -> String {
        let words = match asked(line) {
            Ok(Asked::Commands(commands)) => commands.concat().join(" "),
            Ok(Asked::OfPeer { peer, command, .. }) => format!("{} @{peer}", command.join(" ")),
            other => panic!("{line}: {other:?}"),
        };
        let parsed = format!("shimai {}", words.split(" @").next().unwrap_or_default());
        assert!(Arguments::try_parse_from(parsed.split(' ')).is_ok(), "{parsed}");
        words
    }

    #[test]
    fn commands_are_known_to_shimai() {
        for (_, verb, _) in COMMANDS {
            assert!(Arguments::command().find_subcommand(verb).is_some(), "{verb}");
        }
    }

    #[test]
    fn both_generations_are_understood() {
        for (line, expected) in [
            ("status", "status all"),
            (
                "status data --verbose --statistics --json --color=no",
                "status --verbose --statistics --json --color=never data",
            ),
            ("status all --color", "status --color=always all"),
            ("events2", "events2 all"),
            ("events2 --now --color=never data", "events2 --now data"),
            ("events2 --full --poll", "events2 --full --poll all"),
            ("role data", "role data"),
            ("role 3", "role minor-3"),
            ("state /dev/drbd3", "role minor-3"),
            ("cstate data 1", "cstate data @1"),
            ("cstate 0", "cstate minor-0"),
            ("dstate 7", "dstate minor-7"),
            ("show-gi data 1 2", "show-gi data/2 @1"),
            ("show-gi 4", "show-gi minor-4"),
            ("primary data --force", "primary --force data"),
            ("disconnect data 0 --force", "disconnect --force data @0"),
            ("--run-dir /r role data", "--run-dir /r role data"),
        ] {
            assert_eq!(command(line), expected, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        for (line, complaint) in [
            ("", "which command?"),
            ("cstate data", "cstate is about RESOURCE PEER_NODE_ID, or a minor number"),
            ("dstate data", "dstate is about a minor number"),
            ("role", "role is about RESOURCE, or a minor number"),
            ("status data logs", "status is about [RESOURCE|all]"),
            ("cstate data bravo", "\"bravo\" is no node id (0 to 31)"),
            ("status -x", "invalid option -x"),
            ("status --color=blue", "\"blue\" is no way to use colours: always, auto or never"),
        ] {
            assert_eq!(asked(line), Err(Complaint { sentence: complaint.into(), exit: 20 }), "{line}");
        }
        for line in ["attach 0 /dev/a /dev/a internal", "new-resource data 0", "lint", "events"] {
            assert!(asked(line).unwrap_err().sentence.contains("is no command"), "{line}");
        }
    }
}
