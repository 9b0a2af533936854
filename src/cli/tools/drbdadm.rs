//! `drbdadm`: general options anywhere, a verb, targets, and options that belong to the verb.

use super::shell::Query;
use super::{Asked, Complaint, OWN_OPTIONS, option};

/// Exit code: wrong usage.
const EXIT_USAGE: u8 = 1;

/// Verbs that `shimai` has too.
const VERBS: [&str; 30] = [
    "adjust",
    "apply-al",
    "attach",
    "connect",
    "create-md",
    "cstate",
    "detach",
    "disconnect",
    "down",
    "dstate",
    "dump",
    "dump-md",
    "get-gi",
    "invalidate",
    "invalidate-remote",
    "new-current-uuid",
    "outdate",
    "pause-sync",
    "primary",
    "resize",
    "resume-io",
    "resume-sync",
    "role",
    "secondary",
    "show-gi",
    "status",
    "suspend-io",
    "up",
    "verify",
    "wait-connect",
];
/// And these, which `drbdadm` spells otherwise or `shimai` does.
const RENAMED: [(&str, &str); 4] = [
    ("adjust-with-progress", "adjust"),
    ("wait-connect-resource", "wait-connect"),
    ("wait-sync", "wait-sync"),
    ("wipe-md", "wipe-md"),
];
/// Verbs that mean everything where no target is named.
const WITHOUT_TARGET: [&str; 2] = ["status", "dump"];

/// Options of verbs that have a value, which may be a word of its own.
const VALUED: [&str; 6] = ["max-peers", "al-stripes", "al-stripe-size-kB", "peer-max-bio-size", "format", "color"];

/// The utilities whose ways these are, and the module whose protocol is spoken, as agents ask for them.
const VERSIONS: &str = "\
DRBDADM_API_VERSION=2
DRBD_KERNEL_VERSION_CODE=0x08040b
DRBD_KERNEL_VERSION=8.4.11
DRBDADM_VERSION_CODE=0x091600
DRBDADM_VERSION=9.22.0
";

/// What stands on a command line, sorted.
#[derive(Default)]
struct Words {
    common: Vec<String>,
    verb: Option<String>,
    targets: Vec<String>,
    options: Vec<String>,
    is_dry_run: bool,
    is_verbose: bool,
}

/// What the words after the program's name mean.
pub(super) fn understood(words: &[String]) -> Result<Asked, Complaint> {
    let mut sorted = Words::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let next = |value: Option<&str>, name: &str, rest: &mut std::slice::Iter<'_, String>| {
            let value = value.map(str::to_owned).or_else(|| rest.next().cloned());
            value.ok_or_else(|| usage(format!("option {name} needs a value")))
        };
        if let Some((name, value)) = option(word) {
            match name {
                "version" => return Ok(Asked::Text(VERSIONS.into())),
                "help" => return Ok(Asked::Text(help())),
                "dry-run" => sorted.is_dry_run = true,
                "verbose" => sorted.is_verbose = true,
                "stacked" => return Err(stacked()),
                "config-file" => sorted.configuration(next(value, word, &mut rest)?),
                "sh-varname" => drop(next(value, word, &mut rest)?),
                "config-to-test" | "config-to-exclude" | "drbdsetup" | "drbdmeta" | "drbd-proxy-ctl" | "peer"
                | "setup-option" => return Err(foreign(word)),
                own if OWN_OPTIONS.contains(&own) => {
                    sorted.common.extend([format!("--{own}"), next(value, word, &mut rest)?]);
                }
                valued if VALUED.contains(&valued) => {
                    let value = next(value, word, &mut rest)?;
                    sorted.options.push(format!("--{valued}={value}"));
                }
                // As 8.4 and those before it wrote it.
                "overwrite-data-of-peer" => sorted.options.push("--force".into()),
                _ => sorted.options.push(word.clone()),
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty() && *letters != "-") {
            for (at, letter) in letters.char_indices() {
                let attached = Some(letters.get(at + letter.len_utf8()..).unwrap_or_default());
                let attached = attached.filter(|text| !text.is_empty());
                match letter {
                    'V' => return Ok(Asked::Text(VERSIONS.into())),
                    'h' => return Ok(Asked::Text(help())),
                    'd' => sorted.is_dry_run = true,
                    'v' => sorted.is_verbose = true,
                    'S' => return Err(stacked()),
                    'c' => sorted.configuration(next(attached, word, &mut rest)?),
                    'n' => drop(next(attached, word, &mut rest)?),
                    't' | 'E' | 's' | 'm' | 'p' | 'P' | 'W' => return Err(foreign(word)),
                    _ => return Err(usage(format!("invalid option -- '{letter}'"))),
                }
                if matches!(letter, 'c' | 'n') {
                    break;
                }
            }
        } else if word == "--" {
            // What follows are options of the verb, which are told from its targets as before.
        } else if sorted.verb.is_none() {
            sorted.verb = Some(word.clone());
        } else {
            sorted.targets.push(word.clone());
        }
    }
    sorted.asked()
}

impl Words {
    fn configuration(&mut self, path: String) {
        self.common.extend(["--config".to_owned(), path]);
    }

    fn asked(mut self) -> Result<Asked, Complaint> {
        let Some(verb) = self.verb.take() else { return Err(usage("which command?".into())) };
        if verb == "help" {
            return Ok(Asked::Text(help()));
        }
        if let Some(query) = Query::named(&verb) {
            if let Some(option) = self.options.first() {
                return Err(usage(format!("{verb} has no option {option}")));
            }
            if self.targets.is_empty() && query.needs_target() {
                return Err(usage("No resource names specified".into()));
            }
            return Ok(Asked::Shell { query, common: self.common, targets: self.targets });
        }
        let renamed = RENAMED.iter().find(|(name, _)| *name == verb).map(|(_, name)| *name);
        let Some(command) = renamed.or_else(|| VERBS.iter().copied().find(|name| *name == verb)) else {
            return Err(usage(format!("Unknown command '{verb}'")));
        };
        if self.targets.is_empty() && !WITHOUT_TARGET.contains(&command) {
            return Err(usage("No resource names specified".into()));
        }
        if self.is_dry_run {
            match command {
                "adjust" => self.options.push("--dry-run".into()),
                "dump" => {}
                _ => return Err(dry_run(command)),
            }
        }
        if self.is_verbose && command == "status" {
            self.options.push("--verbose".into());
        }
        let whole = |target: Option<&String>| {
            let mut words = self.common.clone();
            words.push(command.into());
            words.extend(self.options.iter().cloned());
            words.extend(target.cloned());
            words
        };
        Ok(Asked::Commands(match &self.targets[..] {
            [] => vec![whole(None)],
            targets => targets.iter().map(|target| whole(Some(target))).collect(),
        }))
    }
}

fn usage(sentence: String) -> Complaint {
    Complaint { sentence, exit: EXIT_USAGE }
}

fn stacked() -> Complaint {
    usage("stacked resources are not served, so there is nothing to do in stacked mode".into())
}

fn foreign(word: &str) -> Complaint {
    usage(format!(
        "option {word} is not served: this is shimai, which calls no other tool and reads one configuration (-c)"
    ))
}

fn dry_run(verb: &str) -> Complaint {
    usage(format!(
        "{verb} has no dry run: no commands of the kernel's tools stand behind it; `adjust --dry-run` has one"
    ))
}

fn help() -> String {
    let mut verbs: Vec<&str> = VERBS.iter().copied().chain(RENAMED.iter().map(|(name, _)| *name)).collect();
    verbs.extend(Query::ALL.iter().map(|query| query.name()));
    verbs.sort_unstable();
    format!(
        "USAGE: drbdadm COMMAND [OPTION...] {{all|RESOURCE...}}\n\n\
         This is shimai under the name of drbdadm; options of a command are those of `shimai COMMAND --help`.\n\n\
         GENERAL OPTIONS: -c FILE, -d (adjust), -v (status), -V, -h\n\n\
         COMMANDS: {}\n",
        verbs.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::Arguments;
    use clap::{CommandFactory, Parser};

    fn asked(line: &str) -> Result<Asked, Complaint> {
        understood(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    /// The commands of `shimai`, with a slash between them.
    fn commands(line: &str) -> String {
        match asked(line) {
            Ok(Asked::Commands(commands)) => {
                commands.iter().map(|words| words.join(" ")).collect::<Vec<_>>().join(" / ")
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_command_becomes_one_of_shimai_for_each_target() {
        for (line, expected) in [
            ("status", "status"),
            ("status --json", "status --json"),
            ("-v status data --statistics", "status --statistics --verbose data"),
            ("role data", "role data"),
            ("secondary data logs/1 minor-3", "secondary data / secondary logs/1 / secondary minor-3"),
            ("primary --force data", "primary --force data"),
            ("-- --overwrite-data-of-peer primary data", "primary --force data"),
            ("-- --discard-my-data connect data", "connect --discard-my-data data"),
            ("-v -c /x/y.conf up all", "--config /x/y.conf up all"),
            ("up all -c/x", "--config /x up all"),
            ("up all --config-file=/x", "--config /x up all"),
            ("-vc /x down all", "--config /x down all"),
            ("-d adjust data", "adjust --dry-run data"),
            ("adjust-with-progress data", "adjust data"),
            ("create-md --max-peers 3 --force data", "create-md --max-peers=3 --force data"),
            ("--node alpha --run-dir=/r dstate data", "--node alpha --run-dir /r dstate data"),
            ("dump -d", "dump"),
        ] {
            assert_eq!(commands(line), expected, "{line}");
        }
    }

    #[test]
    fn what_shimai_is_told_it_understands() {
        for verb in VERBS.iter().chain(RENAMED.iter().map(|(name, _)| name)) {
            let words = commands(&format!("{verb} data"));
            let known = words.split(' ').next().and_then(|name| Arguments::command().find_subcommand(name).cloned());
            assert!(known.is_some(), "{words}");
        }
        for line in ["status --json --verbose --statistics --color=never data", "create-md --max-peers 3 data"] {
            let words = format!("shimai {}", commands(line));
            assert!(Arguments::try_parse_from(words.split(' ')).is_ok(), "{words}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        for (line, complaint) in [
            ("", "which command?"),
            ("nosuch data", "Unknown command 'nosuch'"),
            ("bench data", "Unknown command 'bench'"),
            ("events2", "Unknown command 'events2'"),
            ("role", "No resource names specified"),
            ("adjust", "No resource names specified"),
            ("sh-dev", "No resource names specified"),
            ("-x", "invalid option -- 'x'"),
            ("up all -c", "option -c needs a value"),
            ("-S up all", "stacked resources are not served, so there is nothing to do in stacked mode"),
            (
                "-d up all",
                "up has no dry run: no commands of the kernel's tools stand behind it; `adjust --dry-run` has one",
            ),
            ("sh-dev --force data", "sh-dev has no option --force"),
        ] {
            assert_eq!(asked(line), Err(Complaint { sentence: complaint.into(), exit: 1 }), "{line}");
        }
        for word in ["-t", "--config-to-test=x", "-P", "--drbdsetup", "-W"] {
            let complaint = asked(&format!("dump {word} x")).unwrap_err();
            assert!(complaint.sentence.contains(&format!("option {word}")), "{complaint:?}");
        }
    }

    #[test]
    fn versions_are_told_as_agents_read_them() {
        for line in ["--version", "-V", "status -V"] {
            let Ok(Asked::Text(text)) = asked(line) else { panic!("{line}") };
            assert!(text.lines().all(|line| line.split_once('=').is_some()), "{text}");
        }
    }
}
