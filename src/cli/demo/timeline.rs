//! The story as it is told: when, who, what.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::load::Verdict;
use super::pair::NodeName;
use super::thousands;

const RED: &str = "31";
const GREEN: &str = "32";
const BOLD: &str = "1";
const PLAIN: &str = "0";

/// The clock of the story.
pub(super) struct Timeline {
    begun: Instant,
    is_terminal: bool,
}

impl Timeline {
    pub(super) fn begin(title: &str) -> Self {
        let timeline = Self { begun: Instant::now(), is_terminal: std::io::stdout().is_terminal() };
        println!("{}\n", timeline.in_colour(BOLD, title));
        timeline
    }

    /// Something happened.
    pub(super) fn say(&mut self, who: &str, what: &str) {
        self.line(PLAIN, who, what);
    }

    /// Something good happened.
    pub(super) fn good(&mut self, who: &str, what: &str) {
        self.line(GREEN, who, what);
    }

    /// Something bad happened.
    pub(super) fn bad(&mut self, who: &str, what: &str) {
        self.line(RED, who, what);
    }

    fn line(&self, colour: &str, who: &str, what: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("{seconds:>7.2} s  {:<6} {}", who, self.in_colour(colour, what));
    }

    fn in_colour(&self, colour: &str, text: &str) -> String {
        if self.is_terminal && colour != PLAIN { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The end of the story; true if it is a good one.
    pub(super) fn verdict(&self, gap: Duration, acknowledged: u64, verdicts: &[(NodeName, Verdict)]) -> bool {
        let wrong: u64 = verdicts.iter().map(|(_, verdict)| verdict.wrong).sum();
        let colour = if wrong == 0 { GREEN } else { RED };
        println!();
        println!("  writes acknowledged     {:>12}", thousands(acknowledged));
        println!("  of these lost           {}", self.in_colour(colour, &format!("{wrong:>12}")));
        println!("  gap without a Primary   {:>12}", format!("{} ms", gap.as_millis()));
        println!();
        wrong == 0
    }
}
