//! What a verb prints: tables for people, JSON for programs.
//!
//! Everything goes to stdout in one place, [`line`], so that `rondo … | head` ends quietly. Colours appear on a terminal
//! only, and never where `NO_COLOR` is set.

use std::fmt;
use std::io::{self, Write as _};

use clap::ValueEnum;
use console::{Style, measure_text_width, pad_str, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON value.
    Json,
}

/// Widest cell of a table but the last; what is longer is cut.
const CELL_WIDTH_MAX: usize = 48;

/// Prints one line to stdout. Ends the process quietly when nobody reads any more.
pub fn line(text: impl fmt::Display) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
        let status = i32::from(error.kind() != io::ErrorKind::BrokenPipe);
        std::process::exit(status);
    }
}

/// Ends the process as a wrong argument does, with exit status 2.
pub fn refuse(why: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, format!("{why}\n")).exit()
}

/// Prints `value` as JSON.
pub fn json(value: &impl Serialize) {
    line(serde_json::to_string_pretty(value).expect("what verbs print has no maps with odd keys"));
}

/// A table, printed with columns as wide as they need.
#[derive(Debug)]
pub struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a header that begins with `>` is of a column that is aligned right.
    pub fn new(headers: &[&'static str]) -> Self {
        Self {
            headers: headers.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells may be styled.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints it.
    pub fn print(&self) {
        for text in self.lines() {
            line(text);
        }
    }

    /// Its lines, without blanks at their ends.
    pub fn lines(&self) -> Vec<String> {
        let last = self.headers.len() - 1;
        let titles = self.headers.iter().map(|header| header.trim_start_matches('>'));
        let mut widths: Vec<usize> = titles.clone().map(measure_text_width).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(measure_text_width(cell).min(CELL_WIDTH_MAX));
            }
        }
        let laid_out = |cells: Vec<String>| {
            let mut text = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let right = self.headers[column].starts_with('>');
                let alignment = if right {
                    console::Alignment::Right
                } else {
                    console::Alignment::Left
                };
                if column > 0 {
                    text.push_str("  ");
                }
                if column == last && !right {
                    text.push_str(cell);
                } else {
                    let cell = truncate_str(cell, CELL_WIDTH_MAX, "…");
                    text.push_str(&pad_str(&cell, widths[column], alignment, None));
                }
            }
            text.trim_end().to_owned()
        };
        let head = titles.map(|title| dim(title).to_string()).collect();
        std::iter::once(head)
            .chain(self.rows.iter().cloned())
            .map(laid_out)
            .collect()
    }
}

/// A text in a style, shown if stdout is a terminal.
pub type Styled<T> = console::StyledObject<T>;

/// Beside the point.
pub fn dim<T>(text: T) -> Styled<T> {
    Style::new().dim().apply_to(text)
}

/// What matters most.
pub fn bold<T>(text: T) -> Styled<T> {
    Style::new().bold().apply_to(text)
}

/// As it should be.
pub fn good<T>(text: T) -> Styled<T> {
    Style::new().green().apply_to(text)
}

/// Not yet as it should be.
pub fn warn<T>(text: T) -> Styled<T> {
    Style::new().yellow().apply_to(text)
}

/// Not as it should be.
pub fn bad<T>(text: T) -> Styled<T> {
    Style::new().red().bold().apply_to(text)
}

/// One of the services, always in the same colour.
pub fn service(name: &str) -> Styled<String> {
    let style = match name {
        "orders" => Style::new().cyan(),
        "payments" => Style::new().magenta(),
        "inventory" => Style::new().blue(),
        _ => Style::new(),
    };
    style.apply_to(name.to_owned())
}

/// An order's status in the colour of how well that is.
pub fn status(status: &str) -> Styled<String> {
    let style = match status {
        "completed" => Style::new().green(),
        "stuck" => Style::new().red().bold(),
        "cancelled" => Style::new().dim(),
        _ => Style::new().yellow(),
    };
    style.apply_to(status.to_owned())
}

/// Cents of a currency that has them, as people write amounts.
pub fn money(minor: i64, currency: &str) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let minor = minor.unsigned_abs();
    // ISO 4217: those without minor units, and those with a thousand.
    let digits = match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI" | "VND"
        | "VUV" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        _ => 2,
    };
    let unit = 10_u64.pow(digits);
    let (whole, rest) = (minor / unit, minor % unit);
    match digits {
        0 => format!("{sign}{whole} {currency}"),
        digits => format!("{sign}{whole}.{rest:0width$} {currency}", width = digits as usize),
    }
}

/// A moment to the millisecond, in UTC.
pub fn time(at: Timestamp) -> String {
    format!("{at:.3}").replace('T', " ")
}

/// A length of time in its two largest units at most: `340 ms`, `12.3 s`, `4 min 5 s`, `3 h 20 min`, `2 d 4 h`.
pub fn span(milliseconds: i64) -> String {
    let sign = if milliseconds < 0 { "-" } else { "" };
    let ms = milliseconds.unsigned_abs();
    let seconds = ms / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match ms {
        0..1_000 => format!("{sign}{ms} ms"),
        1_000..60_000 => format!("{sign}{seconds}.{} s", ms % 1_000 / 100),
        60_000..3_600_000 => format!("{sign}{minutes} min {} s", seconds % 60),
        3_600_000..86_400_000 => format!("{sign}{hours} h {} min", minutes % 60),
        _ => format!("{sign}{days} d {} h", hours % 24),
    }
}

/// How long ago `at` was.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now.as_millisecond() - at.as_millisecond()))
}

/// A count with thin groups of three, as people read large ones.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 order`, `2 orders`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A progress bar of `length` steps on stderr, hidden when that is no terminal.
pub fn progress(length: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(8));
    bar.set_style(
        ProgressStyle::with_template(template)
            .expect("templates are constants")
            .progress_chars("━╸─"),
    );
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_and_numbers_stand_right() {
        let mut table = Table::new(&["sku", ">left", "name"]);
        table.row(["NW-001".to_owned(), "7".to_owned(), "Chai".to_owned()]);
        table.row(["NW-2".to_owned(), "1234".to_owned(), "Côte de Blaye".to_owned()]);
        assert_eq!(
            table.lines(),
            [
                "sku     left  name",
                "NW-001     7  Chai",
                "NW-2    1234  Côte de Blaye"
            ]
        );
    }

    #[test]
    fn amounts_have_the_decimals_of_their_currency() {
        assert_eq!(money(123_405, "USD"), "1234.05 USD");
        assert_eq!(money(-5, "EUR"), "-0.05 EUR");
        assert_eq!(money(500, "JPY"), "500 JPY");
        assert_eq!(money(1_500, "KWD"), "1.500 KWD");
    }

    #[test]
    fn a_span_shows_what_matters_of_it() {
        let shown = [340, 12_345, 245_000, 12_000_000, 187_200_000].map(span);
        assert_eq!(shown, ["340 ms", "12.3 s", "4 min 5 s", "3 h 20 min", "2 d 4 h"]);
    }

    #[test]
    fn large_counts_are_grouped() {
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(counted(1, "order"), "1 order");
        assert_eq!(counted(1_000, "order"), "1 000 orders");
    }
}
