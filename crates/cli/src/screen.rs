//! Where the table is shown: redrawn on a terminal, as changed lines elsewhere.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use crate::table::{Line, Style};

/// Shows tables and what happens between them.
pub struct Screen {
    out: Box<dyn Write>,
    live: bool,
    color: bool,
    shown: Option<Vec<Line>>,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Screen {
    /// Standard output, or standard error if the output belongs to the access log.
    pub fn new(output_is_taken: bool) -> Self {
        let (out, terminal): (Box<dyn Write>, bool) = if output_is_taken {
            (Box::new(std::io::stderr()), false)
        } else {
            (Box::new(std::io::stdout()), std::io::stdout().is_terminal())
        };
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { out, live: terminal, color, shown: None }
    }

    /// Shows a table under a headline. On a terminal it takes the place of the last one; elsewhere the first is written as a whole and
    /// of the next ones the lines that came (`+`) and went (`-`).
    pub fn show(&mut self, headline: &str, lines: Vec<Line>) {
        let mut text = String::new();
        match (&self.shown, self.live) {
            (Some(shown), false) => {
                text += &format!("{headline}\n");
                for (sign, line) in difference(shown, &lines) {
                    text += &format!("{sign} {line}\n");
                }
            }
            (_, live) => {
                if live {
                    // What scrolled by before is the person's, not ours.
                    text += "\x1b[H\x1b[2J";
                }
                text += &format!("{headline}\n\n");
                for line in &lines {
                    text += &if self.color { line.colored() } else { line.text.clone() };
                    text.push('\n');
                }
                text.push('\n');
            }
        }
        self.shown = Some(lines);
        self.write(&text);
    }

    /// Writes a line below.
    pub fn say(&mut self, line: &str) {
        self.write(&format!("{line}\n"));
    }

    /// Nobody may be reading any more; that is no reason to stop serving.
    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

/// Lines that went, then lines that came; headings, hints, blank lines and the width of columns say nothing by themselves.
fn difference(before: &[Line], after: &[Line]) -> Vec<(char, String)> {
    let texts = |lines: &[Line]| -> Vec<String> {
        let telling = lines.iter().filter(|line| !matches!(line.style, Style::Heading | Style::Hint) && !line.text.is_empty());
        telling.map(|line| line.text.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let (old, new) = (texts(before), texts(after));
    let without = |texts: &[String], others: &[String], sign: char| -> Vec<(char, String)> {
        let others: BTreeSet<_> = others.iter().collect();
        texts.iter().filter(|text| !others.contains(text)).map(|text| (sign, text.clone())).collect()
    };
    [without(&old, &new, '-'), without(&new, &old, '+')].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_written() {
        let line =
            |text: &str| Line { style: if text.starts_with(' ') { Style::Plain } else { Style::Heading }, text: text.into() };
        let lines = |texts: &[&str]| texts.iter().map(|text| line(text)).collect::<Vec<_>>();
        let before = lines(&["A", "  one", "  two", "B", "  same  width"]);
        let after = lines(&["A", "  one", "  three", "C", "  same   width"]);
        let difference = difference(&before, &after);
        let told: Vec<_> = difference.iter().map(|(sign, line)| format!("{sign} {line}")).collect();
        assert_eq!(told, ["- two", "+ three"]);
    }
}
