//! How does a run look? One SVG: the faults by kind, what was accepted and delivered each second, and each
//! takeover's time.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::judge::{Violation, seconds};
use super::record::{Answer, FaultKind, Micros, Record};

const WIDTH: f64 = 1_200.0;
const LEFT: f64 = 130.0;
const ROW: f64 = 14.0;
const CURVE: f64 = 160.0;

pub fn draw(record: &Record, violations: &[Violation], end: Micros) -> String {
    let length = seconds(end).max(1.0);
    let x = |at: Micros| LEFT + seconds(at) / length * (WIDTH - LEFT - 10.0);
    let mut kinds: Vec<FaultKind> = record.faults.iter().map(|fault| fault.kind).collect();
    kinds.sort();
    kinds.dedup();
    let top = 24.0 + ROW * kinds.len() as f64;
    let height = top + CURVE + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"10\">\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (row, kind) in kinds.iter().enumerate() {
        let y = 10.0 + ROW * row as f64;
        let _ = writeln!(svg, "<text x=\"4\" y=\"{:.1}\">{kind:?}</text>", y + 9.0);
        for fault in record.faults.iter().filter(|fault| fault.kind == *kind) {
            let (from, until) = (x(fault.from), x(fault.until.unwrap_or(end)));
            let colour = if fault.isolated { "#c0392b" } else { "#e59866" };
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"10\" fill=\"{colour}\"><title>{} {:.1} s</title></rect>",
                (until - from).max(1.5),
                fault.target,
                seconds(fault.from)
            );
        }
    }
    let accepted = record.posts.iter().filter(|post| matches!(post.answer, Answer::Accepted { .. }));
    let accepted = by_second(accepted.map(|post| post.answered_at));
    let delivered = by_second(record.requests.iter().filter(|r| r.succeeded()).filter_map(|r| r.ended_at));
    let most = accepted.values().chain(delivered.values()).copied().max().unwrap_or(1) as f64;
    let floor = top + CURVE;
    for (counts, colour, name, y) in
        [(accepted, "#2471a3", "accepted/s", top + 12.0), (delivered, "#1e8449", "delivered/s", top + 26.0)]
    {
        let _ = writeln!(svg, "<text x=\"4\" y=\"{y:.1}\" fill=\"{colour}\">{name}</text>");
        let last = end / 1_000_000;
        let points: Vec<String> = (0..=last)
            .map(|second| {
                let count = counts.get(&second).copied().unwrap_or(0) as f64;
                format!("{:.1},{:.1}", x(second * 1_000_000), floor - count / most * (CURVE - 10.0))
            })
            .collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", points.join(" "));
    }
    let _ = writeln!(svg, "<text x=\"4\" y=\"{:.1}\">most: {most}/s</text>", top + 40.0);
    for violation in violations {
        let at = x(violation.at.min(end));
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{floor:.1}\" stroke=\"red\"><title>{:?}</title></line>",
            violation.rule
        );
    }
    for tick in 0..=10_u64 {
        let at = end / 10 * tick;
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{:.0} s</text>", x(at), floor + 16.0, seconds(at));
    }
    svg.push_str("</svg>\n");
    svg
}

fn by_second(times: impl Iterator<Item = Micros>) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for at in times {
        *counts.entry(at / 1_000_000).or_default() += 1;
    }
    counts
}
