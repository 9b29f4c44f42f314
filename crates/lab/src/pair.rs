//! Two guests on a twin.

use crate::guest::{Booting, Guest, Switchboard};
use crate::initrd;
use crate::interrupt;
use crate::kvm;
use crate::options::{Accel, Side};
use crate::plan::Plan;
use crate::process::tail;
use crate::run_dir::RunDir;
use crate::steps;
use crate::trouble::failed;
use crate::twin::Twin;
use crate::windows::Windows;
use anyhow::{Context, bail};
use control::{PortName, PortStatus};
use std::fmt::Write;
use std::sync::Arc;

/// A whole lab, running. Dropping it ends everything.
#[derive(Debug)]
pub struct Pair {
    guests: [Guest; 2],
    twin: Twin,
    plan: Plan,
    accel: Accel,
    switchboard: Arc<Switchboard>,
    /// Last: it goes when nobody uses it any more.
    directory: RunDir,
}

impl Pair {
    /// Starts the twin, boots both guests at once, and waits for their agents.
    ///
    /// # Errors
    /// When either does not come up, with what was said; the logs are kept then.
    pub fn boot(plan: Plan, directory: RunDir) -> anyhow::Result<Self> {
        for warning in plan.warnings() {
            tracing::warn!("{warning}");
        }
        let booted = Self::boot_parts(&plan);
        match booted {
            Ok((twin, guests, accel, switchboard)) => {
                let mut pair = Self { guests, twin, plan, accel, switchboard, directory };
                if let Err(error) = pair.check_devices() {
                    pair.directory.keep();
                    let path = pair.directory.path().display();
                    return Err(error.context(format!("the logs of the run are in {path}")));
                }
                Ok(pair)
            }
            Err(_) if interrupt::interrupted() => bail!("interrupted"),
            Err(error) => {
                directory.keep();
                Err(error.context(format!("the logs of the run are in {}", directory.path().display())))
            }
        }
    }

    fn boot_parts(plan: &Plan) -> anyhow::Result<(Twin, [Guest; 2], Accel, Arc<Switchboard>)> {
        initrd::write(&plan.image.rootfs, &plan.executable, &plan.initrd())?;
        let twin = Twin::start(plan)?;
        let switchboard = Arc::new(Switchboard::default());
        let accelerators = plan.accelerators();
        for accel in &accelerators {
            match boot_both(plan, *accel, &switchboard) {
                Ok(guests) => return Ok((twin, guests, *accel, switchboard)),
                Err(error) if accelerators.last() == Some(accel) || interrupt::interrupted() => {
                    return Err(error);
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    let why = why.lines().next().unwrap_or_default();
                    tracing::info!("no guest comes up with {accel}, so the next way is tried: {why}");
                    kvm::remember_failure(plan);
                }
            }
        }
        bail!("no accelerator to try")
    }

    /// One of the guests.
    #[must_use]
    pub fn guest(&self, side: Side) -> &Guest {
        &self.guests[side.index()]
    }

    /// One of the guests, to kill or to reboot.
    #[must_use]
    pub fn guest_mut(&mut self, side: Side) -> &mut Guest {
        &mut self.guests[side.index()]
    }

    /// Both guests, in order.
    #[must_use]
    pub fn guests(&self) -> &[Guest; 2] {
        &self.guests
    }

    /// The twin.
    #[must_use]
    pub fn twin(&mut self) -> &mut Twin {
        &mut self.twin
    }

    /// What it was made from.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The way to both guests.
    #[must_use]
    pub fn switchboard(&self) -> &Arc<Switchboard> {
        &self.switchboard
    }

    /// How the processors run, now that it is known.
    #[must_use]
    pub fn accel(&self) -> Accel {
        self.accel
    }

    /// Starts another QEMU in the place of one that was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn replace(&mut self, side: Side) -> anyhow::Result<()> {
        let booting = Guest::start(&self.plan, side, self.accel)?;
        self.guests[side.index()] = booting.finish(&self.plan, &self.switchboard)?;
        self.check_devices()
    }

    /// Reboots a guest the hard way a watchdog would.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn reboot(&mut self, side: Side) -> anyhow::Result<()> {
        self.guests[side.index()].reboot()?;
        self.check_devices()
    }

    /// Sees that every window attached as it was asked to (without the overlay a mapped one is trapped), and that
    /// the engines' driver has their channels.
    fn check_devices(&mut self) -> anyhow::Result<()> {
        let windows = self.plan.options.windows;
        let wrong = misattached(&self.twin.status()?.ports, windows);
        if wrong.is_empty() {
            let mut engines = self.guests.iter().filter(|_| self.plan.options.dma);
            return engines.try_for_each(steps::load_engine);
        }
        let logs = Side::BOTH.map(|side| tail(&self.plan.log(&format!("qemu-{side}")), 5)).join("\n");
        // Its own command line heads each log.
        let said: Vec<_> = logs.lines().filter(|line| !line.starts_with("$ ")).collect();
        let (wrong, said) = (wrong.join("; "), said.join("\n"));
        Err(failed(format!("not every window is {windows}: {wrong}; the QEMUs said:\n{said}")))
    }

    /// Does something with the lab; where that fails, shows both consoles and both ports, and keeps the logs.
    ///
    /// # Errors
    /// What `work` says.
    pub fn attend<T>(&mut self, work: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let result = work(self);
        if self.plan.options.keep {
            self.directory.keep();
            tracing::info!("consoles and logs stay in {}", self.directory.path().display());
        }
        // What was killed under the work's feet is no result of it, good or bad.
        if interrupt::interrupted() {
            bail!("interrupted");
        }
        let Err(error) = result else { return result };
        self.directory.keep();
        tracing::error!("{}", self.describe());
        Err(error.context(format!("consoles and logs stay in {}", self.directory.path().display())))
    }

    /// What is to be seen of a lab in which something went wrong.
    #[must_use]
    pub fn describe(&mut self) -> String {
        let mut text = String::new();
        for side in Side::BOTH {
            let _ = writeln!(
                text,
                "--- console of guest {side}, its end\n{}",
                tail(&self.plan.console(side), 40)
            );
        }
        let _ = write!(text, "--- both ports of the twin\n{}", self.twin.describe());
        text
    }

    /// Ends the twin and looks whether it ends as it should; the guests end with the lab.
    ///
    /// # Errors
    /// When the twin had died or does not end cleanly.
    pub fn finish(mut self) -> anyhow::Result<()> {
        for guest in &mut self.guests {
            guest.kill().context("a QEMU could not be ended")?;
        }
        self.twin.stop()
    }
}

/// Windows that work in another way than was asked for: a sentence each.
fn misattached(ports: &[PortStatus], asked: Windows) -> Vec<String> {
    let windows = ports.iter().flat_map(|port| port.windows.iter().map(move |window| (port.port, window)));
    let wrong = windows.filter(|(port, window)| {
        let asked = asked.of(match port {
            PortName::A => Side::A,
            PortName::B => Side::B,
        });
        window.mode != asked.mode() || window.class != asked.class()
    });
    wrong
        .map(|(port, window)| {
            let (class, mode) = (window.class, window.mode);
            format!("window {} of port {port} attached {class:?}, its mode is {mode:?}", window.window)
        })
        .collect()
}

fn boot_both(plan: &Plan, accel: Accel, switchboard: &Arc<Switchboard>) -> anyhow::Result<[Guest; 2]> {
    let (a, b) = (Guest::start(plan, Side::A, accel)?, Guest::start(plan, Side::B, accel)?);
    std::thread::scope(|scope| {
        let finish = |booting: Booting| booting.finish(plan, switchboard);
        let a = scope.spawn(move || finish(a));
        let b = finish(b);
        let a = a.join().unwrap_or_else(|_| bail!("the thread that waited for guest a died"));
        Ok([a?, b?])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::Window;
    use control::{WindowClass, WindowMode};
    use serde_json::json;

    fn port(mode: WindowMode, class: WindowClass) -> PortStatus {
        let zero = [
            "attaches",
            "resets",
            "mapped_bytes",
            "unreachable_bytes",
            "messages",
            "refused_messages",
            "bad_accesses",
            "doorbells",
            "doorbells_dropped",
            "interrupts",
        ];
        let mut port = json!({"port": PortName::B, "role": "DSD", "socket": "/b", "attached": true, "pid": 1,
                              "enabled": true, "memory_enabled": true, "bus_master": true});
        let mut window = json!({"window": 1, "mode": mode, "class": class, "translation": null});
        for name in zero {
            port[name] = json!(0);
        }
        for name in [
            "bytes",
            "open_bytes",
            "stores",
            "stored_bytes",
            "dropped",
            "discarded",
            "discarded_bytes",
            "loads",
            "refused_loads",
        ] {
            window[name] = json!(0);
        }
        port["windows"] = json!([window]);
        serde_json::from_value(port).unwrap()
    }

    #[test]
    fn a_window_of_another_mode_or_class_is_named() {
        let direct = port(WindowMode::Direct, WindowClass::Mapped);
        assert!(misattached(std::slice::from_ref(&direct), Window::Direct.into()).is_empty());
        let found =
            misattached(&[direct, port(WindowMode::Direct, WindowClass::Messaged)], Window::Direct.into());
        assert_eq!(found, ["window 1 of port b attached Messaged, its mode is Direct"]);
        assert_eq!(
            misattached(&[port(WindowMode::Trap, WindowClass::Messaged)], Window::Alias.into()).len(),
            1
        );
        // Only port a's windows are asked to be mapped.
        let mixed = "direct,trap".parse().unwrap();
        assert!(misattached(&[port(WindowMode::Trap, WindowClass::Messaged)], mixed).is_empty());
    }
}
