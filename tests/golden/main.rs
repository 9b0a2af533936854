//! Exact text and bytes, judged by tools other than ours.

mod config;
