//! `orderly openapi`: what does the API's description say?

use clap::{Args, ValueEnum};

use super::{CliError, print};
use crate::api;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The form it is printed in
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Yaml,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let document = match arguments.format {
        Format::Json => api::openapi_json(),
        Format::Yaml => api::openapi_yaml(),
    };
    print(&format!("{}\n", document.trim_end()))
}
