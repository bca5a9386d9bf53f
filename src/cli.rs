//! What can be said on the command line?

pub mod token;
