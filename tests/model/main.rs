//! Do claim, acknowledge, crash, takeover and zombie keep the guarantees, in every order of their steps?
//!
//! Three models, each small enough to visit every state: what the death of workers, sessions and Postgres does
//! to one destination ([`takeover`]), numbers and floors ([`numbers`]), waking up ([`wakeup`]). Each is checked
//! as designed, and each way to get it wrong must be caught. `docs/MODEL.md` says which code a step stands for.
//!
//! `cargo test --test model -- --nocapture` prints sizes and the shortest way to break each broken variant.

mod check;
mod messages;
mod numbers;
mod takeover;
mod wakeup;

use numbers::Numbers;
use takeover::{Faults, Takeover, Variant, properties};
use wakeup::WakeUp;

const DESIGNED: Takeover = Takeover {
    messages: 2,
    faults: 1,
    kinds: Faults::ALL,
    handovers: 0,
    deletes: 0,
    variant: Variant::AsDesigned,
    reduced: true,
};

/// A variant with names kept, so that the way to break it can be read.
fn broken(variant: Variant) -> Takeover {
    Takeover { variant, reduced: false, ..DESIGNED }
}

#[test]
fn takeover_holds_with_two_faults_of_any_kind() {
    check::holds("takeover: 3 messages, 2 faults", Takeover { messages: 3, faults: 2, ..DESIGNED });
}

#[test]
fn takeover_holds_while_lanes_are_handed_over_and_clients_delete() {
    let model = Takeover { handovers: 1, deletes: 1, ..DESIGNED };
    check::holds("takeover: 2 messages, 1 fault, handover, delete", model);
}

#[test]
fn after_a_fault_every_message_still_finds_its_end() {
    for (name, model) in [
        ("takeover: 2 messages, 1 fault, delete", Takeover { deletes: 1, ..DESIGNED }),
        ("takeover: 1 message, 2 faults", Takeover { messages: 1, faults: 2, ..DESIGNED }),
    ] {
        check::arrives(name, &model, |state| state.queued.is_empty(), takeover::Action::happens);
    }
}

#[test]
fn each_broken_takeover_is_caught() {
    for (variant, property) in [
        (Variant::AcknowledgesThroughPool, properties::ONE_IN_FLIGHT),
        (Variant::ChecksNoFreshness, properties::ONE_IN_FLIGHT),
        (Variant::OverlooksHangUp, properties::ONE_IN_FLIGHT),
        (Variant::WaitsNoGrace, properties::ONE_IN_FLIGHT),
    ] {
        check::breaks(&format!("{variant:?}"), broken(variant), property);
    }
    for (variant, property) in [
        (Variant::SkipsLockedMessages, properties::ORDER),
        (Variant::SkipsLockedMessages, properties::ONE_IN_FLIGHT),
        (Variant::RegistersBeforeLocking, properties::NOT_ALIVE),
    ] {
        check::breaks(&format!("{variant:?}"), Takeover { faults: 0, ..broken(variant) }, property);
    }
    let variant = Variant::TrustsWhatItSaw;
    let hands_over = Takeover { faults: 0, handovers: 1, ..broken(variant) };
    check::breaks(&format!("{variant:?}"), hands_over, properties::EPOCHS_RISE);
    let variant = Variant::KeepsWhatItReadAhead;
    let deletes = Takeover { faults: 0, deletes: 1, ..broken(variant) };
    check::breaks(&format!("{variant:?}"), deletes, properties::NEVER_OLDER);
    let variant = Variant::ActsDuringGrace;
    check::breaks(&format!("{variant:?}"), Takeover { deletes: 1, ..broken(variant) }, properties::DELETED);
}

#[test]
fn unlocking_first_is_harmless_only_while_the_release_names_its_owner() {
    let hands_over = |variant| Takeover { handovers: 1, ..broken(variant) };
    let reduced = Takeover { reduced: true, ..hands_over(Variant::UnlocksBeforeRelease) };
    check::holds("takeover: UnlocksBeforeRelease", reduced);
    let kinds = Faults { restart: true, ..Faults::NONE };
    let blind = Takeover { kinds, ..hands_over(Variant::UnlocksBeforeBlindRelease) };
    check::breaks("UnlocksBeforeBlindRelease", blind, properties::ONE_IN_FLIGHT);
}

#[test]
fn each_rule_about_time_is_needed() {
    for variant in [Variant::GivesUpBeforeAbort, Variant::OutrunsHangUp, Variant::JudgesBeforeTimeout] {
        check::breaks(&format!("{variant:?}"), broken(variant), properties::ONE_IN_FLIGHT);
    }
    let kinds = Faults { stop: true, restart: true, ..Faults::NONE };
    let twice = Takeover { messages: 1, faults: 2, kinds, ..broken(Variant::GraceBeforeTimeout) };
    check::breaks("GraceBeforeTimeout", twice, properties::ONE_IN_FLIGHT);
}

#[test]
fn numbers_rise_in_commit_order_and_floors_pass_nothing() {
    let designed = Numbers { posts: 2, crashes: 2, variant: numbers::Variant::AsDesigned };
    check::holds("numbers: 2 producers of 2, 2 crashes", designed.clone());
    check::arrives("numbers", &designed, |state| state.queued.is_empty(), numbers::Action::happens);
}

#[test]
fn each_broken_numbering_is_caught() {
    let variant = numbers::Variant::DrawsBeforeLocking;
    let draws_first = Numbers { posts: 1, crashes: 0, variant };
    check::breaks(&format!("{variant:?}"), draws_first.clone(), numbers::ORDER);
    check::breaks(&format!("{variant:?}"), draws_first, numbers::REACHED);
    let variant = numbers::Variant::CountsExpiredIntoFloor;
    check::breaks(&format!("{variant:?}"), Numbers { posts: 1, crashes: 1, variant }, numbers::REACHED);
}

#[test]
fn a_message_starts_without_a_timer_unless_its_bell_was_lost() {
    let designed = WakeUp { posts: 2, api_deaths: 1, kills: 1, sweeps: true, variant: wakeup::Variant::AsDesigned };
    check::holds("wake-up: 2 messages, a lost bell, a kill", designed.clone());
    starts_promptly("wake-up: at once", &designed);
    ends_at_last("wake-up: with timers", &designed);
    let without_sweep = WakeUp { sweeps: false, api_deaths: 0, kills: 2, ..designed };
    ends_at_last("wake-up: no sweep, and no bell lost", &without_sweep);
}

#[test]
fn each_broken_wake_up_is_caught() {
    let broken = |variant| WakeUp { posts: 2, api_deaths: 0, kills: 1, sweeps: true, variant };
    for variant in [
        wakeup::Variant::BellBeforeCommit,
        wakeup::Variant::QuietAfterLastLook,
        wakeup::Variant::ForgetsBellsAndLooksNoMore,
        wakeup::Variant::LooksBeforeListening,
        wakeup::Variant::BuriesWithoutSweep,
    ] {
        let model = broken(variant);
        check::strands(&format!("{variant:?}"), &model, |state| !state.must_move(), wakeup::Action::is_prompt);
    }
    let never_swept = WakeUp { kills: 0, sweeps: false, ..broken(wakeup::Variant::BellBeforeCommit) };
    check::strands("BellBeforeCommit, no sweep", &never_swept, |state| state.queued == 0, wakeup::Action::happens);
}

#[test]
fn some_edges_of_waking_up_are_worn_over_others() {
    for variant in [wakeup::Variant::ForgetsBells, wakeup::Variant::LooksNoMore, wakeup::Variant::TriesOnce] {
        let model = WakeUp { posts: 2, api_deaths: 1, kills: 1, sweeps: true, variant };
        starts_promptly(&format!("wake-up: {variant:?}"), &model);
    }
}

fn starts_promptly(name: &str, model: &WakeUp) {
    check::arrives(name, model, |state| !state.must_move(), wakeup::Action::is_prompt);
}

fn ends_at_last(name: &str, model: &WakeUp) {
    check::arrives(name, model, |state| state.queued == 0, wakeup::Action::happens);
}
