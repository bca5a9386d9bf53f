//! Are the keys there, readable by us alone, and those that stored secrets were sealed with?

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::finding::Finding;
use crate::cli::wording::several;
use crate::config::{CommonSettings, Environment};
use crate::delivery::SigningKeys;
use crate::store::doctor::Sealed;
use crate::store::{Sealer, chain};

/// What can be told without the database.
pub(super) fn judge_settings(common: &CommonSettings) -> Vec<Finding> {
    let production = common.environment == Environment::Production;
    let mut findings = Vec::new();
    if common.signing_keys.is_empty() {
        findings.push(if production {
            Finding::fail("keys", "no key to sign with is given: production does not start without")
                .mend("make one with `orderly keygen`, and give it with --signing-key")
        } else {
            Finding::ok("keys", "none is given: in development all processes share a pair in the database")
        });
    }
    for file in &common.signing_keys {
        findings.extend(judge_file(file));
    }
    if common.signing_keys.len() > 1
        && let Err(error) = SigningKeys::load(&common.signing_keys)
        && !findings.iter().any(|finding| finding.text.contains(&chain(&error)))
    {
        findings.push(Finding::fail("keys", chain(&error)).mend("give each --signing-key once"));
    }
    match Sealer::from_keys(&common.secrets_keys) {
        Err(error) => findings.push(Finding::fail("secrets", error.to_string())),
        Ok(sealer) if !sealer.is_plain() => {}
        Ok(_) if production => findings.push(
            Finding::warn("secrets", "no --secrets-key is given: destinations cannot have headers of their own")
                .mend("make one with `openssl rand -base64 32`, the same for all processes"),
        ),
        Ok(_) => findings
            .push(Finding::ok("secrets", "no --secrets-key is given: in development they are stored in the clear")),
    }
    findings
}

fn judge_file(file: &Path) -> Vec<Finding> {
    let keys = match SigningKeys::load(&[file]) {
        Ok(keys) => keys,
        Err(error) => {
            return vec![
                Finding::fail("keys", chain(&error)).mend("make one with `orderly keygen`, readable by this user"),
            ];
        }
    };
    let mut findings: Vec<Finding> =
        keys.iter().map(|key| Finding::ok("keys", format!("{} signs as {}", file.display(), key.id()))).collect();
    if file.metadata().is_ok_and(|found| found.mode() & 0o044 != 0) {
        let text = format!("others on this machine may read {}", file.display());
        findings.push(Finding::warn("keys", text).mend(format!("chmod 600 {}", file.display())));
    }
    findings
}

/// What is stored must open with what was given. The keys themselves were judged before.
pub(super) fn judge_sealed(common: &CommonSettings, sealed: &[Sealed]) -> Vec<Finding> {
    let Ok(sealer) = Sealer::from_keys(&common.secrets_keys) else { return Vec::new() };
    let mut findings = Vec::new();
    let (mut opened, mut plain) = (0, 0);
    for group in sealed {
        match sealer.open(&group.sample) {
            Err(error) => {
                let text = format!("{} of {} cannot be opened: {error}", group.count, group.what);
                let mend = "give the key that sealed them, too: all that are given open, the first one seals";
                findings.push(Finding::fail("secrets", text).mend(mend));
            }
            Ok(_) if group.sample.first() == Some(&0) => plain += group.count,
            Ok(_) => opened += group.count,
        }
    }
    if plain > 0 && !sealer.is_plain() {
        let text = format!("{} in the clear, from before there was a key", several(plain, "secret"));
        let mend = "each is sealed when it is next written: PATCH the destinations' headers";
        findings.push(Finding::warn("secrets", text).mend(mend));
    }
    if opened > 0 {
        findings.push(Finding::ok("secrets", format!("the key opens what is stored ({opened})")));
    } else if !sealer.is_plain() && findings.is_empty() {
        findings.push(Finding::ok("secrets", "a key is given; nothing is sealed with it yet"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use clap::Parser;

    use super::super::finding::Level::{self, Fail, Ok, Warn};
    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        common: CommonSettings,
    }

    fn common(arguments: &[&str]) -> CommonSettings {
        Cli::try_parse_from([&["doctor"], arguments].concat()).expect("it parses").common
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn production_needs_keys() {
        assert_eq!(levels(&judge_settings(&common(&[]))), [Ok, Ok]);
        assert_eq!(levels(&judge_settings(&common(&["--environment", "production"]))), [Fail, Warn]);
        let wrong = common(&["--signing-key", "/nowhere/key.pem", "--secrets-key", "secret"]);
        let findings = judge_settings(&wrong);
        assert_eq!(levels(&findings), [Fail, Fail]);
        assert!(findings.iter().all(|finding| !finding.text.contains("secret key")), "{findings:?}");
    }

    #[test]
    fn what_was_sealed_with_another_key_fails() {
        let key = |byte: u8| STANDARD.encode([byte; 32]);
        let (one, two) = (key(1), key(2));
        let sealed = |keys: &[String]| {
            let sealer = Sealer::from_keys(keys).expect("good keys");
            vec![Sealed { what: "headers".to_owned(), count: 3, sample: sealer.seal(b"{}") }]
        };
        let judge = |key: &str, sealed: &[Sealed]| levels(&judge_sealed(&common(&["--secrets-key", key]), sealed));
        assert_eq!(judge(&one, &sealed(std::slice::from_ref(&one))), [Ok]);
        assert_eq!(judge(&two, &sealed(std::slice::from_ref(&one))), [Fail]);
        assert_eq!(judge(&format!("{two},{one}"), &sealed(std::slice::from_ref(&one))), [Ok]);
        assert_eq!(judge(&one, &sealed(&[])), [Warn]);
        assert_eq!(judge(&one, &[]), [Ok]);
        assert_eq!(levels(&judge_sealed(&common(&[]), &sealed(&[one]))), [Fail]);
        assert!(judge_sealed(&common(&[]), &sealed(&[])).is_empty());
    }
}
