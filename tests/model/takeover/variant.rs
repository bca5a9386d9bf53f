//! In which ways can the protocol be wrong?

/// One thing done differently from the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Nothing: the protocol as designed.
    AsDesigned,
    /// Acknowledgements go through the pool: they succeed without a session, and pass for a sign of its life.
    AcknowledgesThroughPool,
    /// Workers take the first message nobody has locked, instead of the destination.
    SkipsLockedMessages,
    /// A request starts however long ago the session was heard of.
    ChecksNoFreshness,
    /// A request starts with a hang-up waiting in the session's socket.
    OverlooksHangUp,
    /// Owned destinations are claimed as soon as Postgres is back.
    WaitsNoGrace,
    /// The last step of a claim writes what the first one saw, before the lock.
    TrustsWhatItSaw,
    /// A worker's row appears before its lock is held.
    RegistersBeforeLocking,
    /// A lane unlocks, then writes the release (on condition that it still owns the row, as designed).
    UnlocksBeforeRelease,
    /// The same, and the release names neither owner nor epoch.
    UnlocksBeforeBlindRelease,
    /// What was read ahead is not read again after a client's request.
    KeepsWhatItReadAhead,
    /// Keepalives give a host up before its worker aborted what is in flight.
    GivesUpBeforeAbort,
    /// A peer's request leaves before the worker whose session was ended has read so and aborted.
    OutrunsHangUp,
    /// A hung process's session is ended while its request may not have timed out yet.
    JudgesBeforeTimeout,
    /// The grace ends while a stopped process's request may not have timed out yet.
    GraceBeforeTimeout,
    /// An API process that finds the destination's lock free acts, also during the grace.
    ActsDuringGrace,
}
