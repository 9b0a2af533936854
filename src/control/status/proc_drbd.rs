//! `/proc/drbd`.
use super::ResourceStatus;
/// proc
#[must_use]
pub fn proc_drbd(_resources: &[ResourceStatus]) -> String {
    String::new()
}
