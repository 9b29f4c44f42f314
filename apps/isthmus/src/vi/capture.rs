//! `isthmus vi capture`.

use crate::Outcome;

/// Write what an interface receives to a pcapng file
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: super::Endpoint,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    anyhow::bail!(
        "vi capture at {} (json: {}) is not built yet",
        arguments.endpoint.service.display(),
        arguments.json
    )
}
