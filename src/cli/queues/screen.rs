//! How do queues look on a terminal, once and in place?

use chrono::{DateTime, Utc};
use console::Term;

use super::row::QueueRow;
use crate::cli::hand::HandError;
use crate::cli::table::Table;
use crate::cli::wording::{clean, duration, several};
use crate::cli::{CliError, print};

const LIMIT: usize = 50;
/// The two lines above the rows, and the one below.
const FRAME: usize = 3;
const HOME: &str = "\u{1b}[H";
const CLEAR_LINE: &str = "\u{1b}[K";
const CLEAR_REST: &str = "\u{1b}[J";
const HIDE_CURSOR: &str = "\u{1b}[2J\u{1b}[?25l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

/// All, unless a limit was asked for.
pub(super) fn to_json(rows: &[QueueRow], limit: Option<usize>) -> Result<String, CliError> {
    let rows = &rows[..rows.len().min(limit.unwrap_or(usize::MAX))];
    Ok(serde_json::to_string(rows).map_err(HandError::Answer)? + "\n")
}

pub(super) fn to_text(rows: &[QueueRow], limit: Option<usize>) -> String {
    let width = Term::stdout().size_checked().map(|(_, width)| usize::from(width));
    lines(rows, Utc::now(), limit.unwrap_or(LIMIT), width).iter().map(|line| format!("{line}\n")).collect()
}

fn lines(rows: &[QueueRow], now: DateTime<Utc>, limit: usize, width: Option<usize>) -> Vec<String> {
    let messages: i64 = rows.iter().map(|row| row.depth).sum();
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let mut lines = vec![format!("{}, {}", several(count(rows.len()), "queue"), several(messages, "message"))];
    if rows.is_empty() {
        return lines;
    }
    let mut table = Table::new(&[
        "DESTINATION",
        "DEPTH",
        "OLDEST",
        "STATE",
        "HEAD",
        "ATTEMPTS",
        "NEXT TRY",
        "LAST ERROR",
        "WORKER",
        "URL",
    ]);
    rows.iter().take(limit).for_each(|row| table.push(cells(row, now)));
    lines.extend(table.lines(width));
    if rows.len() > limit {
        lines.push(format!("… and {}", several(count(rows.len() - limit), "more queue")));
    }
    lines
}

fn cells(row: &QueueRow, now: DateTime<Utc>) -> Vec<String> {
    let dash = || "-".to_owned();
    let since = |at: DateTime<Utc>| duration((now - at).as_seconds_f64().max(0.0));
    let head = row.head.as_ref();
    let next = head.and_then(|head| head.next_attempt_at).filter(|at| *at > now);
    vec![
        row.destination_id.to_string(),
        row.depth.to_string(),
        row.oldest_created_at.map_or_else(dash, since),
        row.why().to_owned(),
        head.map_or_else(dash, |head| head.id.clone()),
        head.map_or_else(dash, |head| head.attempts.to_string()),
        next.map_or_else(dash, |at| format!("in {}", duration((at - now).as_seconds_f64()))),
        head.and_then(|head| head.last_error.clone()).unwrap_or_else(dash),
        row.worker.as_ref().map_or_else(dash, |worker| format!("{} on {}", worker.id, worker.host)),
        row.url.clone(),
    ]
}

/// A terminal that is drawn over, or anything else, where one table follows another.
pub(super) struct Screen {
    in_place: bool,
}

impl Screen {
    pub fn start(json: bool) -> Result<Screen, CliError> {
        let in_place = Term::stdout().is_term() && !json;
        if in_place {
            print(HIDE_CURSOR)?;
        }
        Ok(Screen { in_place })
    }

    pub fn show(&mut self, rows: &[QueueRow], limit: Option<usize>) -> Result<(), CliError> {
        if !self.in_place {
            return print(&format!("{}\n", to_text(rows, limit)));
        }
        let (height, width) = Term::stdout().size();
        let fits = usize::from(height).saturating_sub(FRAME).max(1);
        let now = Utc::now();
        let mut drawn = lines(rows, now, limit.unwrap_or(fits).min(fits), Some(usize::from(width)));
        drawn[0] = format!("{}; {}, Ctrl-C ends", drawn[0], now.format("%H:%M:%S UTC"));
        self.draw(&drawn)
    }

    /// To stderr where tables follow one another.
    pub fn complain(&mut self, error: &CliError) -> Result<(), CliError> {
        let text = clean(&error.in_one_line());
        if self.in_place {
            self.draw(&[text])
        } else {
            tracing::warn!("{text}");
            Ok(())
        }
    }

    fn draw(&self, lines: &[String]) -> Result<(), CliError> {
        // No newline after the last: on the lowest line it would scroll.
        let body = lines.iter().map(|line| format!("{line}{CLEAR_LINE}")).collect::<Vec<_>>().join("\r\n");
        print(&format!("{HOME}{body}{CLEAR_REST}"))
    }

    pub fn end(self) -> Result<(), CliError> {
        if self.in_place { print(&format!("\r\n{SHOW_CURSOR}")) } else { Ok(()) }
    }
}

/// However the watch ends, the cursor comes back.
impl Drop for Screen {
    fn drop(&mut self) {
        if self.in_place {
            let _ = print(SHOW_CURSOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_tells_why_a_queue_does_not_move() {
        let row = |id: i64, state: &str, depth: i64| -> QueueRow {
            let json = serde_json::json!({
                "destination_id": id, "url": "http://a.example/", "depth": depth, "state": state,
                "oldest_created_at": "1970-01-01T00:00:00Z", "worker": {"id": 3, "host": "w1", "since": null},
                "head": {"id": format!("{id}-7"), "attempts": 2, "last_error": "status", "next_attempt_at": "1970-01-01T00:02:04Z"},
            });
            serde_json::from_value(json).expect("a queue")
        };
        let now = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(120);
        let shown = lines(&[row(1, "backoff", 3), row(12, "held", 1)], now, 1, None);
        assert_eq!(shown[0], "2 queues, 4 messages");
        let cells: Vec<&str> = shown[2].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            ["1", "3", "2 min", "backoff", "1-7", "2", "in 4 s", "status", "3 on w1", "http://a.example/"]
        );
        assert_eq!(shown[3], "… and 1 more queue");
        assert!(lines(&[row(1, "held", 1)], now, 9, Some(40)).iter().all(|line| line.chars().count() <= 40));
        assert_eq!(lines(&[], now, 9, None), ["0 queues, 0 messages"]);
    }
}
