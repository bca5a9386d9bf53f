//! Which parts are broken on purpose, so that the checker can show that it sees it?
//!
//! Without the feature `broken`, which nothing that is shipped has, nothing is: [`is`] is a constant.

/// A way to build an engine that looks right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Outcomes are written over the pool, not on the session whose locks make them valid.
    PoolAcknowledges,
    /// Messages are read with `for update skip locked`.
    SkipLockedMessages,
    /// The bell rings before the commit, and nobody sweeps.
    BellBeforeCommit,
    /// A bell is forgotten after the look, not before.
    QuietAfterLook,
    /// Sends without knowing whether the session lives.
    NoFreshness,
    /// After a restart of Postgres, whoever is not back at once is taken for dead.
    NoGrace,
}

#[cfg(not(feature = "broken"))]
#[must_use]
pub const fn is(_: Broken) -> bool {
    false
}

#[cfg(feature = "broken")]
#[must_use]
pub fn is(what: Broken) -> bool {
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("ORDERLY_BROKEN").ok());
    let name = match what {
        Broken::PoolAcknowledges => "pool-acknowledges",
        Broken::SkipLockedMessages => "skip-locked-messages",
        Broken::BellBeforeCommit => "bell-before-commit",
        Broken::QuietAfterLook => "quiet-after-look",
        Broken::NoFreshness => "no-freshness",
        Broken::NoGrace => "no-grace",
    };
    CHOSEN.as_deref() == Some(name)
}
