//! What takes long shows where it stands: one line that is written over on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal, Write};

/// Characters of the bar.
const BAR: usize = 20;
/// How many percent lie between two lines where nothing can be written over.
const STEP_PERCENT: f64 = 10.0;

/// One thing that takes long.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress<'a> {
    /// What is being done or waited for.
    pub sentence: &'a str,
    /// 0 to 100.
    pub percent: Option<f64>,
    /// How fast.
    pub rate_bytes_per_s: Option<u64>,
    /// How much longer.
    pub seconds_left: Option<u64>,
}

/// Where progress goes.
#[derive(Debug)]
pub struct ProgressLine<W> {
    out: W,
    is_terminal: bool,
    width: usize,
    /// The line on the terminal is not ended.
    is_open: bool,
    /// What was last written where nothing can be written over.
    last: Option<(String, f64)>,
}

impl ProgressLine<io::Stderr> {
    /// On standard error, so that output stays clean.
    #[must_use]
    pub fn on_stderr(width: usize) -> Self {
        Self::new(io::stderr(), io::stderr().is_terminal(), width)
    }
}

impl<W: Write> ProgressLine<W> {
    /// On `out`, which is a terminal or not, with so many columns.
    pub fn new(out: W, is_terminal: bool, width: usize) -> Self {
        Self { out, is_terminal, width, is_open: false, last: None }
    }

    /// Shows where it stands.
    pub fn show(&mut self, progress: &Progress<'_>) -> io::Result<()> {
        if self.is_terminal {
            let line: String = rendered(progress).chars().take(self.width.saturating_sub(1)).collect();
            write!(self.out, "\r\x1b[K{line}")?;
            self.is_open = true;
            return self.out.flush();
        }
        if self.is_news(progress) {
            writeln!(self.out, "{}", rendered(progress))?;
            self.last = Some((progress.sentence.to_owned(), progress.percent.unwrap_or(0.0)));
        }
        Ok(())
    }

    /// Removes the line from the terminal, so that what follows begins at the left.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.is_open {
            write!(self.out, "\r\x1b[K")?;
            self.is_open = false;
            self.out.flush()?;
        }
        Ok(())
    }

    /// Another sentence, or a good deal further.
    fn is_news(&self, progress: &Progress<'_>) -> bool {
        match &self.last {
            Some((sentence, percent)) if sentence == progress.sentence => {
                progress.percent.is_some_and(|now| now >= percent + STEP_PERCENT)
            }
            _ => true,
        }
    }
}

/// `resync of data [========>...........] 42.5%  118 MiB/s  0:01:12 left`
fn rendered(progress: &Progress<'_>) -> String {
    let mut line = progress.sentence.to_owned();
    if let Some(percent) = progress.percent {
        let percent = percent.clamp(0.0, 100.0);
        let done = (percent / 100.0 * BAR as f64) as usize;
        let tip = if done < BAR { ">" } else { "" };
        let rest = ".".repeat((BAR - done).saturating_sub(1));
        line += &format!(" [{}{tip}{rest}] {percent:.1}%", "=".repeat(done));
    }
    if let Some(rate) = progress.rate_bytes_per_s {
        line += &format!("  {}", rate_in_words(rate));
    }
    if let Some(left) = progress.seconds_left {
        line += &format!("  {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60);
    }
    line
}

fn rate_in_words(bytes_per_s: u64) -> String {
    match bytes_per_s {
        rate if rate >= 10 << 20 => format!("{} MiB/s", rate >> 20),
        rate if rate >= 1 << 20 => format!("{:.1} MiB/s", rate as f64 / f64::from(1 << 20)),
        rate => format!("{} KiB/s", rate >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_WAY: Progress<'static> = Progress {
        sentence: "resync of data",
        percent: Some(42.5),
        rate_bytes_per_s: Some(118 << 20),
        seconds_left: Some(72),
    };

    fn shown(is_terminal: bool, width: usize, all: &[Progress<'_>]) -> String {
        let mut line = ProgressLine::new(Vec::new(), is_terminal, width);
        for progress in all {
            line.show(progress).expect("a vector takes everything");
        }
        line.clear().expect("a vector takes everything");
        String::from_utf8(line.out).expect("we write text")
    }

    #[test]
    fn a_line_tells_what_how_far_how_fast_and_how_long() {
        assert_eq!(rendered(&HALF_WAY), "resync of data [========>...........] 42.5%  118 MiB/s  0:01:12 left");
        let done = Progress { percent: Some(100.0), seconds_left: None, rate_bytes_per_s: Some(5 << 19), ..HALF_WAY };
        assert_eq!(rendered(&done), "resync of data [====================] 100.0%  2.5 MiB/s");
        let unknown = Progress { percent: None, seconds_left: None, rate_bytes_per_s: None, ..HALF_WAY };
        assert_eq!(rendered(&unknown), "resync of data");
    }

    #[test]
    fn a_terminal_gets_one_line_that_never_wraps() {
        let text = shown(true, 20, &[HALF_WAY, HALF_WAY]);
        assert_eq!(text, "\r\x1b[Kresync of data [===\r\x1b[Kresync of data [===\r\x1b[K");
    }

    #[test]
    fn elsewhere_only_news_is_written() {
        let at = |percent| Progress { percent: Some(percent), rate_bytes_per_s: None, seconds_left: None, ..HALF_WAY };
        let other = Progress { sentence: "waiting for bravo", ..at(0.0) };
        let text = shown(false, 80, &[at(1.0), at(5.0), at(11.5), at(12.0), other]);
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
