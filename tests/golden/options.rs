//! The table of options in `docs/configuration.md`, written from the one in `src/config/options.rs`.
//!
//! `UPDATE_GOLDEN=1` writes it anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use shimai::config::options::{self, Generation, OptionSpec, Section};

/// The table stands between these lines.
const BEGIN: &str = "<!-- written from src/config/options.rs -->\n";
const END: &str = "<!-- end -->\n";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")
}

fn tables() -> String {
    let mut text = String::new();
    for section in Section::ALL {
        let line = "| option | takes | default | DRBD | effect | |\n|---|---|---|---|---|---|\n";
        write!(text, "\n### {}\n\n{line}", section.keyword()).expect("a String takes all");
        options::section(*section).for_each(|spec| row(&mut text, spec));
    }
    text.push('\n');
    text
}

fn row(text: &mut String, spec: &OptionSpec) {
    let mut names = format!("`{}`", spec.name);
    spec.aliases.iter().for_each(|alias| write!(names, ", once `{alias}`").expect("a String takes all"));
    let generation = match spec.generation {
        Generation::Eight => "8.4",
        Generation::Nine => "9",
        Generation::Both => "both",
    };
    let default = spec.default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
    let effect = if spec.effect { "yes" } else { "not yet" };
    let cells = [names, spec.allowed(), default, generation.into(), effect.into(), spec.help.into()];
    let cells = cells.map(|cell| cell.replace('|', "\\|"));
    writeln!(text, "| {} |", cells.join(" | ")).expect("a String takes all");
}

#[test]
fn the_page_about_the_configuration_has_every_option_as_it_is() {
    let text = fs::read_to_string(page()).expect("the page is there");
    let (before, rest) = text.split_once(BEGIN).expect("the page says where the table begins");
    let (found, after) = rest.split_once(END).expect("the page says where the table ends");
    let expected = tables();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(page(), [before, BEGIN, &expected, END, after].concat()).expect("the page can be written");
        return;
    }
    assert_eq!(found, expected, "write it anew with UPDATE_GOLDEN=1");
}
