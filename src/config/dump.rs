//! The configuration as text again, in the shape people know from `drbdadm dump`. What it prints reads back as itself.

use super::lexer::{WORD_LIMIT, is_word_byte};
use super::options::{Kind, Section};
use super::syntax::{
    ConnectionConfig, Document, EndpointConfig, HostConfig, HostKind, HostProxy, MeshConfig, MetaConfig, Options,
    Proxy, ResourceConfig, Sections, VolumeConfig,
};

/// All of a document. `describe` gives the comment above a resource.
pub(super) fn document(document: &Document, main_file: &str, describe: impl Fn(&ResourceConfig) -> String) -> String {
    let mut printer = Printer { text: format!("# {main_file}\n"), depth: 0 };
    if let Some(global) = &document.global {
        printer.block("global", |printer| printer.global(global));
        printer.text.push('\n');
    }
    if let Some(common) = &document.common {
        printer.block("common", |printer| printer.sections(common));
        printer.text.push('\n');
    }
    for resource in &document.resources {
        printer.text.push_str(&describe(resource));
        printer.resource(resource);
        printer.text.push('\n');
    }
    printer.text
}

/// A word as it must be written.
pub(super) fn quoted(word: &str) -> String {
    if !word.is_empty() && word.len() <= WORD_LIMIT && word.bytes().all(is_word_byte) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A name as it must be written: without quotes, digits are a number.
pub(super) fn named(name: &str) -> String {
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { format!("\"{name}\"") } else { quoted(name) }
}

fn all_named(names: &[String]) -> String {
    names.iter().map(|name| named(name)).collect::<Vec<_>>().join(" ")
}

fn all_quoted(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

struct Printer {
    text: String,
    depth: usize,
}

impl Printer {
    fn line(&mut self, text: &str) {
        self.text.push_str(&"    ".repeat(self.depth));
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// A setting, its value in a column of its own.
    fn setting(&mut self, name: &str, value: &str) {
        let width = 20_usize.saturating_sub(self.depth * 4).max(16);
        self.line(&format!("{name:width$} {value};"));
    }

    fn block(&mut self, head: &str, body: impl FnOnce(&mut Self)) {
        self.line(&format!("{head} {{"));
        self.depth += 1;
        body(self);
        self.depth -= 1;
        self.line("}");
    }

    fn options(&mut self, options: &Options) {
        for line in &options.0 {
            match line.spec.kind {
                Kind::Flag => self.line(&format!("{};", line.spec.name)),
                Kind::Words => {
                    self.setting(line.spec.name, &line.value.split(' ').map(quoted).collect::<Vec<_>>().join(" "))
                }
                _ => self.setting(line.spec.name, &quoted(&line.value)),
            }
        }
    }

    /// The tools print global options in an order of their own.
    fn global(&mut self, options: &Options) {
        let order = ["disable-ip-verification", "minor-count", "dialog-refresh", "usage-count"];
        let rank = |name| order.iter().position(|other| *other == name).unwrap_or(order.len());
        let mut sorted = options.clone();
        sorted.0.sort_by_key(|line| rank(line.spec.name));
        self.options(&sorted);
    }

    fn section(&mut self, name: &str, options: &Options) {
        if !options.0.is_empty() {
            self.block(name, |printer| printer.options(options));
        }
    }

    fn sections(&mut self, sections: &Sections) {
        for section in Section::ALL {
            match sections.of(*section) {
                Some(_) if *section == Section::Proxy => self.proxy("proxy", &sections.proxy),
                Some(options) => self.section(section.keyword(), options),
                None => {}
            }
        }
    }

    fn proxy(&mut self, name: &str, proxy: &Proxy) {
        if proxy.options.0.is_empty() && proxy.plugins.is_empty() {
            return;
        }
        self.block(name, |printer| {
            printer.options(&proxy.options);
            if !proxy.plugins.is_empty() {
                printer.block("plugin", |printer| {
                    for plugin in &proxy.plugins {
                        printer.line(&format!("{};", all_quoted(plugin)));
                    }
                });
            }
        });
    }

    fn resource(&mut self, resource: &ResourceConfig) {
        self.block(&format!("resource {}", named(&resource.name)), |printer| {
            if let Some((file, _)) = &resource.template {
                printer.line(&format!("template-file {};", quoted(file)));
            }
            printer.volumes(&resource.volumes);
            for host in &resource.hosts {
                printer.host(host);
            }
            for connection in &resource.connections {
                printer.connection(connection);
            }
            for mesh in &resource.meshes {
                printer.mesh(mesh);
            }
            printer.sections(&resource.sections);
        });
    }

    fn volumes(&mut self, volumes: &[VolumeConfig]) {
        for volume in volumes {
            if volume.implicit {
                self.volume(volume);
            } else {
                self.block(&format!("volume {}", volume.number), |printer| printer.volume(volume));
            }
        }
    }

    fn volume(&mut self, volume: &VolumeConfig) {
        self.section("disk", &volume.disk_options);
        if let Some(device) = &volume.device {
            let minor = format!("minor {}", device.minor);
            let name = device.name.as_ref().map(|name| format!("{} {minor}", quoted(name)));
            self.setting("device", &name.unwrap_or(minor));
        }
        if let Some(disk) = &volume.disk {
            self.setting("disk", &quoted(&disk.value));
        }
        match volume.meta.as_ref().map(|meta| &meta.value) {
            None => {}
            Some(MetaConfig::Internal) => self.setting("meta-disk", "internal"),
            Some(MetaConfig::Device(path)) => self.setting("meta-disk", &quoted(path)),
            Some(MetaConfig::Slot(path, slot)) => self.setting("meta-disk", &format!("{} [{slot}]", quoted(path))),
        }
        if let Some(is_tiebreaker) = volume.tiebreaker {
            self.setting("tiebreaker", if is_tiebreaker { "yes" } else { "no" });
        }
    }

    fn host(&mut self, host: &HostConfig) {
        let head = match &host.kind {
            HostKind::On(names) => format!("on {}", all_named(names)),
            HostKind::Stacked(lower) => format!("stacked-on-top-of {}", quoted(lower)),
            HostKind::Floating => format!("floating {}", host.name()),
        };
        self.block(&head, |printer| {
            if let Some(id) = &host.node_id {
                printer.line(&format!("node-id {};", id.value));
            }
            printer.section("options", &host.options);
            printer.volumes(&host.volumes);
            if let Some(address) = host.address.as_ref().filter(|_| host.kind != HostKind::Floating) {
                printer.setting("address", &address.value.to_string());
            }
            if let Some(proxy) = &host.proxy {
                printer.host_proxy("", proxy);
            }
        });
    }

    fn host_proxy(&mut self, before: &str, proxy: &HostProxy) {
        self.block(&format!("{before}proxy on {}", all_named(&proxy.hosts)), |printer| {
            for (name, address) in [("inside", &proxy.inside), ("outside", &proxy.outside)] {
                if let Some(address) = address {
                    printer.setting(name, &address.to_string());
                }
            }
            printer.proxy("options", &proxy.options);
        });
    }

    fn connection(&mut self, connection: &ConnectionConfig) {
        self.block("connection", |printer| {
            for path in &connection.paths {
                if path.implicit {
                    path.ends.iter().for_each(|end| printer.endpoint(end));
                } else {
                    printer.block("path", |printer| path.ends.iter().for_each(|end| printer.endpoint(end)));
                }
            }
            printer.section("net", &connection.net);
            printer.section("disk", &connection.disk);
            for (number, options) in &connection.volumes {
                printer.block(&format!("volume {number}"), |printer| printer.section("disk", options));
            }
        });
    }

    fn endpoint(&mut self, end: &EndpointConfig) {
        let mut text = format!("host {}", quoted(&end.host));
        if let Some(address) = &end.address {
            text.push_str(&format!(" address {address}"));
        } else if let Some(port) = end.port {
            text.push_str(&format!(" port {port}"));
        }
        match &end.proxy {
            Some(proxy) => self.host_proxy(&format!("{text} via "), proxy),
            None => self.line(&format!("{text};")),
        }
    }

    fn mesh(&mut self, mesh: &MeshConfig) {
        self.block("connection-mesh", |printer| {
            let hosts: Vec<String> = mesh.hosts.iter().map(|host| host.value.clone()).collect();
            if !hosts.is_empty() {
                printer.line(&format!("hosts {};", all_quoted(&hosts)));
            }
            printer.section("net", &mesh.net);
        });
    }
}
