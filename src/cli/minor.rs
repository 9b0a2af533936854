//! `minor-N` as a target: the volume that has that minor number on this node, as `drbdadm` reads it.

use super::arguments::{Common, Target};
use super::configuration;
use crate::config::Config;

/// Exit code: there is no such volume.
const EXIT_USAGE: u8 = 1;

/// The target in the usual form; the exit code if there is no such minor number, which has been said.
pub(super) fn named(common: &Common, target: Target) -> anyhow::Result<Result<Target, u8>> {
    let Some(minor) = target.resource.as_deref().and_then(minor) else { return Ok(Ok(target)) };
    let node = configuration::node(common)?;
    let config = match configuration::load(common) {
        Ok(config) => config,
        Err(exit) => return Ok(Err(exit)),
    };
    Ok(found(&config, &node, minor, &target).ok_or_else(|| {
        eprintln!("no volume of node {node} has the minor number {minor}");
        EXIT_USAGE
    }))
}

fn minor(name: &str) -> Option<u32> {
    name.strip_prefix("minor-")?.parse().ok()
}

/// A resource may be called like that, and is meant then.
fn found(config: &Config, node: &str, minor: u32, target: &Target) -> Option<Target> {
    if target.resource.as_deref().is_some_and(|name| config.lookup(name).is_some()) {
        return Some(target.clone());
    }
    let resources = config.resources().iter().filter_map(|resource| config.resolve(&resource.name, node).ok());
    let volumes = resources.flat_map(|resource| {
        let name = resource.name.clone();
        resource.volumes.into_iter().map(move |volume| (name.clone(), volume))
    });
    let (name, volume) = volumes.into_iter().find(|(_, volume)| volume.minor == minor)?;
    Some(Target { resource: Some(name), volume: Some(volume.number.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemoryFiles;

    fn config(name: &str) -> Config {
        let text = format!(
            "resource {name} {{
                volume 0 {{ device minor 3; disk /dev/vg/data; meta-disk internal; }}
                volume 2 {{ device minor 4; disk /dev/vg/logs; meta-disk internal; }}
                on alpha {{ node-id 0; address 10.0.0.1:7789; }} on bravo {{ node-id 1; address 10.0.0.2:7788; }} }}"
        );
        Config::load("t.res", &MemoryFiles::single("t.res", text)).unwrap_or_else(|e| panic!("{e:?}"))
    }

    #[test]
    fn a_minor_number_names_a_volume_of_this_node() {
        let case = |resource: &str, node: &str, typed: &str, expected: Option<&str>| {
            let target: Target = typed.parse().unwrap();
            let minor = minor(typed).unwrap();
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(found(&config(resource), node, minor, &target), expected, "{typed}");
        };
        case("data", "alpha", "minor-4", Some("data/2"));
        case("data", "alpha", "minor-5", None);
        case("data", "zulu", "minor-4", None);
        case("minor-4", "alpha", "minor-4", Some("minor-4"));
        assert_eq!(["data", "minor-", "minor-x"].map(minor), [None; 3]);
    }
}
