//! Does a record keep the promises? Pure functions over it; each rule names the guarantee it stands for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::record::{Answer, End, Fault, FaultKind, Micros, Outcomes, Post, Record, Request, SECOND};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Rule {
    /// G1: accepted, and neither delivered nor ended otherwise.
    Lost,
    /// G1: ended twice, or delivered by the log and never answered with success.
    TwoEnds,
    /// One message under two ids, or one id for two messages.
    TwoIds,
    /// A rollback, a refusal, and yet it was sent.
    Phantom,
    /// G2: a request for an older message than the one before.
    Order,
    /// G2: the next one begun, and the one before has not ended.
    PassedOver,
    /// G2: posted after another was accepted, and numbered before it.
    CommitOrder,
    /// G3
    TwoInFlight,
    /// G4: sent again without a fault that explains it.
    Repeat,
    Epoch,
    Previous,
    Skipped,
    Attempt,
    Misrouted,
    /// G4, G7: it could have been sent, and was not for too long.
    Late,
}

#[derive(Debug, Clone, Serialize)]
pub struct Violation {
    pub rule: Rule,
    pub at: Micros,
    pub destination: i64,
    pub text: String,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Beyond what the guarantees say: what a busy machine may add.
    pub slack: Micros,
    /// From the end of a failed try to the next.
    pub retry_delay: Micros,
    /// Tries after the first.
    pub retries: u32,
    /// The present, for messages that still wait.
    pub now: Micros,
}

/// Every violation, by the time it showed. With the outcomes in the record the whole is judged, without
/// them what has happened so far.
pub fn judge(record: &Record, limits: &Limits) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_ids(record, &mut violations);
    for place in &record.places {
        let history = History::of(record, place.id, limits);
        check_routes(&history, place.path, &mut violations);
        check_order(&history, &mut violations);
        check_flights(&history, place.timeout, &mut violations);
        check_repeats(&history, place.timeout, &mut violations);
        check_headers(&history, &mut violations);
        check_commit_order(&history, &mut violations);
        check_waits(&history, &mut violations);
        if let Some(outcomes) = &record.outcomes {
            check_ends(&history, outcomes, &mut violations);
        }
    }
    violations.sort_by_key(|violation| violation.at);
    violations
}

/// All that concerns one destination.
pub struct History<'a> {
    destination: i64,
    /// By their beginning.
    pub requests: Vec<&'a Request>,
    pub posts: Vec<&'a Post>,
    faults: &'a [Fault],
    outcomes: Option<&'a Outcomes>,
    limits: &'a Limits,
    succeeded: BTreeSet<i64>,
}

impl<'a> History<'a> {
    pub fn of(record: &'a Record, destination: i64, limits: &'a Limits) -> History<'a> {
        let mut requests: Vec<_> = record.requests.iter().filter(|r| r.destination == destination).collect();
        requests.sort_by_key(|request| request.begun_at);
        let posts = record.posts.iter().filter(|post| post.destination == destination).collect();
        let succeeded = requests.iter().filter(|r| r.succeeded()).map(|r| r.sequence).collect();
        let (faults, outcomes) = (&record.faults[..], record.outcomes.as_ref());
        History { destination, requests, posts, faults, outcomes, limits, succeeded }
    }

    fn violation(&self, rule: Rule, at: Micros, text: String) -> Violation {
        Violation { rule, at, destination: self.destination, text }
    }

    fn ended_otherwise(&self, sequence: i64) -> bool {
        match self.outcomes {
            Some(outcomes) => outcomes.ends.contains_key(&(self.destination, sequence)),
            // Not known yet: out of tries, it would have.
            None => self
                .requests
                .iter()
                .any(|r| r.sequence == sequence && r.attempt > self.limits.retries && !r.succeeded()),
        }
    }

    fn accepted(&self) -> impl Iterator<Item = (i64, &'a Post)> + '_ {
        self.posts.iter().filter_map(|post| match post.answer {
            Answer::Accepted { sequence } => Some((sequence, *post)),
            Answer::Refused | Answer::Unknown => None,
        })
    }
}

impl Request {
    pub fn succeeded(&self) -> bool {
        matches!(self.end, Some(End::Answered(200..=299)))
    }
}

fn check_ids(record: &Record, violations: &mut Vec<Violation>) {
    let mut ids: HashMap<(i64, i64), u64> = HashMap::new();
    let posts: HashMap<u64, &Post> = record.posts.iter().map(|post| (post.token, post)).collect();
    for post in &record.posts {
        let Answer::Accepted { sequence } = post.answer else { continue };
        if let Some(other) = ids.insert((post.destination, sequence), post.token) {
            violations.push(Violation {
                rule: Rule::TwoIds,
                at: post.answered_at,
                destination: post.destination,
                text: format!("the id of message {} was given to message {other} before", post.token),
            });
        }
    }
    let mut seen: HashMap<u64, (i64, i64)> = HashMap::new();
    for request in &record.requests {
        let Some(token) = request.token else { continue };
        let id = (request.destination, request.sequence);
        let mut add = |rule, text| {
            violations.push(Violation { rule, at: request.begun_at, destination: request.destination, text });
        };
        let first = *seen.entry(token).or_insert(id);
        if first != id {
            add(Rule::TwoIds, format!("message {token} was sent as {first:?} and as {id:?}"));
        }
        match posts.get(&token) {
            Some(Post { answer: Answer::Accepted { sequence }, destination, .. })
                if (*destination, *sequence) != id =>
            {
                add(Rule::TwoIds, format!("message {token} was accepted as {sequence} and sent as {id:?}"));
            }
            Some(Post { answer: Answer::Refused, .. }) => {
                add(Rule::Phantom, format!("message {token} was refused, and sent as {id:?}"));
            }
            None | Some(Post { answer: Answer::Accepted { .. } | Answer::Unknown, .. }) => {}
        }
    }
}

fn check_routes(history: &History<'_>, path: u32, violations: &mut Vec<Violation>) {
    for request in history.requests.iter().filter(|request| request.path != path) {
        let text = format!("{} went to path {} instead of {path}", request.sequence, request.path);
        violations.push(history.violation(Rule::Misrouted, request.begun_at, text));
    }
}

/// Requests start in sequence order, with repeats only of the last one; who is passed over has ended.
fn check_order(history: &History<'_>, violations: &mut Vec<Violation>) {
    let sent: HashSet<i64> = history.requests.iter().map(|request| request.sequence).collect();
    let mut never_sent: Vec<i64> = history.accepted().map(|(s, _)| s).filter(|s| !sent.contains(s)).collect();
    never_sent.sort_unstable();
    let mut succeeded: HashSet<i64> = HashSet::new();
    for (index, request) in history.requests.iter().enumerate() {
        if let Some(last) = index.checked_sub(1).map(|index| history.requests[index]) {
            if last.sequence < request.sequence {
                // Noted before the answer left, so it is known here.
                if !succeeded.contains(&last.sequence) && !history.ended_otherwise(last.sequence) {
                    let text = format!("{} was begun, and {} had not ended", request.sequence, last.sequence);
                    violations.push(history.violation(Rule::PassedOver, request.begun_at, text));
                }
                let from = never_sent.partition_point(|s| *s <= last.sequence);
                let to = never_sent.partition_point(|s| *s < request.sequence);
                for sequence in &never_sent[from..to] {
                    if !history.ended_otherwise(*sequence) {
                        let text = format!("{} was begun, and {sequence} was never sent", request.sequence);
                        violations.push(history.violation(Rule::PassedOver, request.begun_at, text));
                    }
                }
            } else if last.sequence > request.sequence {
                let text = format!("{} was begun after {}", request.sequence, last.sequence);
                violations.push(history.violation(Rule::Order, request.begun_at, text));
            }
        }
        if request.succeeded() {
            succeeded.insert(request.sequence);
        }
    }
    let mut highest = 0;
    for request in &history.requests {
        if request.epoch < highest {
            let text = format!("{} came with epoch {} after {highest}", request.sequence, request.epoch);
            violations.push(history.violation(Rule::Epoch, request.begun_at, text));
        }
        highest = highest.max(request.epoch);
    }
}

/// From a request's first byte to its answer, its timeout or its closing there is no other.
fn check_flights(history: &History<'_>, timeout: Micros, violations: &mut Vec<Violation>) {
    let mut open: Vec<&Request> = Vec::new();
    for request in &history.requests {
        let end = |other: &Request| other.ended_at.unwrap_or(Micros::MAX).min(other.begun_at + timeout);
        open.retain(|other| end(other) > request.begun_at);
        for other in &open {
            let excused = history.faults.iter().any(|fault| cannot_hang_up(fault, history, other, request));
            if !excused {
                let text = format!(
                    "{} (epoch {}) was begun while {} (epoch {}), begun {:.3} s before, was in flight for another {:.3} s",
                    request.sequence,
                    request.epoch,
                    other.sequence,
                    other.epoch,
                    seconds(request.begun_at - other.begun_at),
                    seconds(end(other).saturating_sub(request.begun_at)),
                );
                violations.push(history.violation(Rule::TwoInFlight, request.begun_at, text));
            }
        }
        open.push(request);
    }
}

/// A process that is stopped does not notice that its session was ended or cut, and cannot hang up; to the
/// others it looks like one that was killed.
fn cannot_hang_up(stop: &Fault, history: &History<'_>, other: &Request, request: &Request) -> bool {
    let stopped = matches!(stop.kind, FaultKind::Zombie | FaultKind::WorkerPause | FaultKind::WorkerHang)
        && befell(stop, history)
        && other.begun_at <= stop.from + SECOND
        && stop.from <= request.begun_at
        && stop.until.is_none_or(|until| request.begun_at <= until + SECOND / 4);
    let ends_it = |fault: &Fault| {
        let of_it = fault.target == stop.target || fault.kind == FaultKind::AllCut;
        let ends =
            matches!(fault.kind, FaultKind::SessionEnd | FaultKind::WatchEnd | FaultKind::LinkCut | FaultKind::AllCut);
        of_it && ends && stop.from <= fault.from && fault.from <= request.begun_at
    };
    stopped && (stop.kind == FaultKind::Zombie || history.faults.iter().any(ends_it))
}

/// Whether the fault's worker served the destination, as far as that could be found out in time.
fn befell(fault: &Fault, history: &History<'_>) -> bool {
    fault.victims.is_empty() || fault.victims.contains(&history.destination)
}

/// Sent again after a success, or after a hang-up: each time by a fault of its own.
fn check_repeats(history: &History<'_>, timeout: Micros, violations: &mut Vec<Violation>) {
    let mut used: HashSet<usize> = HashSet::new();
    for pair in history.requests.windows(2) {
        let (before, request) = (pair[0], pair[1]);
        if before.sequence != request.sequence {
            continue;
        }
        let timed_out = before.ended_at.is_some_and(|end| end + SECOND / 2 >= before.begun_at + timeout);
        let needs_reason = before.succeeded() || (before.end == Some(End::Closed) && !timed_out);
        if !needs_reason {
            continue;
        }
        let at = before.ended_at.unwrap_or(Micros::MAX).min(request.begun_at);
        let reason = (0..history.faults.len()).find(|index| {
            let fault = &history.faults[*index];
            !used.contains(index) && explains_repeat(fault, history, before.begun_at, at)
        });
        match reason {
            Some(index) => drop(used.insert(index)),
            None => {
                let what = if before.succeeded() { "had succeeded" } else { "was hung up on" };
                let text = format!("{} {what} {:.3} s before, and was sent again", request.sequence, {
                    seconds(request.begun_at.saturating_sub(at))
                });
                violations.push(history.violation(Rule::Repeat, request.begun_at, text));
            }
        }
    }
}

/// Whether a fault may have kept a request from its end, or that end from being written.
fn explains_repeat(fault: &Fault, history: &History<'_>, begun_at: Micros, ended_at: Micros) -> bool {
    let disturbs = match fault.kind {
        FaultKind::WorkerKill
        | FaultKind::WorkerHang
        | FaultKind::Zombie
        | FaultKind::DatabaseFast
        | FaultKind::DatabaseImmediate
        | FaultKind::DatabaseKill
        | FaultKind::RestartBehind
        | FaultKind::SessionEnd
        | FaultKind::AideEnd
        | FaultKind::WatchEnd
        | FaultKind::BackendCrash
        | FaultKind::AllCut => true,
        FaultKind::LinkCut | FaultKind::LinkHole => fault.target.starts_with("worker"),
        // A second signal while it stops ends it at once; else a stop is graceful.
        FaultKind::WorkerTerm => history.faults.iter().any(|first| {
            first.kind == fault.kind
                && first.target == fault.target
                && first.from < fault.from
                && first.until.is_none_or(|until| fault.from <= until)
        }),
        // A short pause, a slow line and what befalls the API repeat nothing.
        FaultKind::WorkerPause
        | FaultKind::ApiKill
        | FaultKind::ApiPause
        | FaultKind::PoolEnd
        | FaultKind::LinkDelay
        | FaultKind::RowLock => false,
    };
    // While a process is stopped it writes no end down, and notices nothing until it goes on: what befalls it then
    // reaches from the one to the other. The stop alone explains nothing.
    let mut span = (fault.from, fault.until.unwrap_or(Micros::MAX));
    for stop in history.faults.iter().filter(|stop| stop.kind == FaultKind::WorkerPause && befell(stop, history)) {
        let until = stop.until.unwrap_or(Micros::MAX);
        if (stop.target == fault.target || befalls_all(fault)) && (stop.from..=until).contains(&fault.from) {
            span = (span.0.min(stop.from), span.1.max(until));
        }
    }
    disturbs && span.0 <= ended_at + SECOND && begun_at <= span.1.saturating_add(SECOND)
}

/// Whether every session ends by it.
fn befalls_all(fault: &Fault) -> bool {
    use FaultKind::{AllCut, BackendCrash, DatabaseFast, DatabaseImmediate, DatabaseKill, RestartBehind};
    matches!(fault.kind, AllCut | BackendCrash | DatabaseFast | DatabaseImmediate | DatabaseKill | RestartBehind)
}

/// `orderly-previous-sequence` is the last one delivered, `orderly-skipped` what ended otherwise since;
/// tries are counted.
fn check_headers(history: &History<'_>, violations: &mut Vec<Violation>) {
    let mut delivered: Vec<i64> = Vec::new();
    let mut last: Option<&Request> = None;
    for request in &history.requests {
        let sequence = request.sequence;
        let really = |s: &&i64| **s < sequence && !history.ended_otherwise(**s);
        let previous = delivered.iter().rev().find(really).copied().unwrap_or(0);
        if request.previous != previous {
            let text = format!("{sequence} named {} as the one before; it was {previous}", request.previous);
            violations.push(history.violation(Rule::Previous, request.begun_at, text));
        } else if let Some(outcomes) = history.outcomes {
            let between = (history.destination, previous + 1)..(history.destination, sequence);
            let skipped = outcomes.ends.range(between).count();
            if usize::try_from(request.skipped) != Ok(skipped) {
                let text = format!("{sequence} told of {} skipped ones; there were {skipped}", request.skipped);
                violations.push(history.violation(Rule::Skipped, request.begun_at, text));
            }
        }
        let expected = match last.filter(|last| last.sequence == sequence) {
            Some(last) => last.attempt..=last.attempt + 1,
            None => 1..=1,
        };
        let repeated = last.is_some_and(|last| last.sequence > sequence);
        if !repeated && !expected.contains(&request.attempt) {
            let text = format!("{sequence} came as attempt {}, not in {expected:?}", request.attempt);
            violations.push(history.violation(Rule::Attempt, request.begun_at, text));
        }
        if request.succeeded() && delivered.last().is_none_or(|last| *last < sequence) {
            delivered.push(sequence);
        }
        last = Some(request);
    }
}

/// Posted after another was answered: numbered after it.
fn check_commit_order(history: &History<'_>, violations: &mut Vec<Violation>) {
    let by_sequence: BTreeMap<i64, &Post> = history.accepted().collect();
    let mut earliest: Option<(&Post, i64)> = None;
    for (sequence, post) in by_sequence.iter().rev() {
        if let Some((higher, number)) = earliest
            && higher.answered_at < post.sent_at
        {
            let text = format!("{sequence} was posted after {number} had been accepted");
            violations.push(history.violation(Rule::CommitOrder, post.answered_at, text));
        }
        if earliest.is_none_or(|(higher, _)| post.answered_at < higher.answered_at) {
            earliest = Some((post, *sequence));
        }
    }
}

/// What can be sent is sent at once; a fault excuses it for as long as the guarantees say.
fn check_waits(history: &History<'_>, violations: &mut Vec<Violation>) {
    let accepted: BTreeMap<i64, &Post> = history.accepted().collect();
    let mut last: Option<&Request> = None;
    let mut sent: HashSet<i64> = HashSet::new();
    let mut add = |ready: Micros, begun: Micros, sequence: i64| {
        let due = due(history.faults, ready, history.limits);
        if begun > due {
            let text = format!(
                "{sequence} could be sent at {:.3} s and was not until {:.3} s; due by {:.3} s",
                seconds(ready),
                seconds(begun),
                seconds(due)
            );
            violations.push(history.violation(Rule::Late, due, text));
        }
    };
    for request in &history.requests {
        let posted = accepted.get(&request.sequence).map(|post| post.answered_at);
        let before = last.map(|last| {
            let wait = if last.sequence == request.sequence { history.limits.retry_delay } else { 0 };
            last.ended_at.unwrap_or(last.begun_at) + wait
        });
        if let Some(posted) = posted {
            add(posted.max(before.unwrap_or(0)), request.begun_at, request.sequence);
        }
        sent.insert(request.sequence);
        last = Some(request);
    }
    // The oldest that still waits, when nothing is in flight.
    let ended = |sequence: i64| history.outcomes.is_some_and(|o| o.ends.contains_key(&(history.destination, sequence)));
    let waiting = accepted.iter().find(|(sequence, _)| !sent.contains(sequence) && !ended(**sequence));
    if let Some((sequence, post)) = waiting
        && let Some(free) = last.map_or(Some(0), |last| last.ended_at)
        && last.is_none_or(|last| history.succeeded.contains(&last.sequence))
    {
        add(post.answered_at.max(free), history.limits.now, *sequence);
    }
}

/// By when what could be sent at `ready` has to be, given what was broken then.
fn due(faults: &[Fault], ready: Micros, limits: &Limits) -> Micros {
    let mut due = ready + limits.slack;
    // Faults are recorded as they begin, so one pass follows a chain of them.
    for fault in faults {
        let healed = healed_at(fault);
        if fault.from <= due && healed > ready {
            due = due.max(healed.saturating_add(limits.slack));
        }
    }
    due
}

/// When, at the latest, nothing is to be seen of a fault any more (G4, G7).
fn healed_at(fault: &Fault) -> Micros {
    let until = fault.until.unwrap_or(Micros::MAX);
    let after = |seconds: u64| fault.from + seconds * SECOND;
    match fault.kind {
        FaultKind::WorkerKill | FaultKind::WorkerTerm | FaultKind::SessionEnd => after(1),
        FaultKind::AideEnd | FaultKind::WatchEnd | FaultKind::PoolEnd => after(1),
        FaultKind::WorkerPause => until.saturating_add(SECOND),
        FaultKind::WorkerHang => after(60),
        FaultKind::Zombie => until.saturating_add(SECOND),
        // Its commit may have had no bell: until the sweep.
        FaultKind::ApiKill => after(30),
        FaultKind::ApiPause => until.saturating_add(SECOND),
        // Others' claims are left alone for 15 s, until their owners are back.
        FaultKind::DatabaseFast
        | FaultKind::DatabaseImmediate
        | FaultKind::DatabaseKill
        | FaultKind::BackendCrash
        | FaultKind::RestartBehind => until.saturating_add(16 * SECOND),
        FaultKind::AllCut => until.saturating_add(3 * SECOND),
        FaultKind::LinkCut => after(3),
        FaultKind::LinkHole => {
            if fault.target.starts_with("worker") {
                until.saturating_add(3 * SECOND).min(after(62))
            } else {
                until.max(after(30))
            }
        }
        FaultKind::LinkDelay | FaultKind::RowLock => until.saturating_add(SECOND),
    }
}

/// Each accepted message ended one way, and the log of it is true.
fn check_ends(history: &History<'_>, outcomes: &Outcomes, violations: &mut Vec<Violation>) {
    let at = history.limits.now;
    let key = |sequence: i64| (history.destination, sequence);
    for (sequence, post) in history.accepted() {
        let ended = outcomes.ends.contains_key(&key(sequence));
        let logged = outcomes.delivered.contains_key(&key(sequence));
        if outcomes.left.contains(&key(sequence)) {
            violations.push(history.violation(Rule::Lost, at, format!("{sequence} is still queued")));
        } else if !ended && !logged {
            let seen = if history.succeeded.contains(&sequence) { "was received" } else { "was not received" };
            let text = format!("{sequence} (message {}) {seen}, and nothing tells of its end", post.token);
            violations.push(history.violation(Rule::Lost, at, text));
        }
    }
    let own = (history.destination, i64::MIN)..=(history.destination, i64::MAX);
    for ((_, sequence), times) in outcomes.delivered.range(own) {
        let last = history.requests.iter().rev().find(|request| request.sequence == *sequence);
        let at = last.map_or(at, |last| last.ended_at.unwrap_or(last.begun_at));
        if *times > 1 {
            let text = format!("{sequence} was acknowledged {times} times");
            violations.push(history.violation(Rule::TwoEnds, at, text));
        }
        if outcomes.ends.contains_key(&key(*sequence)) {
            let text = format!("{sequence} was delivered by the log and given up on");
            violations.push(history.violation(Rule::TwoEnds, at, text));
        }
        if !history.succeeded.contains(sequence) {
            let text = format!("{sequence} was delivered by the log and never received");
            violations.push(history.violation(Rule::Lost, at, text));
        }
    }
}

pub fn seconds(micros: Micros) -> f64 {
    micros as f64 / SECOND as f64
}
