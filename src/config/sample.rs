//! The sample configuration, written from the table: every option with its sentence, its limits and its default.

use super::options::{self, Generation, Kind, OptionSpec, Section};

const RESOURCE: &str = "\
# A resource of two nodes. Put it into a file of its own, such as data.res.
#resource data {
#    device    /dev/drbd0;
#    disk      /dev/vg/data;
#    meta-disk internal;
#    on alice { node-id 0; address 192.168.1.101:7789; }
#    on bob   { node-id 1; address 192.168.1.102:7789; }
#}
";

/// A configuration in which every option stands as a comment.
pub(super) fn file() -> String {
    let mut text = String::from("# Every option, each with its default. Take the # away from what you change.\n\n");
    text.push_str("global {\n");
    options::section(Section::Global).for_each(|spec| option(&mut text, 1, spec));
    text.push_str("}\n\ncommon {\n");
    for section in Section::ALL.iter().filter(|section| **section != Section::Global) {
        text.push_str(&format!("    {} {{\n", section.keyword()));
        options::section(*section).for_each(|spec| option(&mut text, 2, spec));
        text.push_str("    }\n");
    }
    text.push_str("}\n\n");
    text.push_str(RESOURCE);
    text
}

fn option(text: &mut String, depth: usize, spec: &OptionSpec) {
    let indent = "    ".repeat(depth);
    let generation = match spec.generation {
        Generation::Eight => " DRBD 8.4 only.",
        Generation::Nine => " DRBD 9 only.",
        Generation::Both => "",
    };
    let effect = if spec.effect { "" } else { " No effect yet." };
    text.push_str(&format!("{indent}# {}{generation}{effect} Takes {}.\n", spec.help, spec.allowed()));
    let value = match (spec.default, spec.kind) {
        (Some(default), _) => format!(" {default}"),
        (None, Kind::Flag) => String::new(),
        (None, _) => " …".to_owned(),
    };
    text.push_str(&format!("{indent}#{}{value};\n", spec.name));
}
