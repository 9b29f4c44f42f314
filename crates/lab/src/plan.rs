//! Arguments and artifacts become command lines: everything that a run will start, before it starts.

use crate::agent::PORT_NAME;
use crate::artifacts::{GuestImage, Qemu};
use crate::kvm;
use crate::options::{
    Accel, MAX_STOCK_WINDOW_BYTES, MIN_NETWORK_WINDOW_BYTES, Options, Side, Vfio, show_size,
};
use crate::process::CommandLine;
use serde_json::json;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment variable in which the overlay in QEMU finds the twin's control socket.
pub const OVERLAY_CONTROL: &str = "ISTHMUS_OVERLAY";

/// A whole run: a twin, and a guest at each of its ports.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the user chose.
    pub options: Options,
    /// The QEMU that runs the guests.
    pub qemu: Qemu,
    /// What the guests boot.
    pub image: GuestImage,
    /// This program.
    pub executable: PathBuf,
    /// Where sockets and logs are.
    pub directory: PathBuf,
}

impl Plan {
    /// The archive that both guests boot.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.directory.join("initrd")
    }

    /// Where the twin's control socket is.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Where a guest's QEMU meets the twin.
    #[must_use]
    pub fn port_socket(&self, side: Side) -> PathBuf {
        self.directory.join(format!("port-{side}.sock"))
    }

    /// Where a guest's agent meets the lab.
    #[must_use]
    pub fn agent_socket(&self, side: Side) -> PathBuf {
        self.directory.join(format!("agent-{side}.sock"))
    }

    /// Where a guest's QEMU meets the I/OAT engine beside its port.
    #[must_use]
    pub fn engine_socket(&self, side: Side) -> PathBuf {
        self.directory.join(format!("dma-{side}.sock"))
    }

    /// A guest's serial console.
    #[must_use]
    pub fn console(&self, side: Side) -> PathBuf {
        self.directory.join(format!("console-{side}.log"))
    }

    /// Where gdb connects.
    #[must_use]
    pub fn gdb_socket(&self, side: Side) -> PathBuf {
        self.directory.join(format!("gdb-{side}.sock"))
    }

    /// The log of a host process.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// The object that both QEMUs load, where windows are mapped.
    fn overlay(&self) -> Option<&Path> {
        self.options.overlay.as_deref().filter(|_| self.options.windows.any_mapped())
    }

    /// The twin's command line.
    #[must_use]
    pub fn twin(&self) -> CommandLine {
        let mut command = Command::new(&self.executable);
        command.arg("twin");
        command.arg("--port-a").arg(self.port_socket(Side::A));
        command.arg("--port-b").arg(self.port_socket(Side::B));
        command.arg("--control").arg(self.control_socket());
        command.arg("--mw-size").arg(show_size(self.options.window_bytes));
        command.arg("--window").arg(self.options.windows.to_string());
        if self.options.dma {
            command.arg("--dma-a").arg(self.engine_socket(Side::A));
            command.arg("--dma-b").arg(self.engine_socket(Side::B));
        }
        if let Some(object) = self.overlay() {
            command.arg("--overlay").arg(object);
        }
        CommandLine::new(&command)
    }

    /// A guest's command line; `accel` is no longer `Auto`.
    #[must_use]
    pub fn guest(&self, side: Side, accel: Accel) -> CommandLine {
        let mut command = self.qemu.command();
        if let Some(object) = self.overlay() {
            command.env("LD_PRELOAD", object).env(OVERLAY_CONTROL, self.control_socket());
        }
        let memory = self.options.memory_mib;
        let socket = |path: PathBuf| path.display().to_string();
        // Threads by name: for whoever looks with ps, top or perf.
        command.args(["-name", &format!("isthmus-{side},debug-threads=on")]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        if self.has_iommu(side) {
            // The IOMMU before what it translates for. Without remapping of interrupts KVM needs no split controller;
            // with caching-mode QEMU hears of each mapping that is made.
            command.args(["-machine", "q35,memory-backend=mem,kernel-irqchip=off"]);
            command.args(["-device", "intel-iommu,intremap=off,caching-mode=on"]);
        } else {
            command.args(["-machine", "q35,memory-backend=mem"]);
        }
        command.args(["-object", &format!("memory-backend-memfd,id=mem,size={memory}M,share=on")]);
        command.args(["-m", &format!("{memory}M")]);
        // TCG's largest model has a fifth level of page tables, which costs much and gives nothing here.
        let cpu = if accel == Accel::Kvm { "host" } else { "max,la57=off" };
        command.args(["-accel", &accel.to_string(), "-cpu", cpu, "-smp", "1"]);
        command.arg("-kernel").arg(&self.image.kernel).arg("-initrd").arg(self.initrd());
        command.args(["-append", &self.kernel_arguments(side)]);
        let console = socket(self.console(side));
        command.args(["-chardev", &format!("file,id=console,path={console},append=on")]);
        command.args(["-serial", "chardev:console"]);
        let qmp = socket(self.directory.join(format!("qmp-{side}.sock")));
        command.args(["-qmp", &format!("unix:{qmp},server=on,wait=off")]);
        let agent = socket(self.agent_socket(side));
        command.args(["-device", "virtio-serial-pci", "-chardev", &format!("socket,id=agent,path={agent}")]);
        command.args(["-device", &format!("virtserialport,chardev=agent,name={PORT_NAME}")]);
        if self.options.gdb == Some(side) {
            let gdb = socket(self.gdb_socket(side));
            command.args(["-chardev", &format!("socket,id=gdb,path={gdb},server=on,wait=off")]);
            command.args(["-gdb", "chardev:gdb"]);
        }
        for (slot, (name, path)) in (1..).zip(self.devices(side)) {
            let bus = format!("rp{slot}");
            command.args(["-device", &format!("pcie-root-port,id={bus},chassis={slot}")]);
            let device = json!({
                "driver": "vfio-user-pci",
                "id": name,
                "bus": bus,
                "socket": {"type": "unix", "path": socket(path)},
            });
            command.args(["-device", &device.to_string()]);
        }
        if self.options.perfmap && accel == Accel::Tcg {
            command.arg("-perfmap");
        }
        if self.options.virtio_net {
            let path = socket(self.directory.join("virtio-net.sock"));
            // Whichever guest starts first, the other one finds it.
            let role = if side == Side::A { "server=on" } else { "server=off,reconnect-ms=100" };
            command.args(["-netdev", &format!("stream,id=net,{role},addr.type=unix,addr.path={path}")]);
            command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        CommandLine::new(&command)
    }

    /// Whether a guest has an IOMMU.
    fn has_iommu(&self, side: Side) -> bool {
        side == Side::A && self.options.vfio != Vfio::Nothing
    }

    /// What of the twin a guest has, in the order of its buses: a name, and the socket.
    fn devices(&self, side: Side) -> Vec<(&'static str, PathBuf)> {
        let mut devices = vec![("ntb", self.port_socket(side))];
        if self.options.dma {
            devices.push(("ioat", self.engine_socket(side)));
        }
        if side == Side::A && self.options.vfio == Vfio::BothPorts {
            devices.push(("ntb-b", self.port_socket(Side::B)));
        }
        devices
    }

    fn kernel_arguments(&self, side: Side) -> String {
        // With symbols at fixed addresses gdb finds them; without, the kernel stays as distributions run it.
        let fixed = if self.options.gdb == Some(side) { " nokaslr" } else { "" };
        // A BAR that a driver holds may be mapped by others as well: the copy loop of `lab perf` does it. And an
        // emulated guest on a busy machine may fail the check that its timer ticks ten times in a while, and panic.
        let relaxed = "iomem=relaxed no_timer_check";
        let iommu = if self.has_iommu(side) { " intel_iommu=on" } else { "" };
        format!("console=ttyS0 log_buf_len=4M isthmus.side={side} {relaxed}{iommu}{fixed}")
    }

    /// The accelerators to try, in order.
    #[must_use]
    pub fn accelerators(&self) -> Vec<Accel> {
        match self.options.accel {
            Accel::Auto if kvm::worth_trying(self) => vec![Accel::Kvm, Accel::Tcg],
            Accel::Auto => vec![Accel::Tcg],
            chosen => vec![chosen],
        }
    }

    /// What a user should know before the run.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let size = self.options.window_bytes;
        if size < MIN_NETWORK_WINDOW_BYTES {
            return vec![format!(
                "windows of {}: ntb_netdev needs at least {}, or it stops sending",
                show_size(size),
                show_size(MIN_NETWORK_WINDOW_BYTES)
            )];
        }
        if size <= MAX_STOCK_WINDOW_BYTES {
            return Vec::new();
        }
        vec![format!(
            "windows of {}: the stock drivers can use at most {}, as the kernel has no larger aligned block",
            show_size(size),
            show_size(MAX_STOCK_WINDOW_BYTES)
        )]
    }
}

impl fmt::Display for Plan {
    /// Every command line that the run would start.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# run directory (made anew for each run)\nmkdir -m 700 {}", self.directory.display())?;
        writeln!(
            f,
            "# what both guests boot: the image, and the agent in an archive of its own\n\
             cat {} AGENT.cpio > {}",
            self.image.rootfs.display(),
            self.initrd().display()
        )?;
        writeln!(f, "# the twin\n{}", self.twin())?;
        for side in Side::BOTH {
            for (attempt, accel) in self.accelerators().into_iter().enumerate() {
                let otherwise = if attempt > 0 { ", if that one does not come up" } else { "" };
                writeln!(f, "# guest {side}{otherwise}\n{}", self.guest(side, accel))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::artifacts::Series;
    use crate::windows::Window;

    pub(crate) fn sample(options: Options) -> Plan {
        Plan {
            options,
            qemu: Qemu {
                program: "/q/ld.so".into(),
                prefix: vec!["/q/qemu".into(), "-L".into(), "/q/share".into()],
                env: vec![("QEMU_MODULE_DIR".into(), "/q/modules".into())],
                version: (11, 1, 3),
            },
            image: GuestImage {
                series: Series::V6_12,
                release: "6.12.1".to_owned(),
                kernel: "/i/vmlinuz".into(),
                rootfs: "/i/rootfs.cpio".into(),
                debug_modules: "/i/debug".into(),
            },
            executable: "/bin/isthmus".into(),
            directory: "/run/isthmus-x".into(),
        }
    }

    #[test]
    fn a_dry_run_shows_every_command_line() {
        let options = Options { accel: Accel::Tcg, ..Options::default() };
        let text = sample(options).to_string();
        let expected = "/bin/isthmus twin --port-a /run/isthmus-x/port-a.sock --port-b \
                        /run/isthmus-x/port-b.sock --control /run/isthmus-x/control.sock --mw-size 1M \
                        --window trap";
        assert!(text.contains(expected), "{text}");
        for part in [
            "QEMU_MODULE_DIR=/q/modules /q/ld.so /q/qemu -L /q/share -name isthmus-a,debug-threads=on",
            "-accel tcg",
            "-kernel /i/vmlinuz -initrd /run/isthmus-x/initrd",
            "'console=ttyS0 log_buf_len=4M isthmus.side=b iomem=relaxed no_timer_check'",
            r#""socket":{"path":"/run/isthmus-x/port-b.sock","type":"unix"}"#,
        ] {
            assert!(text.contains(part), "no {part} in:\n{text}");
        }
        assert!(!text.contains("kvm") && !text.contains("-gdb") && !text.contains("LD_PRELOAD"));
        assert!(!text.contains("--dma-a") && !text.contains("ioat") && !text.contains("virtio-net"));
    }

    #[test]
    fn an_engine_is_a_second_device_on_a_second_socket() {
        let plan = sample(Options { dma: true, ..Options::default() });
        let twin = plan.twin().to_string();
        assert!(
            twin.contains("--dma-a /run/isthmus-x/dma-a.sock --dma-b /run/isthmus-x/dma-b.sock"),
            "{twin}"
        );
        let guest = plan.guest(Side::B, Accel::Tcg).to_string();
        for part in [
            "pcie-root-port,id=rp2,chassis=2",
            r#""bus":"rp2""#,
            r#""id":"ioat""#,
            r#""path":"/run/isthmus-x/dma-b.sock""#,
        ] {
            assert!(guest.contains(part), "no {part} in:\n{guest}");
        }
    }

    #[test]
    fn a_guest_that_gives_its_devices_away_has_an_iommu() {
        let guest =
            |vfio, side| sample(Options { vfio, ..Options::default() }).guest(side, Accel::Tcg).to_string();
        for vfio in [Vfio::Port, Vfio::BothPorts] {
            let a = guest(vfio, Side::A);
            let (iommu, ntb) = (a.find("intel-iommu").unwrap(), a.find("vfio-user-pci").unwrap());
            assert!(iommu < ntb && a.contains("intel_iommu=on"), "{a}");
            assert_eq!(a.contains("port-b.sock"), vfio == Vfio::BothPorts);
        }
        for side in Side::BOTH {
            assert!(!guest(Vfio::Nothing, side).contains("iommu"));
        }
        assert!(!guest(Vfio::Port, Side::B).contains("intel"));
    }

    #[test]
    fn a_network_to_compare_with_has_two_ends() {
        let plan = sample(Options { virtio_net: true, ..Options::default() });
        let end = |side| plan.guest(side, Accel::Tcg).to_string();
        assert!(
            end(Side::A)
                .contains("stream,id=net,server=on,addr.type=unix,addr.path=/run/isthmus-x/virtio-net.sock")
        );
        assert!(end(Side::B).contains("stream,id=net,server=off,reconnect-ms=100,"));
    }

    #[test]
    fn mapped_windows_need_the_overlay_in_both_guests() {
        let overlay = Some(PathBuf::from("/lib/overlay.so"));
        let direct = sample(Options {
            windows: Window::Direct.into(),
            overlay: overlay.clone(),
            ..Options::default()
        });
        let twin = direct.twin().to_string();
        assert!(twin.ends_with("--window direct --overlay /lib/overlay.so"), "{twin}");
        for side in Side::BOTH {
            let guest = direct.guest(side, Accel::Tcg).to_string();
            let environment = "ISTHMUS_OVERLAY=/run/isthmus-x/control.sock LD_PRELOAD=/lib/overlay.so ";
            assert!(guest.starts_with(environment), "{guest}");
        }
        let trap = sample(Options { overlay, ..Options::default() });
        assert!(!trap.to_string().contains("overlay.so"));
    }

    #[test]
    fn gdb_gets_a_stub_and_fixed_addresses_in_one_guest() {
        let plan = sample(Options { gdb: Some(Side::B), ..Options::default() });
        let (a, b) =
            (plan.guest(Side::A, Accel::Tcg).to_string(), plan.guest(Side::B, Accel::Tcg).to_string());
        assert!(b.contains("-gdb chardev:gdb") && b.contains("nokaslr"));
        assert!(!a.contains("gdb") && !a.contains("nokaslr"));
    }

    #[test]
    fn windows_that_stock_drivers_cannot_use_are_mentioned() {
        assert!(sample(Options::default()).warnings().is_empty());
        let plan = sample(Options { window_bytes: 8 << 20, ..Options::default() });
        assert!(plan.warnings()[0].contains("at most 4M"));
        let plan = sample(Options { window_bytes: 256 << 10, ..Options::default() });
        assert!(plan.warnings()[0].contains("at least 1M"));
    }
}
