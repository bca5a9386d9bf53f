//! Which messages?

use std::fmt;

/// A small set of sequences, 1 to 7.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Messages(u8);

impl Messages {
    /// The sequences from 1 to `count`.
    pub fn first(count: u8) -> Self {
        (1..=count).fold(Self::default(), Self::with)
    }

    pub fn with(self, sequence: u8) -> Self {
        Self(self.0 | 1 << sequence)
    }

    pub fn without(self, sequence: u8) -> Self {
        Self(self.0 & !(1 << sequence))
    }

    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub fn less(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub fn above(self, sequence: u8) -> Self {
        Self(self.0 & !((2_u8 << sequence) - 1))
    }

    pub fn contains(self, sequence: u8) -> bool {
        self.0 & 1 << sequence != 0
    }

    pub fn overlaps(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn head(self) -> Option<u8> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as u8)
    }

    /// The highest, 0 if there is none.
    pub fn last(self) -> u8 {
        if self.0 == 0 { 0 } else { 7 - self.0.leading_zeros() as u8 }
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (1..8).filter(move |sequence| self.contains(*sequence))
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
