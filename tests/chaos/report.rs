//! What came of it: the table, the JSON, and the history around a violation.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::judge::{History, Limits, Violation, seconds};
use super::record::{Answer, Fault, FaultKind, Micros, Record, Request, SECOND};

/// So much of a destination's history is shown with a violation.
const AROUND: usize = 12;
/// A message that was posted so long after the fault was not waiting for it.
const AT_ONCE: Micros = SECOND / 10;

#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub seconds: f64,
    pub posted: usize,
    pub accepted: usize,
    pub unknown: usize,
    pub requests: usize,
    pub delivered: usize,
    pub ended_otherwise: usize,
    pub repeats: usize,
    pub swept: u64,
    pub faults: BTreeMap<FaultKind, usize>,
    /// Milliseconds from an isolated fault to the next request for what its victim served and had waiting.
    pub takeovers: BTreeMap<FaultKind, Times>,
    pub violations: Vec<Violation>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Times {
    pub samples: usize,
    pub median: f64,
    pub p99: f64,
    pub worst: f64,
    #[serde(skip)]
    all: Vec<f64>,
}

impl Times {
    fn close(mut self) -> Times {
        self.all.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = ((self.all.len() as f64 * share).ceil() as usize).clamp(1, self.all.len().max(1)) - 1;
            self.all.get(index).copied().unwrap_or(0.0)
        };
        (self.samples, self.median, self.p99, self.worst) = (self.all.len(), at(0.5), at(0.99), at(1.0));
        self
    }
}

pub fn summarize(record: &Record, limits: &Limits, swept: u64, violations: Vec<Violation>) -> Summary {
    let answers = |wanted: fn(&Answer) -> bool| record.posts.iter().filter(|post| wanted(&post.answer)).count();
    let mut faults = BTreeMap::new();
    for fault in &record.faults {
        *faults.entry(fault.kind).or_default() += 1;
    }
    let (mut delivered, mut repeats) = (0, 0);
    for place in &record.places {
        let history = History::of(record, place.id, limits);
        let mut last = None;
        for request in &history.requests {
            repeats += usize::from(last == Some((request.sequence, request.attempt)));
            last = Some((request.sequence, request.attempt));
        }
        let mut succeeded: Vec<i64> = history.requests.iter().filter(|r| r.succeeded()).map(|r| r.sequence).collect();
        succeeded.sort_unstable();
        succeeded.dedup();
        delivered += succeeded.len();
    }
    Summary {
        seconds: seconds(limits.now),
        posted: record.posts.len(),
        accepted: answers(|answer| matches!(answer, Answer::Accepted { .. })),
        unknown: answers(|answer| *answer == Answer::Unknown),
        requests: record.requests.len(),
        delivered,
        ended_otherwise: record.outcomes.as_ref().map_or(0, |outcomes| outcomes.ends.len()),
        repeats,
        swept,
        faults,
        takeovers: measure_takeovers(record),
        violations,
    }
}

fn measure_takeovers(record: &Record) -> BTreeMap<FaultKind, Times> {
    let mut all: BTreeMap<FaultKind, Times> = BTreeMap::new();
    let committed: BTreeMap<(i64, i64), Micros> = record
        .posts
        .iter()
        .filter_map(|post| match post.answer {
            Answer::Accepted { sequence } => Some(((post.destination, sequence), post.answered_at)),
            Answer::Refused | Answer::Unknown => None,
        })
        .collect();
    let mut requests: BTreeMap<i64, Vec<&Request>> = BTreeMap::new();
    for request in &record.requests {
        requests.entry(request.destination).or_default().push(request);
    }
    requests.values_mut().for_each(|all| all.sort_by_key(|request| request.begun_at));
    for fault in record.faults.iter().filter(|fault| fault.isolated) {
        for victim in &fault.victims {
            if let Some(ms) = requests.get(victim).and_then(|requests| takeover(fault, requests, &committed)) {
                all.entry(fault.kind).or_default().all.push(ms);
            }
        }
    }
    all.into_iter().map(|(kind, times)| (kind, times.close())).collect()
}

/// Of one destination, if it had something to send when the fault came, and somebody else then sent it.
fn takeover(fault: &Fault, requests: &[&Request], committed: &BTreeMap<(i64, i64), Micros>) -> Option<f64> {
    let first = requests.partition_point(|request| request.begun_at <= fault.from);
    let before = requests[..first].last()?;
    let next = requests[first..].iter().find(|request| request.epoch > before.epoch)?;
    let waited = *committed.get(&(next.destination, next.sequence))? <= fault.from + AT_ONCE;
    // Neither one that waits for its next try, nor one whose answer took until after the fault.
    let ready = next.attempt == 1
        && requests[first..].iter().take_while(|request| request.epoch == before.epoch).count() == 0
        && before.ended_at.is_some_and(|end| end <= fault.from + AT_ONCE || next.sequence == before.sequence);
    (waited && ready).then(|| seconds(next.begun_at - fault.from) * 1_000.0)
}

pub fn table(summary: &Summary) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<28} {value}");
    };
    line("seconds", format!("{:.0}", summary.seconds));
    line("messages posted", summary.posted.to_string());
    line("  accepted", summary.accepted.to_string());
    line("  not known", summary.unknown.to_string());
    line("requests received", summary.requests.to_string());
    line("  messages delivered", summary.delivered.to_string());
    line("  sent again", summary.repeats.to_string());
    line("given up on", summary.ended_otherwise.to_string());
    line("found by the sweep", summary.swept.to_string());
    line("faults", summary.faults.values().sum::<usize>().to_string());
    let _ = writeln!(
        text,
        "\n  {:<20} {:>6} {:>9} {:>10} {:>10} {:>10}",
        "fault", "times", "takeovers", "median ms", "p99 ms", "worst ms"
    );
    for (kind, times) in &summary.faults {
        let name = format!("{kind:?}");
        match summary.takeovers.get(kind) {
            Some(took) => {
                let _ = writeln!(
                    text,
                    "  {name:<20} {times:>6} {:>9} {:>10.0} {:>10.0} {:>10.0}",
                    took.samples, took.median, took.p99, took.worst
                );
            }
            None => {
                let _ = writeln!(text, "  {name:<20} {times:>6}");
            }
        }
    }
    let _ = writeln!(text, "\n  violations: {}", summary.violations.len());
    text
}

/// The last things that befell its destination, and the faults about that time.
pub fn explain(record: &Record, limits: &Limits, violation: &Violation) -> String {
    let mut text = format!(
        "\n{:?} at {:.3} s, destination {}: {}\n",
        violation.rule,
        seconds(violation.at),
        violation.destination,
        violation.text
    );
    let history = History::of(record, violation.destination, limits);
    let mut lines: Vec<(Micros, String)> = Vec::new();
    for request in &history.requests {
        let end = match (request.ended_at, request.end) {
            (Some(at), Some(end)) => format!("{end:?} at {:.3}", seconds(at)),
            _ => "in flight".to_owned(),
        };
        let what = format!(
            "request {} attempt {} epoch {} previous {} skipped {}: {end}",
            request.sequence, request.attempt, request.epoch, request.previous, request.skipped
        );
        lines.push((request.begun_at, what));
    }
    for post in &history.posts {
        let what = format!("post {} sent {:.3} {:?} {:?}", post.token, seconds(post.sent_at), post.way, post.answer);
        lines.push((post.answered_at, what));
    }
    lines.sort_by_key(|(at, _)| *at);
    let end = lines.partition_point(|(at, _)| *at <= violation.at).saturating_add(3).min(lines.len());
    let mut shown: Vec<_> = lines[end.saturating_sub(AROUND)..end].to_vec();
    let since = shown.first().map_or(0, |(at, _)| *at).min(violation.at.saturating_sub(5 * SECOND));
    for fault in record.faults.iter().filter(|fault| fault.from <= violation.at + SECOND) {
        if fault.until.is_none_or(|until| until + 20 * SECOND >= since) {
            let until = fault.until.map_or("now".to_owned(), |until| format!("{:.3}", seconds(until)));
            shown.push((fault.from, format!("FAULT {:?} of {} until {until}", fault.kind, fault.target)));
        }
    }
    shown.sort_by_key(|(at, _)| *at);
    for (at, what) in shown {
        let _ = writeln!(text, "  {:>9.3}  {what}", seconds(at));
    }
    text
}
