//! What happens to one destination when its workers, their sessions and Postgres die?
//!
//! Two workers, one destination. Time is abstracted into rules about what comes before what, each next to the
//! step it holds back (`actions.rs`); `docs/MODEL.md` says which clause of the design makes each rule true.

mod actions;
pub mod properties;
mod start;
mod state;
mod steps;
mod variant;

pub use actions::Action;
pub use state::Faults;
pub use variant::Variant;

/// How much of it: the sizes, and the protocol as designed or one of the ways to get it wrong.
#[derive(Clone, Debug)]
pub struct Takeover {
    pub messages: u8,
    /// How often something dies, all kinds together.
    pub faults: u8,
    /// Which kinds.
    pub kinds: Faults,
    /// How often a lane lets go with messages left, since another worker joined.
    pub handovers: u8,
    /// How many messages clients delete.
    pub deletes: u8,
    pub variant: Variant,
    /// Whether states that differ only in names count as one. (Then a way to a state tells no names.)
    pub reduced: bool,
}
