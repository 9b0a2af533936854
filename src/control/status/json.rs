//! `status --json`.
use super::ResourceStatus;
/// json
#[must_use]
pub fn json(_resources: &[ResourceStatus]) -> String {
    String::new()
}
