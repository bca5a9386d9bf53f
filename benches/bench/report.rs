//! What came out: a table on stdout, JSON and a plot in docs/performance.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::measure::Round;
use super::{Bench, Result, plot};

#[derive(Serialize)]
pub struct Report {
    pub name: &'static str,
    pub what: String,
    pub floor: String,
    pub command: String,
    pub postgres: String,
    pub sides: Vec<Side>,
    pub marks: Vec<Mark>,
    /// Other figures, as they are printed.
    pub notes: Vec<String>,
    #[serde(skip)]
    reach: Option<f64>,
    #[serde(skip)]
    pub curves: Vec<plot::Curve>,
}

#[derive(Serialize)]
pub struct Side {
    pub name: String,
    pub rounds: Vec<Round>,
}

/// Something to be reached.
#[derive(Serialize)]
pub struct Mark {
    pub what: String,
    pub measured: f64,
    /// Of each round, where there are several.
    pub rounds: Vec<f64>,
    pub mark: String,
    pub reached: bool,
}

impl Side {
    pub fn new(name: &str) -> Side {
        Side { name: name.to_owned(), rounds: Vec::new() }
    }

    pub fn add(&mut self, round: Round) {
        eprintln!("  {}: {:.0}/s", self.name, round.rate());
        self.rounds.push(round);
    }

    pub fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of).collect())
    }

    fn median_of_some(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        let some: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        (!some.is_empty()).then(|| median(some))
    }
}

impl Report {
    pub fn new(bench: &Bench, name: &'static str, what: String, floor: &str) -> Report {
        eprintln!("{name}: {what}");
        let mut command = format!("scripts/bench {name} --rounds {}", bench.rounds());
        if bench.payloads.file.is_some() {
            command.push_str(" --payloads <file>");
        }
        Report {
            name,
            what,
            floor: floor.to_owned(),
            command,
            postgres: String::new(),
            sides: Vec::new(),
            marks: Vec::new(),
            notes: Vec::new(),
            reach: None,
            curves: Vec::new(),
        }
    }

    /// The share of the floor's rate to be reached.
    pub fn reach(&mut self, share: f64) {
        self.reach = Some(share);
    }

    /// The ratio of rates, round by round, against the mark.
    pub fn compare(&mut self, floor: Side, ours: Side) {
        let ratios: Vec<f64> =
            floor.rounds.iter().zip(&ours.rounds).map(|(floor, ours)| ours.rate() / floor.rate()).collect();
        if let Some(reach) = self.reach {
            self.at_least("rate, of the floor's", ratios, reach);
        }
        // On cores that are shared or not full, the rate tells less than this.
        let cpu = |round: &Round| round.cpu.values().sum::<f64>();
        let costs = floor.rounds.iter().zip(&ours.rounds).map(|(floor, ours)| cpu(floor) / cpu(ours));
        self.note(format!("CPU for a message, the floor's of Orderly's: {}", figure(median(costs.collect()))));
        self.sides.extend([floor, ours]);
    }

    pub fn at_least(&mut self, what: &str, rounds: Vec<f64>, mark: f64) {
        let measured = median(rounds.clone());
        let reached = measured >= mark;
        self.marks.push(Mark { what: what.to_owned(), measured, rounds, mark: format!(">= {mark}"), reached });
    }

    pub fn at_most(&mut self, what: &str, rounds: Vec<f64>, mark: f64) {
        let measured = median(rounds.clone());
        let reached = measured <= mark;
        self.marks.push(Mark { what: what.to_owned(), measured, rounds, mark: format!("<= {mark}"), reached });
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub fn print(&self) {
        println!("\n{}: {}", self.name, self.what);
        println!("floor: {}", self.floor);
        println!(
            "  {:<26} {:>10} {:>9} {:>9} {:>9} {:>7}   CPU s/1000 messages; resident MB",
            "", "per s", "p50 ms", "p99 ms", "WAL B", "stmts"
        );
        for side in &self.sides {
            println!("{}", side.line());
        }
        for mark in &self.marks {
            let rounds: Vec<String> = mark.rounds.iter().map(|value| figure(*value)).collect();
            println!(
                "  {}: {} (rounds: {}), mark {}: {}",
                mark.what,
                figure(mark.measured),
                rounds.join(" "),
                mark.mark,
                if mark.reached { "reached" } else { "MISSED" }
            );
        }
        for note in &self.notes {
            println!("  {note}");
        }
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let suffix = if self.command.contains("--payloads") { "-real" } else { "" };
        let file = |ending: &str| folder.join(format!("{}{suffix}.{ending}", self.name));
        std::fs::write(file("json"), serde_json::to_string_pretty(self)? + "\n")?;
        let bars: Vec<(String, f64)> =
            self.sides.iter().map(|side| (side.name.clone(), side.median(Round::rate))).collect();
        let title = format!("{}: {}", self.name, self.what);
        let picture = if self.curves.is_empty() {
            plot::bars(&title, "messages a second", &bars)
        } else {
            plot::curves(&title, &self.curves)
        };
        Ok(std::fs::write(file("svg"), picture)?)
    }
}

impl Side {
    fn line(&self) -> String {
        let some = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
        let mut line = format!(
            "  {:<18} {:>10.0} {:>9} {:>9} {:>9} {:>7}  ",
            self.name,
            self.median(Round::rate),
            some(self.median_of_some(|round| round.p50_ms)),
            some(self.median_of_some(|round| round.p99_ms)),
            self.median_of_some(|round| round.wal_bytes).map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}")),
            some(self.median_of_some(|round| round.statements)),
        );
        let names = self.rounds.first().map(|round| round.cpu.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        for name in names {
            let cpu = self.median(|round| round.cpu.get(&name).copied().unwrap_or(0.0));
            let _ = write!(line, " {name} {cpu:.4}");
            if let Some(rss) = self.median_of_some(|round| round.rss.get(&name).copied()) {
                let _ = write!(line, " ({rss:.0} MB)");
            }
        }
        line
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Three digits that mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        big if big >= 100.0 => format!("{value:.0}"),
        big if big >= 10.0 => format!("{value:.1}"),
        big if big >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
