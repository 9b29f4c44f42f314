//! Which port of a bridge a command drives: a twin's, or a device of this machine.

use anyhow::Context;
use ntb::{Bridge, Gen3, PciAddress, PciFunction, Vfio, VfioUser};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The port of this host.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PortChoice {
    /// Socket of the twin's port that this host takes
    #[arg(long, value_name = "PATH", required_unless_present = "vfio", conflicts_with = "vfio")]
    port: Option<PathBuf>,
    /// The twin's control socket: mapped windows (--window direct, shared or alias) are memory of this process then; without
    /// it every store is a message
    #[arg(long, value_name = "PATH", conflicts_with = "vfio")]
    control: Option<PathBuf>,
    /// In place of a twin's port: an NTB of this machine that is bound to vfio-pci, such as 0000:01:00.0
    #[arg(long, value_name = "ADDRESS")]
    vfio: Option<PciAddress>,
}

impl PortChoice {
    /// Attaches, and takes the port into use.
    pub(crate) fn open(&self) -> anyhow::Result<Arc<dyn Bridge>> {
        let function: Arc<dyn PciFunction> = match (&self.port, self.vfio) {
            (_, Some(address)) => Arc::new(Vfio::open(address)?),
            (Some(port), None) => {
                let function = VfioUser::connect(port, self.control.as_deref());
                Arc::new(function.with_context(|| format!("cannot attach to the port at {self}"))?)
            }
            (None, None) => anyhow::bail!("--port or --vfio says which port"),
        };
        let bridge = Gen3::open(function).with_context(|| format!("the port at {self} cannot be driven"))?;
        Ok(Arc::new(bridge))
    }
}

/// The socket, or the address.
impl fmt::Display for PortChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.port, &self.vfio) {
            (Some(port), _) => port.display().fmt(f),
            (None, Some(address)) => address.fmt(f),
            (None, None) => f.write_str("no port"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        port: PortChoice,
    }

    #[test]
    fn one_port_is_named_and_no_more() {
        let parse = |words: &[&str]| Line::try_parse_from([&["line"], words].concat());
        assert_eq!(parse(&["--port", "/a"]).unwrap().port.to_string(), "/a");
        assert_eq!(parse(&["--vfio", "01:00.0"]).unwrap().port.to_string(), "0000:01:00.0");
        for words in [
            &[][..],
            &["--port", "/a", "--vfio", "01:00.0"],
            &["--vfio", "01:00.0", "--control", "/c"],
            &["--vfio", "x"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
