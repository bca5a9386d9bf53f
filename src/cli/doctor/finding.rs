//! What is a finding, and how is it told?

use std::fmt::Write;

use serde::Serialize;

use crate::cli::wording::clean;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line: what was looked at, what was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub level: Level,
    pub check: &'static str,
    #[serde(rename = "finding")]
    pub text: String,
    pub mend: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, text: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, check, text: text.into(), mend: None }
    }

    pub fn warn(check: &'static str, text: impl Into<String>) -> Finding {
        Finding { level: Level::Warn, ..Finding::ok(check, text) }
    }

    pub fn fail(check: &'static str, text: impl Into<String>) -> Finding {
        Finding { level: Level::Fail, ..Finding::ok(check, text) }
    }

    pub fn mend(self, mend: impl Into<String>) -> Finding {
        Finding { mend: Some(mend.into()), ..self }
    }
}

impl Level {
    fn label(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        }
    }
}

/// A line each, and one that counts them.
pub(super) fn to_text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let mend = finding.mend.as_ref().map_or(String::new(), |mend| format!(" -> {mend}"));
        let line = format!("{:<4}  {:<width$}  {}{mend}", finding.level.label(), finding.check, finding.text);
        text.push_str(&clean(&line));
        text.push('\n');
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let _ = writeln!(text, "{} ok, {} warn, {} FAIL", count(Level::Ok), count(Level::Warn), count(Level::Fail));
    text
}

pub(super) fn to_json(findings: &[Finding]) -> String {
    serde_json::to_string_pretty(findings).expect("texts always serialize") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_is_in_it() {
        let findings = [
            Finding::ok("a", "fine"),
            Finding::warn("longer", "two\nlines \u{1b}[31m").mend("mend it"),
            Finding::fail("b", "broken"),
        ];
        let expected = "ok    a       fine\nwarn  longer  two lines  [31m -> mend it\nFAIL  b       broken\n1 ok, 1 warn, 1 FAIL\n";
        assert_eq!(to_text(&findings), expected);
        assert!(to_json(&findings).contains(r#""level": "fail""#));
    }
}
