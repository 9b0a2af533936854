//! `status` as text, in the layout of DRBD's own tools.

use super::ResourceStatus;

/// How to render.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// Everything, also what is as it should be.
    pub verbose: bool,
    /// With counters.
    pub statistics: bool,
    /// Columns of the terminal.
    pub width: usize,
    /// With colours.
    pub color: bool,
}

/// The text, with a line feed after each line and an empty line after each resource.
#[must_use]
pub fn text(_resources: &[ResourceStatus], _options: RenderOptions) -> String {
    String::new()
}
