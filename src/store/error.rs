//! What can go wrong between Orderly and Postgres, by what the caller does about it?

use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers, or it is not ready: try again later. To a client a 503.
    #[error("the database is out of reach")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody who has what is needed did not let it go in time; nothing was done. To a client a 503.
    #[error("{0}")]
    Held(&'static str),
    /// A lock could not be had in time: try again. To a client a 503.
    #[error("the database is busy with the same rows")]
    Busy(#[source] tokio_postgres::Error),
    /// Postgres refused the statement; a defect of ours, or of the database's set-up.
    #[error("the database refused a statement")]
    Refused(#[source] tokio_postgres::Error),
    /// What is stored cannot be read.
    #[error("stored data cannot be read: {0}")]
    Corrupt(String),
    /// The settings do not name a database.
    #[error("DATABASE_URL is wrong: {0}")]
    Settings(String),
}

impl StoreError {
    /// What Postgres calls it, if it was Postgres that spoke.
    fn sql_state(&self) -> Option<&SqlState> {
        match self {
            StoreError::Unreachable(source) => source.downcast_ref::<tokio_postgres::Error>()?.code(),
            StoreError::Busy(error) | StoreError::Refused(error) => error.code(),
            StoreError::Held(_) | StoreError::Corrupt(_) | StoreError::Settings(_) => None,
        }
    }

    /// The cluster's lock table (or memory) is full, for everybody.
    pub fn is_out_of_locks(&self) -> bool {
        self.sql_state() == Some(&SqlState::OUT_OF_MEMORY)
    }

    /// The role that asks has not the right to.
    pub fn is_denied(&self) -> bool {
        self.sql_state() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// The server ended the statement for the time it took.
    pub fn took_too_long(&self) -> bool {
        self.sql_state() == Some(&SqlState::QUERY_CANCELED)
    }

    /// It passes by itself or when an operator makes room: a full disk, a lock, a lack of memory.
    pub fn is_passing(&self) -> bool {
        matches!(self, StoreError::Unreachable(_) | StoreError::Held(_) | StoreError::Busy(_))
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.is_closed() {
            return StoreError::Unreachable(Box::new(error));
        }
        let Some(code) = error.code() else {
            // Without an SQLSTATE it is I/O, TLS, or a value that does not encode.
            let broken = std::error::Error::source(&error).is_some_and(|source| source.is::<std::io::Error>());
            return if broken { StoreError::Unreachable(Box::new(error)) } else { StoreError::Refused(error) };
        };
        if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
            return StoreError::Unreachable("this server is a standby, or read-only".into());
        }
        // Classes: 08 connection, 53 resources (disk full, connections, memory), 57P shutdown, 58 system
        // errors (I/O); 0A000: a standby cannot read an unlogged table (and nothing of ours is unsupported else).
        let class = &code.code()[..2];
        if class == "08"
            || class == "53"
            || class == "58"
            || code.code().starts_with("57P")
            || *code == SqlState::FEATURE_NOT_SUPPORTED
        {
            return StoreError::Unreachable(Box::new(error));
        }
        if [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
        ]
        .contains(code)
        {
            return StoreError::Busy(error);
        }
        StoreError::Refused(error)
    }
}

impl From<deadpool::managed::PoolError<StoreError>> for StoreError {
    fn from(error: deadpool::managed::PoolError<StoreError>) -> Self {
        match error {
            // Whatever it said while connecting, there is no connection.
            deadpool::managed::PoolError::Backend(StoreError::Refused(error)) => {
                StoreError::Unreachable(Box::new(error))
            }
            deadpool::managed::PoolError::Backend(error) => error,
            other => StoreError::Unreachable(Box::new(other)),
        }
    }
}
