//! Is it DRBD? A kernel's node says so: pairs of a shimai and of Linux's own DRBD 8.4, in all that two nodes do together.
//!
//! The kernel runs in an emulated machine, our daemon in the network namespace at the other end of its cable. Run as root:
//! `cargo test --release --test interop [WORD...]`, where words choose rows by scenario or direction. The table of rows is
//! [`scenarios::TABLE`]; each is a scenario with one of the two as its actor.

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the other tests with real daemons use the rest")]
mod harness;
mod image;
mod machine;
mod pair;
mod scenarios;

use pair::Lab;
use scenarios::{Row, TABLE};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_chosen = |row: &&Row| words.is_empty() || words.iter().any(|word| row.name().contains(word.as_str()));
    let rows: Vec<&Row> = TABLE.iter().filter(is_chosen).collect();
    if std::env::args().any(|word| word == "--list") {
        rows.iter().for_each(|row| println!("{}: test", row.name()));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", rows.len());
    let begin = Instant::now();
    let mut lab = (!rows.is_empty()).then(Lab::new);
    let mut results = Vec::new();
    for row in rows {
        let since = Instant::now();
        let lab = lab.as_mut().expect("there are rows");
        let passed = catch_unwind(AssertUnwindSafe(|| (row.play)(lab, row.actor))).is_ok();
        println!("test {} ... {}", row.name(), if passed { "ok" } else { "FAILED" });
        results.push((row, passed, since.elapsed().as_secs_f32()));
    }
    drop(lab);
    println!("\n{:48} {:8} {:>7}  result", "scenario", "actor", "seconds");
    for (row, passed, seconds) in &results {
        println!(
            "{:48} {:8} {seconds:7.1}  {}",
            row.scenario,
            row.actor.to_string(),
            if *passed { "ok" } else { "FAILED" }
        );
    }
    let failed = results.iter().filter(|(_, passed, _)| !passed).count();
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        results.len() - failed,
        TABLE.len() - results.len(),
        begin.elapsed().as_secs_f32()
    );
    // As libtest does.
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
