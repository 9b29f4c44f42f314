//! `isthmus vi rss`.

use crate::Outcome;

/// Spread what filters take over a set of interfaces, a thread for each (efrss)
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
        "vi rss at {} (json: {}) is not built yet",
        arguments.endpoint.service.display(),
        arguments.json
    )
}
