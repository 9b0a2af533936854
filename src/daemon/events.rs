//! `events`: what there is, then what becomes of it.

use std::time::Duration;

use calendar::OffsetDateTime;

use super::node::Node;
use super::problem::Problem;
use super::server::Out;
use crate::control::status::ResourceStatus;
use crate::control::status::events::{EventOptions, changes, initial};
use crate::control::{Request, Response};
use crate::io::clock;

/// How often to look. What comes and goes within that time makes no line; the loops of the resources, which would have to
/// tell each change, do not pay for those who watch.
const INTERVAL: Duration = Duration::from_millis(200);

/// Says lines until the asker goes, or only what there is now. A resource that is configured and not up is waited for.
pub(super) async fn watch(node: &Node, request: &Request, out: &Out) -> Result<(), Problem> {
    let only = request.resource.as_deref();
    if let (Some(name), Some(volume)) = (only, request.volume) {
        let sentence = format!("{} is about whole resources; name {name} without /{volume}", request.verb);
        return Err(Problem::Unknown { sentence });
    }
    match only.map(|name| node.need(name)) {
        Some(Err(problem)) if !matches!(problem, Problem::NotUp { .. }) => return Err(problem),
        _ => {}
    }
    let options = EventOptions { statistics: request.options.statistics, full: request.options.full };
    let mut before = statuses(node, only).await;
    say(initial(&before, options), request, out).await;
    if request.options.now {
        return Ok(());
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        let after = statuses(node, only).await;
        say(changes(&before, &after, options), request, out).await;
        before = after;
    }
}

/// How all that is up looks; what ends while it is asked is not up.
async fn statuses(node: &Node, only: Option<&str>) -> Vec<ResourceStatus> {
    let mut statuses = Vec::new();
    for name in node.names().into_iter().filter(|name| only.is_none_or(|only| only == name)) {
        if let Some(running) = node.find(&name) {
            statuses.extend(running.status().await);
        }
    }
    statuses
}

async fn say(lines: Vec<String>, request: &Request, out: &Out) {
    let now = timestamp(clock::time_of_day());
    for line in lines {
        out.say(Response::Text(if request.options.timestamps { format!("{now} {line}") } else { line })).await;
    }
}

/// When a line was made, as it stands before the line: `2026-09-29T14:15:11.400926+00:00`.
fn timestamp(since_1970: Duration) -> String {
    let then = OffsetDateTime::UNIX_EPOCH + since_1970;
    let ((year, month, day), (hour, minute, second, micros)) = (then.to_calendar_date(), then.to_hms_micro());
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_in_utc() {
        let rows = [
            (0, 0, "1970-01-01T00:00:00.000000+00:00"),
            (951_782_400, 7, "2000-02-29T00:00:00.000007+00:00"),
            (951_868_799, 999_999, "2000-02-29T23:59:59.999999+00:00"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000+00:00"),
            (1_790_691_311, 400_926, "2026-09-29T14:15:11.400926+00:00"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000+00:00"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000+00:00"),
        ];
        for (seconds, micros, expected) in rows {
            assert_eq!(timestamp(Duration::from_secs(seconds) + Duration::from_micros(micros)), expected);
        }
    }
}
