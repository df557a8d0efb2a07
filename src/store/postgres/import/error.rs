//! Why a store could not be taken over. No error shows an address's password, or what is in a row beyond its key.

use crate::store::postgres::AddressError;
use crate::store::sqlite::ExportError;

/// Why a store could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source cannot be used, or one of its rows not be copied.
    #[error(transparent)]
    Source(#[from] ExportError),
    /// The target's address makes no sense.
    #[error("the address of the target cannot be used: {0}")]
    Address(String),
    /// The target cannot be reached, or is not for us.
    #[error("{shown} cannot be used")]
    Target {
        /// The database.
        shown: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The target holds something.
    #[error("{shown} is not empty: there are rows in table {table}")]
    NotEmpty {
        /// The database.
        shown: String,
        /// The first table that has rows.
        table: String,
    },
    /// A daemon works with the target.
    #[error("{shown} is in use by a running runner-coordinator; stop it first")]
    InUse {
        /// The database.
        shown: String,
    },
    /// The target refused something.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// What was written does not read back as it was.
    #[error("table {table} is not the same in the target: {read} rows were read and {found} are there{}", if read == found { ", with other contents" } else { "" })]
    Differs {
        /// The table.
        table: String,
        /// How many rows the source has.
        read: u64,
        /// How many the target has.
        found: u64,
    },
    /// Whether the target took it all in the end is not known.
    #[error("{shown} did not answer whether the copy is committed; it is there as a whole or not at all")]
    Unconfirmed {
        /// The database.
        shown: String,
        /// What was heard.
        #[source]
        source: Said,
    },
    /// A thread ended before its work.
    #[error("the thread that reads the source ended")]
    Thread(#[source] tokio::task::JoinError),
}

impl From<AddressError> for ImportError {
    /// In words that fit who gave it here, and not in a configuration.
    fn from(error: AddressError) -> Self {
        Self::Address(match error {
            AddressError::Malformed(why) => why,
            AddressError::SslMode(mode) => format!("sslmode is {mode}, and only disable and verify-full are known"),
            AddressError::RootCert(why) => format!("its sslrootcert cannot be used: {why}"),
        })
    }
}

/// What the target refused.
#[derive(Debug, thiserror::Error)]
#[error("the target failed to {doing}")]
pub struct Failed {
    doing: String,
    source: Said,
}

impl Failed {
    /// To be told with what was tried.
    pub(super) fn doing(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |error| Self { doing: doing.into(), source: Said::from(&error) }
    }
}

/// What the server said, without the details: those may hold rows, and rows secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Said(String);

impl From<&tokio_postgres::Error> for Said {
    fn from(error: &tokio_postgres::Error) -> Self {
        Self(error.as_db_error().map_or_else(|| crate::domain::chain(error), |said| said.message().to_owned()))
    }
}
