//! What is broken, and when? All of it is drawn from the seed before the run begins.

use std::time::Duration;

use super::dice::Dice;
use super::record::FaultKind;

/// Before and after an isolated fault nothing else is broken.
const QUIET: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
pub struct Planned {
    pub at: Duration,
    pub kind: FaultKind,
    /// Which worker or API process, where it matters.
    pub target: usize,
    /// How long it lasts; for a killed process, until it is started again.
    pub lasts: Duration,
    pub isolated: bool,
}

#[derive(Debug, Clone)]
pub struct Size {
    pub workers: usize,
    pub apis: usize,
    pub length: Duration,
    /// Only these kinds; empty: all that fit into the length.
    pub only: Vec<FaultKind>,
}

/// How often each kind is drawn.
const KINDS: [(FaultKind, u64); 20] = [
    (FaultKind::WorkerKill, 12),
    (FaultKind::WorkerTerm, 6),
    (FaultKind::WorkerPause, 6),
    (FaultKind::Zombie, 4),
    (FaultKind::ApiKill, 6),
    (FaultKind::ApiPause, 2),
    (FaultKind::DatabaseFast, 2),
    (FaultKind::DatabaseImmediate, 2),
    (FaultKind::DatabaseKill, 2),
    (FaultKind::RestartBehind, 1),
    (FaultKind::SessionEnd, 6),
    (FaultKind::AideEnd, 3),
    (FaultKind::WatchEnd, 3),
    (FaultKind::PoolEnd, 4),
    (FaultKind::BackendCrash, 2),
    (FaultKind::AllCut, 3),
    (FaultKind::LinkCut, 5),
    (FaultKind::LinkHole, 4),
    (FaultKind::LinkDelay, 3),
    (FaultKind::RowLock, 4),
];

/// Storms (several within some seconds) and isolated faults, in turn. Everything is whole again by the end.
pub fn draw(seed: u64, size: &Size) -> Vec<Planned> {
    let mut dice = Dice::new(seed).for_purpose(1);
    let mut plan = Vec::new();
    let short = size.length < Duration::from_secs(120);
    let quiet = if short { Duration::from_secs(6) } else { QUIET };
    let mut at = Duration::from_secs(3);
    let mut turn = 0_u32;
    loop {
        turn += 1;
        if turn.is_multiple_of(6) && size.length > Duration::from_secs(240) && size.only.is_empty() {
            // Past the takeover time: the peer's watcher ends the session after 50 s at worst.
            let kind = if turn.is_multiple_of(12) { FaultKind::LinkHole } else { FaultKind::WorkerHang };
            let lasts = dice.millis(62_000, 70_000);
            if at + lasts + quiet > size.length {
                break;
            }
            plan.push(Planned { at, kind, target: dice.index(size.workers), lasts, isolated: true });
            at += lasts + quiet;
            continue;
        }
        let isolated = turn.is_multiple_of(2) && !short || short && turn.is_multiple_of(3);
        let mut end = at;
        let count = if isolated { 1 } else { 6 + dice.below(8) };
        let mut start = at;
        for _ in 0..count {
            let mut fault = draw_one(&mut dice, size, start, isolated, short);
            fault.lasts = fault.lasts.min(size.length.saturating_sub(start));
            end = end.max(fault.at + fault.lasts);
            start += dice.millis(200, 3_000);
            plan.push(fault);
        }
        at = end.max(start) + quiet;
        if at + Duration::from_secs(4) > size.length {
            break;
        }
    }
    plan.retain(|fault| fault.at + fault.lasts <= size.length);
    plan.sort_by_key(|fault| fault.at);
    plan
}

fn draw_one(dice: &mut Dice, size: &Size, at: Duration, isolated: bool, short: bool) -> Planned {
    let fits = |kind: FaultKind| {
        (size.only.is_empty() || size.only.contains(&kind)) && !(short && size.only.is_empty() && is_long(kind))
    };
    let total: u64 = KINDS.iter().filter(|(kind, _)| fits(*kind)).map(|(_, weight)| weight).sum();
    let mut number = dice.below(total);
    let mut kind = size.only.first().copied().unwrap_or(FaultKind::WorkerKill);
    for (candidate, weight) in KINDS.iter().filter(|(kind, _)| fits(*kind)) {
        if number < *weight {
            kind = *candidate;
            break;
        }
        number -= weight;
    }
    let of_api = matches!(kind, FaultKind::ApiKill | FaultKind::ApiPause)
        || matches!(kind, FaultKind::PoolEnd | FaultKind::LinkCut | FaultKind::LinkHole | FaultKind::LinkDelay)
            && dice.percent(25);
    let target = if of_api { size.workers + dice.index(size.apis) } else { dice.index(size.workers) };
    let lasts = match kind {
        FaultKind::WorkerKill | FaultKind::WorkerTerm => {
            if isolated {
                dice.millis(4_000, 6_000)
            } else {
                dice.millis(200, 8_000)
            }
        }
        FaultKind::WorkerPause | FaultKind::ApiPause => dice.millis(1_000, 5_000),
        FaultKind::Zombie => dice.millis(1_000, 6_000),
        FaultKind::WorkerHang => dice.millis(62_000, 70_000),
        FaultKind::ApiKill => dice.millis(200, 4_000),
        FaultKind::DatabaseFast | FaultKind::DatabaseImmediate | FaultKind::DatabaseKill => dice.millis(0, 2_000),
        // Cut off before, and for so long after.
        FaultKind::RestartBehind => dice.millis(4_000, 12_000),
        FaultKind::LinkHole => {
            if short {
                dice.millis(1_000, 8_000)
            } else {
                if dice.percent(60) { dice.millis(1_000, 6_000) } else { dice.millis(9_000, 20_000) }
            }
        }
        FaultKind::LinkDelay => dice.millis(1_000, 5_000),
        FaultKind::RowLock => dice.millis(200, 900),
        FaultKind::SessionEnd
        | FaultKind::AideEnd
        | FaultKind::WatchEnd
        | FaultKind::PoolEnd
        | FaultKind::BackendCrash
        | FaultKind::AllCut
        | FaultKind::LinkCut => Duration::ZERO,
    };
    Planned { at, kind, target, lasts, isolated }
}

/// What takes its time to heal from does not belong into a run of a minute.
fn is_long(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::RestartBehind | FaultKind::WorkerHang)
}

/// As `Debug` writes it.
pub fn kind_named(name: &str) -> Option<FaultKind> {
    let kinds = KINDS.iter().map(|(kind, _)| *kind).chain([FaultKind::WorkerHang]);
    kinds.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name))
}
