use std::io;

use super::super::resolver::Looking;
use super::*;
use crate::domain::parse_url;

fn guard(opened: &[&str]) -> Guard {
    let opened = opened.iter().map(|net| net.parse().expect("a network")).collect();
    Guard::new(opened, vec![25, 6379], false)
}

fn check(guard: &Guard, url: &str) -> Result<(), GuardError> {
    guard.check_url(&Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}")))
}

/// Spellings of 127.0.0.1, 10.0.0.1 and 169.254.169.254, and of names that never lead outside.
const REFUSED: &[&str] = &[
    "http://127.0.0.1/",
    "http://127.0.0.1./",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0X7F.0.0.0x1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.0.0.1:8080/",
    "http://%31%32%37.0.0.1/",
    "http://127%2e0%2e0%2e1/",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
    "http://①②⑦.0.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0x0/",
    "http://10.1/",
    "http://167772161/",
    "http://012.0.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://255.255.255.255/",
    "http://224.0.0.1/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://LocalHost.:8080/",
    "http://loc%61lhost/",
    "http://ｌｏｃａｌｈｏｓｔ/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://lo\u{ad}calhost/",
    "http://localho\u{17f}t/",
    "http://localhost\u{3002}/",
    "http://a.localhost/",
    "http://a.b.localhost./",
    "http://printer.local/",
    "http://local/",
    "http://metadata.google.internal/",
    "http://metadata.google.INTERNAL./",
    "http://internal/",
    "http://x.invalid/",
    "http://127.0.0.1../",
    "http://localhost../",
    "http://a..localhost/",
    "http://example..com/",
    "http://./",
    "http://example.com@127.0.0.1/",
    "http://example.com:80@localhost/",
    "http:\\\\127.0.0.1\\",
    "http:127.0.0.1/",
    "http:///127.0.0.1/",
    "http://127.0.0.1#@example.com/",
    "http://127.0.0.1?@example.com/",
    "http://127.0.0.1\\@example.com/",
    "https://127.0.0.1/",
];

const FINE: &[&str] = &[
    "http://example.com/",
    "https://example.com:8443/a?b=c",
    "https://example.com./",
    "https://münchen.example/",
    "https://xn--mnchen-3ya.example/",
    "http://8.8.8.8/",
    "http://134744072/",
    "http://[2606:4700:4700::1111]/",
    "http://[::ffff:8.8.8.8]/",
    "http://localhost.example.com/",
    "http://mylocalhost/",
    "http://notlocal/",
    "http://localhost-dev.com/",
    "http://internal.example.com/",
    "http://127.0.0.1.example.com/",
    "http://lоcalhost.example.com/",
    "http://postgres:5432/",
    "https://example.com/@127.0.0.1",
    "https://example.com/?next=http://localhost/",
];

#[test]
fn a_forbidden_address_is_seen_in_every_spelling() {
    let guard = guard(&[]);
    for url in REFUSED {
        let verdict = check(&guard, url);
        assert!(matches!(verdict, Err(GuardError::Address { .. } | GuardError::Name(_))), "{url}: {verdict:?}");
    }
    for url in FINE {
        assert_eq!(check(&guard, url), Ok(()), "{url}");
    }
    for url in [
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://256.0.0.1/",
        "http://0x100000000/",
        "http://a..1/",
    ] {
        assert!(parse_url(url).is_err(), "{url}");
    }
}

#[test]
fn localhost_is_open_with_loopback_and_nothing_else_is() {
    for opened in [&["127.0.0.0/8"][..], &["::1/128"], &["127.0.0.0/8", "::1/128"], &["::ffff:127.0.0.1/128"]] {
        let guard = guard(opened);
        for url in ["http://localhost/", "http://LOCALHOST.:9000/"] {
            assert_eq!(check(&guard, url), Ok(()), "{url} with {opened:?}");
        }
        for url in ["http://a.localhost/", "http://x.local/", "http://10.0.0.1/", "http://169.254.169.254/"] {
            assert!(check(&guard, url).is_err(), "{url} with {opened:?}");
        }
    }
    assert!(check(&guard(&["127.0.0.2/32"]), "http://localhost/").is_err());
}

#[test]
fn ports_and_schemes_are_the_operators_choice() {
    let open = guard(&[]);
    assert_eq!(check(&open, "http://example.com:6379/"), Err(GuardError::Port(6379)));
    assert_eq!(check(&open, "http://example.com:0/"), Err(GuardError::Port(0)));
    assert_eq!(check(&open, "ftp://example.com/"), Err(GuardError::NotHttp));
    let production = Guard::new(Vec::new(), vec![443], true);
    assert_eq!(check(&production, "http://example.com/"), Err(GuardError::HttpsOnly));
    assert_eq!(check(&production, "https://example.com/"), Err(GuardError::Port(443)));
    assert_eq!(check(&production, "https://example.com:8443/"), Ok(()));
}

/// Answers from a list; `None` never answers.
struct Answers(Option<&'static [&'static str]>);

impl Lookup for Answers {
    fn lookup(&self, _: &str) -> Looking {
        let answers = self.0.map(|list| list.iter().map(|answer| answer.parse().expect("an address")).collect());
        Box::pin(async move {
            match answers {
                Some(list) => Ok::<Vec<IpAddr>, io::Error>(list),
                None => std::future::pending().await,
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn one_forbidden_answer_refuses_a_name() {
    let url = Url::parse("http://example.com/").expect("a URL");
    let lookup = |answers| guard(&[]).with_lookup(Arc::new(Answers(answers)));
    for (answers, fine) in [
        (Some(&["93.184.215.14"][..]), true),
        (Some(&["93.184.215.14", "2606:4700::1"]), true),
        (Some(&["93.184.215.14", "10.0.0.1"]), false),
        (Some(&["::1", "93.184.215.14"]), false),
        (Some(&["169.254.169.254"]), false),
        (Some(&["::ffff:10.0.0.1"]), false),
        // It does not resolve: accepted, and checked at each connection.
        (Some(&[]), true),
        (None, true),
    ] {
        let verdict = lookup(answers).check_registration(&url).await;
        assert_eq!(verdict.is_ok(), fine, "{answers:?}: {verdict:?}");
    }
    let refused = lookup(Some(&["10.0.0.1"])).resolve("a.localhost").await;
    assert!(matches!(refused, Err(ResolveError::Forbidden(GuardError::Name(_)))));
    let local = guard(&["127.0.0.0/8"]).with_lookup(Arc::new(Answers(None)));
    assert_eq!(local.resolve("localhost").await.expect("open"), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
}
