//! `isthmus vi serve`.

use crate::Outcome;

/// Hold a host's port, and give its virtual interfaces to other processes
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
        "vi serve at {} (json: {}) is not built yet",
        arguments.endpoint.service.display(),
        arguments.json
    )
}
