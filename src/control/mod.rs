//! What `shimai` and `shimaid` say to each other over the admin socket: one JSON object a line.
//!
//! A connection carries requests one after another. Each [`Request`] is answered by any number of
//! [`Response::Progress`], [`Response::Status`] and [`Response::Text`] lines and ended by exactly one
//! [`Response::Done`], [`Response::Refused`] or [`Response::Failed`]. What a resource looks like is the value
//! [`ResourceStatus`](status::ResourceStatus); `status`, `--json`, `/proc/drbd` and `events2` are renderings of it, so
//! they cannot disagree.
//!
//! Invariants: decoding never panics, reads at most [`LINE_BYTES_MAX`] bytes, nests at most [`DEPTH_MAX`] deep, and
//! an error names the field it is about. DRBD's numbers, texts and exit codes stand in one table ([`refusal`]).
//!
//! Not here: the socket (`cli::client`, `daemon`), the decision whether a request may be carried out (`replica`).

mod line;
pub mod message;
mod names;
pub mod refusal;
pub mod status;

pub use line::{DEPTH_MAX, DecodeError, LINE_BYTES_MAX, decode_request, decode_response, encode};
pub use message::{Options, Request, Response, Verb};
pub use refusal::{ConfigurationRefusal, StateRefusal};
