//! Two network namespaces and a wire between them, which can be cut.

use super::tools::{run, tool};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Begins the name of each namespace; the process id follows.
const PREFIX: &str = "shimai-e2e-";
/// The interface in either namespace.
const INTERFACE: &str = "wire0";

/// Makes names unlike within the process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The pair of namespaces; removed when dropped.
pub(crate) struct Network {
    /// Their names.
    pub(crate) namespaces: [String; 2],
}

impl Network {
    /// Makes namespaces with the addresses 10.77.0.1 and 10.77.0.2.
    pub(crate) fn new() -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep(PREFIX));
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let network = Self { namespaces: ["a", "b"].map(|side| format!("{PREFIX}{process}-{number}-{side}")) };
        let [a, b] = &network.namespaces;
        ip(&["netns", "add", a]);
        ip(&["netns", "add", b]);
        ip(&["link", "add", INTERFACE, "netns", a, "type", "veth", "peer", "name", INTERFACE, "netns", b]);
        for (side, namespace) in network.namespaces.iter().enumerate() {
            let address = format!("{}/24", address(side));
            ip(&["-n", namespace, "addr", "add", &address, "dev", INTERFACE]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
            ip(&["-n", namespace, "link", "set", INTERFACE, "up"]);
        }
        network
    }

    /// Packets are lost in both directions, silently.
    pub(crate) fn cut(&self) {
        self.firewall(&["-A", "INPUT", "-i", INTERFACE, "-j", "DROP"]);
    }

    /// Established connections are reset as soon as either side sends; new ones are refused.
    pub(crate) fn reject(&self) {
        let reset = ["-j", "REJECT", "--reject-with", "tcp-reset"];
        self.firewall(&[&["-A", "INPUT", "-i", INTERFACE, "-p", "tcp"], &reset[..]].concat());
    }

    /// Packets pass again.
    pub(crate) fn heal(&self) {
        self.firewall(&["-F", "INPUT"]);
        self.set_link("up");
    }

    /// The cable is pulled at one end.
    pub(crate) fn unplug(&self) {
        self.set_link("down");
    }

    fn set_link(&self, state: &str) {
        ip(&["-n", &self.namespaces[0], "link", "set", INTERFACE, state]);
    }

    fn firewall(&self, rule: &[&str]) {
        for namespace in &self.namespaces {
            run(inside(namespace, "iptables").arg("-w").args(rule));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // Making it may have failed half way.
            let _ = super::tools::output(tool("ip").args(["netns", "del", namespace]));
        }
    }
}

/// The address of a side of the wire.
pub(crate) fn address(side: usize) -> String {
    format!("10.77.0.{}", side + 1)
}

/// A program of ours by path or of Debian by name, run in the namespace. It becomes the program: same process id.
///
/// Not by `ip netns exec`: that makes a mount namespace too, in which every file system that is mounted at the moment
/// stays mounted, and its disk in use, when a test unmounts it.
pub(crate) fn inside(namespace: &str, program: &str) -> Command {
    let path = if program.contains('/') { program.into() } else { super::tools::find(program) };
    let mut command = tool("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(path);
    command
}

fn ip(arguments: &[&str]) {
    run(tool("ip").args(arguments));
}

/// Removes namespaces of test processes that were killed: what begins so, and goes on with their process ids.
pub(crate) fn sweep(prefix: &str) {
    for line in run(tool("ip").args(["netns", "list"])).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let process = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !std::path::Path::new("/proc").join(process).exists()) {
            let _ = super::tools::output(tool("ip").args(["netns", "del", name]));
        }
    }
}
