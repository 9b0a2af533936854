//! Arbitrary bytes as a configuration of one file or several: accepted or refused in words; what is accepted is printed so
//! that it reads back.
//!
//! ```text
//!   the main file, which may include the others
//!   %%% a.res
//!   another one
//! ```
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use shimai::config::{Config, MemoryFiles, Served};

/// The main file.
const FILE: &str = "shimai.conf";
/// Begins the line that names the next file.
const NEXT_FILE: &[u8] = b"%%% ";
/// Who we are.
const NODE: &str = "alpha";

fuzz_target!(|input: &[u8]| {
    let config = match Config::load(FILE, &files(input)) {
        Ok(config) => config,
        Err(errors) => {
            assert!(!errors.is_empty(), "a refusal has a reason");
            errors.iter().for_each(|error| assert!(!error.to_string().is_empty(), "a reason has words"));
            return;
        }
    };
    let _ = config.lint(None, &Served::default());
    for resource in config.resources() {
        let _ = config.resolve(&resource.name, NODE);
    }
    let text = config.dump(NODE);
    match Config::load(FILE, &MemoryFiles::single(FILE, text.as_str())) {
        Ok(again) => {
            assert_eq!(without_comments(&again.dump(NODE)), without_comments(&text), "a dump reads back as itself")
        }
        Err(errors) => panic!("our own dump is refused: {}\n{text}", errors[0]),
    }
});

/// Comments name lines of the file, which differ.
fn without_comments(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).collect()
}

fn files(input: &[u8]) -> MemoryFiles {
    let (mut files, mut name) = (BTreeMap::new(), FILE.to_owned());
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_prefix(NEXT_FILE) {
            Some(next) => name = String::from_utf8_lossy(next.trim_ascii()).into_owned(),
            None => files.entry(name.clone()).or_insert_with(Vec::new).extend_from_slice(line),
        }
    }
    MemoryFiles(files)
}
