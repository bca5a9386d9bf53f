//! Does the judge find what is wrong in histories made by hand, and nothing in those that are right?

use super::judge::{Limits, Rule, judge};
use super::record::{Answer, End, Fault, FaultKind, Micros, Outcomes, Place, Post, Record, Request, SECOND, Way};

/// Times in milliseconds, destination 7 behind path 0.
struct Made(Record);

impl Made {
    fn new() -> Made {
        let places = vec![Place { path: 0, id: 7, timeout: 30 * SECOND }];
        Made(Record { places, outcomes: Some(Outcomes::default()), ..Record::default() })
    }

    fn post(mut self, sequence: i64, sent: Micros, answered: Micros) -> Made {
        let answer = Answer::Accepted { sequence };
        let (sent_at, answered_at) = (sent * 1_000, answered * 1_000);
        let token = sequence.unsigned_abs();
        self.0.posts.push(Post { token, producer: 0, way: Way::Api, destination: 7, sent_at, answered_at, answer });
        self
    }

    fn request(mut self, sequence: i64, begun: Micros, ended: Micros, change: impl FnOnce(&mut Request)) -> Made {
        let mut request = Request {
            path: 0,
            destination: 7,
            sequence,
            token: Some(sequence.unsigned_abs()),
            previous: 0,
            skipped: 0,
            attempt: 1,
            epoch: 1,
            begun_at: begun * 1_000,
            ended_at: Some(ended * 1_000),
            end: Some(End::Answered(200)),
        };
        change(&mut request);
        self.0.requests.push(request);
        self
    }

    fn fault(mut self, kind: FaultKind, from: Micros, until: Micros) -> Made {
        let (from, until) = (from * 1_000, Some(until * 1_000));
        self.0.faults.push(Fault { kind, target: "worker-1".into(), from, until, isolated: true, victims: vec![7] });
        self
    }

    fn delivered(mut self, sequences: &[i64]) -> Made {
        let outcomes = self.0.outcomes.get_or_insert_default();
        sequences.iter().for_each(|s| *outcomes.delivered.entry((7, *s)).or_default() += 1);
        self
    }

    fn ended(mut self, sequence: i64) -> Made {
        self.0.outcomes.get_or_insert_default().ends.insert((7, sequence), "exhausted".into());
        self
    }

    #[track_caller]
    fn expect(self, rules: &[Rule]) {
        let limits = Limits { slack: 2 * SECOND, retry_delay: SECOND, retries: 3, now: 100 * SECOND };
        let found = judge(&self.0, &limits);
        assert_eq!(found.iter().map(|violation| violation.rule).collect::<Vec<_>>(), rules, "{found:#?}");
    }
}

fn follows(previous: i64) -> impl FnOnce(&mut Request) {
    move |request| request.previous = previous
}

fn epoch(previous: i64, epoch: i64) -> impl FnOnce(&mut Request) {
    move |request| (request.previous, request.epoch) = (previous, epoch)
}

/// Three messages, of which the third is still to be sent.
fn before_the_third() -> Made {
    Made::new()
        .post(1, 0, 10)
        .post(2, 20, 30)
        .post(3, 40, 50)
        .request(1, 15, 20, |_| ())
        .request(2, 35, 40, follows(1))
        .delivered(&[1, 2])
}

/// Three messages, one after the other.
fn calm() -> Made {
    before_the_third().request(3, 55, 60, follows(2)).delivered(&[3])
}

#[test]
fn a_calm_history_is_right() {
    calm().expect(&[]);
}

#[test]
fn what_was_accepted_has_to_end() {
    let mut made = calm();
    made.0.requests.pop();
    made.0.outcomes.get_or_insert_default().delivered.remove(&(7, 3));
    // Its last message also waits for longer than it may.
    made.expect(&[Rule::Late, Rule::Lost]);
    let mut made = calm();
    made.0.outcomes.get_or_insert_default().left.push((7, 3));
    made.expect(&[Rule::Lost]);
}

#[test]
fn an_end_comes_once_and_is_true() {
    calm().delivered(&[2]).expect(&[Rule::TwoEnds]);
    let mut made = calm().ended(3);
    made.0.requests.pop();
    made.expect(&[Rule::TwoEnds, Rule::Lost]);
}

#[test]
fn a_number_belongs_to_one_message() {
    let mut made = calm();
    made.0.posts[1].answer = Answer::Accepted { sequence: 1 };
    // Message 2 was accepted as 1 and sent as 2, too.
    let limits = Limits { slack: 2 * SECOND, retry_delay: SECOND, retries: 3, now: 100 * SECOND };
    let found = judge(&made.0, &limits);
    assert!(found.iter().filter(|violation| violation.rule == Rule::TwoIds).count() == 2, "{found:#?}");
    let mut made = calm();
    made.0.posts[2].answer = Answer::Refused;
    made.expect(&[Rule::Phantom]);
    let mut made = calm();
    made.0.posts[2].answer = Answer::Unknown;
    made.expect(&[]);
}

#[test]
fn an_older_message_never_comes_again() {
    calm().request(2, 70, 75, follows(1)).fault(FaultKind::WorkerKill, 60, 500).expect(&[Rule::Order]);
}

#[test]
fn the_next_one_waits_for_the_end_of_the_one_before() {
    let mut made = calm();
    made.0.requests[1].end = Some(End::Answered(500));
    made.0.requests[2].previous = 1;
    made.0.outcomes.get_or_insert_default().delivered.remove(&(7, 2));
    made.expect(&[Rule::PassedOver, Rule::Lost]);
    let mut made = calm();
    made.0.requests.remove(1);
    made.0.requests[1].previous = 1;
    made.0.outcomes.get_or_insert_default().delivered.remove(&(7, 2));
    made.expect(&[Rule::PassedOver, Rule::Late, Rule::Lost]);
}

#[test]
fn what_ended_otherwise_is_told() {
    let given_up = |skipped: i64| {
        let mut made = calm().ended(2);
        made.0.outcomes.get_or_insert_default().delivered.remove(&(7, 2));
        made.0.requests[1].end = Some(End::Answered(500));
        made.0.requests[2].previous = 1;
        made.0.requests[2].skipped = skipped;
        made
    };
    given_up(1).expect(&[]);
    given_up(0).expect(&[Rule::Skipped]);
    let mut made = calm();
    made.0.requests[2].previous = 1;
    made.expect(&[Rule::Previous]);
}

#[test]
fn two_are_never_in_flight() {
    let mut made = calm();
    made.0.requests[1].ended_at = Some(56 * 1_000);
    made.expect(&[Rule::TwoInFlight]);
    // One that has not ended at all.
    let mut made = calm();
    made.0.requests[1].ended_at = None;
    made.expect(&[Rule::TwoInFlight]);
    // Past its timeout a receiver may still be busy.
    let mut made = calm().post(4, 40_000, 40_010).request(4, 40_020, 40_030, follows(3)).delivered(&[4]);
    made.0.requests[2].ended_at = Some(50_000 * 1_000);
    made.expect(&[]);
}

#[test]
fn only_a_process_that_is_stopped_and_cut_off_may_overlap() {
    let overlap = || {
        let mut made = calm().request(3, 1_000, 1_010, epoch(2, 2));
        made.0.requests[2].end = Some(End::Closed);
        made.0.requests[2].ended_at = Some(2_005 * 1_000);
        made
    };
    let rules = [Rule::TwoInFlight];
    overlap().fault(FaultKind::SessionEnd, 900, 900).expect(&rules);
    overlap().fault(FaultKind::WorkerPause, 500, 2_000).fault(FaultKind::AllCut, 900, 900).expect(&[]);
    overlap().fault(FaultKind::Zombie, 500, 2_000).expect(&[]);
}

#[test]
fn a_repeat_needs_a_fault_of_its_own() {
    let again = |kind, from| calm().request(3, 200, 210, epoch(2, 2)).fault(kind, from, 3_000);
    again(FaultKind::WorkerKill, 61).expect(&[]);
    again(FaultKind::WorkerTerm, 61).expect(&[Rule::Repeat]);
    // Told to stop once more while it stops, it ends at once; told so later, it was another process.
    again(FaultKind::WorkerTerm, 50).fault(FaultKind::WorkerTerm, 61, 900).expect(&[]);
    again(FaultKind::WorkerTerm, 3_100).fault(FaultKind::WorkerTerm, 61, 900).expect(&[Rule::Repeat]);
    again(FaultKind::WorkerKill, 5_000).expect(&[Rule::Repeat]);
    again(FaultKind::WorkerKill, 61).request(3, 300, 310, epoch(2, 3)).expect(&[Rule::Repeat]);
    again(FaultKind::WorkerKill, 61)
        .fault(FaultKind::SessionEnd, 205, 220)
        .request(3, 300, 310, epoch(2, 3))
        .expect(&[]);
}

#[test]
fn what_befalls_a_process_that_is_stopped_reaches_over_the_stop() {
    // Answered while the worker is stopped; its session is ended long after the answer, before it goes on.
    let again = || calm().request(3, 5_200, 5_210, epoch(2, 2)).fault(FaultKind::WorkerPause, 58, 5_000);
    again().expect(&[Rule::Repeat]);
    again().fault(FaultKind::SessionEnd, 3_000, 3_010).expect(&[]);
    again().fault(FaultKind::AllCut, 3_000, 3_010).expect(&[]);
    // After it has gone on there was time to write the end down.
    again().fault(FaultKind::AllCut, 6_500, 6_510).expect(&[Rule::Repeat]);
    // Another worker's session, another destination's worker.
    let mut made = again().fault(FaultKind::SessionEnd, 3_000, 3_010);
    made.0.faults[1].target = "worker-2".into();
    made.expect(&[Rule::Repeat]);
    let mut made = again().fault(FaultKind::AllCut, 3_000, 3_010);
    made.0.faults[0].victims = vec![8];
    made.expect(&[Rule::Repeat]);
    // Each explains one repeat.
    again().fault(FaultKind::AllCut, 3_000, 3_010).request(3, 5_300, 5_310, epoch(2, 3)).expect(&[Rule::Repeat]);
}

#[test]
fn a_request_without_an_answer_is_sent_again_only_after_a_fault() {
    let closed = |made: Made| {
        made.request(3, 55, 58, |request| (request.previous, request.end) = (2, Some(End::Closed)))
            .request(3, 200, 210, epoch(2, 2))
            .delivered(&[3])
    };
    closed(before_the_third()).expect(&[Rule::Repeat]);
    closed(before_the_third()).fault(FaultKind::WorkerKill, 58, 900).expect(&[]);
}

#[test]
fn epochs_never_go_down_and_tries_are_counted() {
    let mut made = calm();
    made.0.requests[0].epoch = 2;
    made.0.requests[1].epoch = 2;
    made.expect(&[Rule::Epoch]);
    let mut made = calm();
    made.0.requests[2].attempt = 2;
    made.expect(&[Rule::Attempt]);
}

#[test]
fn numbers_rise_in_commit_order() {
    let mut made = calm();
    // 2 was posted after 3 had been accepted.
    (made.0.posts[1].sent_at, made.0.posts[1].answered_at) = (60_000, 61_000);
    made.expect(&[Rule::CommitOrder]);
    let mut made = calm();
    // At once: any order is right.
    (made.0.posts[1].sent_at, made.0.posts[1].answered_at) = (45_000, 61_000);
    made.expect(&[]);
}

#[test]
fn nothing_waits_without_a_reason() {
    let waits = || calm().post(4, 10_000, 10_010).request(4, 14_000, 14_010, follows(3)).delivered(&[4]);
    waits().expect(&[Rule::Late]);
    // Taken over within a second of a kill, with two more for a busy machine.
    waits().fault(FaultKind::WorkerKill, 10_000, 12_000).expect(&[Rule::Late]);
    waits().fault(FaultKind::WorkerKill, 11_500, 13_000).expect(&[]);
    waits().fault(FaultKind::DatabaseFast, 9_000, 11_000).expect(&[]);
    waits().fault(FaultKind::ApiKill, 9_000, 11_000).expect(&[]);
}

#[test]
fn a_message_goes_where_its_destination_is() {
    let mut made = calm();
    made.0.requests[2].path = 1;
    made.expect(&[Rule::Misrouted]);
}
