//! From a request to what carries it out, within its deadline.

use std::sync::Arc;
use std::time::Duration;

use super::node::Node;
use super::problem::Problem;
use super::server::Out;
use super::{adjust, events, identifiers, operate, query};
use crate::control::{Options, Request, Response, Verb};

/// Carries out a request; the line that ends its answer.
pub(super) async fn answer(node: &Arc<Node>, request: &Request, out: &Arc<Out>) -> Response {
    let subject = request.resource.as_deref().unwrap_or("all");
    out.waits_for(format!("{} {subject}", request.verb));
    tracing::debug!(id = request.id, verb = %request.verb, resource = subject, "asked");
    let work = perform(node, request, out);
    // Still there when it is asked what was waited for.
    tokio::pin!(work);
    let result = match request.options.timeout_ms.map(Duration::from_millis) {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, &mut work).await.unwrap_or_else(|_| {
            Err(Problem::Deadline { seconds: limit.as_secs_f64(), waited_for: out.waited_for(), verb: request.verb })
        }),
    };
    result.unwrap_or_else(|problem| problem.response())
}

async fn perform(node: &Arc<Node>, request: &Request, out: &Arc<Out>) -> Result<Response, Problem> {
    if let Some(option) = foreign_option(request) {
        return Err(Problem::Unknown { sentence: format!("{} has no option {option}", request.verb) });
    }
    if let (None, Some(volume)) = (&request.resource, request.volume) {
        return Err(Problem::Unknown { sentence: format!("volume {volume} of which resource? Name it too") });
    }
    match request.verb {
        Verb::Status => query::status(node, request, out).await?,
        Verb::Role | Verb::CState | Verb::DState => query::states(node, request, out).await?,
        Verb::Why => query::why(node, request, out).await?,
        Verb::ShowGi | Verb::GetGi => identifiers::show(node, request, out).await?,
        Verb::AdjustPlan => adjust::dry_run(node, request, out).await?,
        Verb::Adjust => adjust::adjust(node, request, out).await?,
        Verb::Up => operate::up(node, request, out).await?,
        Verb::Down => operate::down(node, request, out).await?,
        Verb::Version => out.say(Response::Text(format!("shimaid {}", env!("CARGO_PKG_VERSION")))).await,
        Verb::Shutdown => operate::shut_down(node, out).await,
        Verb::Events => events::watch(node, request, out).await?,
        Verb::Resize => {
            return Err(Problem::NotServed { sentence: format!("{} is not available yet", request.verb) });
        }
        _ => operate::every(node, request, out).await?,
    }
    Ok(Response::done())
}

/// An option that the verb does not know: one that has no effect must not be taken for one that has.
fn foreign_option(request: &Request) -> Option<&'static str> {
    use Verb as V;
    let Options { force, discard_my_data, clear_bitmap, assume_clean, .. } = &request.options;
    let Options { start_sector, stop_sector, now, statistics, timestamps, full, config, .. } = &request.options;
    let is_one_of = |verbs: &[Verb]| verbs.contains(&request.verb);
    let rows = [
        (*force, "force", is_one_of(&[V::Primary, V::Detach, V::Disconnect])),
        (*discard_my_data, "discard_my_data", is_one_of(&[V::Connect])),
        (*clear_bitmap, "clear_bitmap", is_one_of(&[V::NewCurrentUuid])),
        (*assume_clean, "assume_clean", is_one_of(&[V::Resize])),
        (start_sector.is_some(), "start_sector", is_one_of(&[V::Verify])),
        (stop_sector.is_some(), "stop_sector", is_one_of(&[V::Verify])),
        (*now, "now", is_one_of(&[V::Events])),
        (*statistics, "statistics", is_one_of(&[V::Events])),
        (*timestamps, "timestamps", is_one_of(&[V::Events])),
        (*full, "full", is_one_of(&[V::Events])),
        (config.is_some(), "config", is_one_of(&[V::Up, V::Adjust, V::AdjustPlan])),
    ];
    rows.into_iter().find(|(is_set, _, is_known)| *is_set && !is_known).map(|(_, name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_another_verb_is_named() {
        let mut request = Request::new(Verb::Secondary, Some("data"));
        assert_eq!(foreign_option(&request), None);
        request.options.force = true;
        assert_eq!(foreign_option(&request), Some("force"));
        request.verb = Verb::Primary;
        assert_eq!(foreign_option(&request), None);
    }
}
