//! How do lists and single things look on a terminal?

use std::fmt;

use console::{measure_text_width, pad_str, truncate_str};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::wording::clean;

/// Rows below a heading, as wide as they need to be.
pub(super) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| clean(cell)).collect());
    }

    /// A line each, at most `width` wide where one is given. Columns of numbers are aligned right.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let headings: Vec<String> = self.headings.iter().map(|&heading| heading.to_owned()).collect();
        let columns = 0..headings.len();
        let all = || std::iter::once(&headings).chain(&self.rows);
        let widths: Vec<usize> =
            columns.clone().map(|i| all().map(|row| measure_text_width(&row[i])).max().unwrap_or(0)).collect();
        let is_number = |cell: &String| cell.chars().all(|c| c.is_ascii_digit() || c == '-');
        let is_empty = |i: usize| self.rows.iter().all(|row| row[i] == "-");
        let right: Vec<bool> =
            columns.map(|i| !is_empty(i) && self.rows.iter().all(|row| is_number(&row[i]))).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(i, cell)| {
                    let side = if right[i] { console::Alignment::Right } else { console::Alignment::Left };
                    pad_str(cell, widths[i], side, None).into_owned()
                })
                .collect();
            let line = cells.join("  ");
            let line = line.trim_end();
            width.map_or_else(|| line.to_owned(), |width| truncate_str(line, width, "…").into_owned())
        };
        all().map(line).collect()
    }

    pub fn to_text(&self) -> String {
        self.lines(None).iter().map(|line| format!("{line}\n")).collect()
    }
}

/// An object's members in their order, each as it stands: a payload must not be rounded by being shown.
pub(super) struct Record(pub Vec<(String, Box<RawValue>)>);

impl Record {
    /// As people read it: a text without its quotes, `-` for nothing.
    pub fn cell(&self, name: &str) -> String {
        self.0.iter().find(|(member, _)| member == name).map_or_else(|| "-".to_owned(), |(_, value)| plain(value))
    }

    pub fn to_text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.0.iter().map(|(name, value)| format!("{name:<width$}  {}\n", clean(&plain(value)))).collect()
    }
}

fn plain(value: &RawValue) -> String {
    match value.get() {
        "null" => "-".to_owned(),
        text => serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()),
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Record(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_where_the_terminal_does() {
        let mut table = Table::new(&["ID", "STATE", "URL"]);
        table.push(vec!["7".to_owned(), "active".to_owned(), "http://a.example/".to_owned()]);
        table.push(vec!["1042".to_owned(), "held\u{1b}[2J".to_owned(), "http://b.example/".to_owned()]);
        let lines = table.lines(None);
        assert_eq!(lines[1], "   7  active    http://a.example/");
        assert_eq!(lines[2], "1042  held [2J  http://b.example/");
        assert!(table.lines(Some(12)).iter().all(|line| measure_text_width(line) <= 12));
    }

    #[test]
    fn a_thing_is_shown_as_it_stands() {
        let record: Record =
            serde_json::from_str(r#"{"id": "1-2", "payload": {"z": 1e400, "a": 1}, "x": null}"#).expect("an object");
        assert_eq!(record.to_text(), "id       1-2\npayload  {\"z\": 1e400, \"a\": 1}\nx        -\n");
        assert_eq!((record.cell("id"), record.cell("none")), ("1-2".to_owned(), "-".to_owned()));
    }
}
