//! The suite of `ntb` on two devices of this machine: it is here because the lab links no driver.

use ::lab::vfio::Case;
use anyhow::{Context, bail};
use ntb::conformance::{Failure, Testbed};
use ntb::{FunctionError, PciAddress, PciFunction, Port, Vfio};
use ntb_spec::bits::Ppd;
use ntb_spec::config;
use std::sync::Arc;

/// Two devices that are the ends of one link.
#[derive(Debug, Clone, Copy)]
struct Devices {
    usd: PciAddress,
    dsd: PciAddress,
}

impl Testbed for Devices {
    fn attach(&self, port: Port) -> Result<Arc<dyn PciFunction>, FunctionError> {
        let address = match port {
            Port::Usd => self.usd,
            Port::Dsd => self.dsd,
        };
        Ok(Arc::new(Vfio::open(address)?))
    }
}

/// Runs every case.
pub(super) fn run(devices: &[String]) -> anyhow::Result<Vec<Case>> {
    let [first, second] = devices else { bail!("the suite takes two devices: the ends of one link") };
    let (first, second): (PciAddress, PciAddress) = (first.parse()?, second.parse()?);
    let devices = match (is_downstream(first)?, is_downstream(second)?) {
        (false, true) => Devices { usd: first, dsd: second },
        (true, false) => Devices { usd: second, dsd: first },
        _ => bail!("{first} and {second} are not the two ends of a link"),
    };
    let factory = || -> Result<Box<dyn Testbed>, Failure> { Ok(Box::new(devices)) };
    let outcomes = ntb::conformance::run(&factory).map_err(|failure| anyhow::anyhow!("{failure}"))?;
    let case = |outcome: ntb::conformance::Outcome| Case {
        name: outcome.case.to_owned(),
        ms: u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
        failure: outcome.failure.map(|failure| failure.to_string()),
    };
    Ok(outcomes.into_iter().map(case).collect())
}

fn is_downstream(address: PciAddress) -> anyhow::Result<bool> {
    let mut ppd = [0];
    let function = Vfio::open(address)?;
    function.config_read(config::PPD, &mut ppd).with_context(|| address.to_string())?;
    let [ppd] = ppd;
    Ok(Ppd::from_bits(ppd).downstream())
}
