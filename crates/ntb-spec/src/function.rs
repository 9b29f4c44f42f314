//! What every PCI function of the twin has in its configuration space: the header and the capabilities.
//!
//! The NTB ([`config`](crate::config)) and the I/OAT engine ([`ioat::config`](crate::ioat::config)) are two functions with one layout. Each
//! hands its identity and the rows of its own to `function_table!`.

/// Size of configuration space in bytes: all of PCI Express's.
pub const BYTES: u32 = 0x1000;

/// Intel.
pub const VENDOR: u16 = 0x8086;

/// Registers of configuration space that have behaviour; all others are [`Reg::Plain`] storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reg {
    /// Storage with a mask, or a constant.
    Plain,
    /// COMMAND: memory enable, bus master.
    Command,
    /// The six BAR dwords: pairs of 64-bit, prefetchable BARs. The writable bits depend on the size.
    Bars,
    /// MSI-X message control.
    MsixControl,
    /// Device control; bit 15 starts a function-level reset.
    DeviceControl,
    /// log2 of the size of each window, fixed by firmware.
    WindowSizes,
    /// PPD: which end of the link this is.
    Ppd,
    /// LINK_STATUS of the NTB link.
    LinkStatus,
}

/// COMMAND bit 1.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// COMMAND bit 2.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// MSI-X message control bit 15.
pub const MSIX_ENABLE: u16 = 1 << 15;
/// MSI-X message control bit 14: all vectors masked.
pub const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// Device control bit 15.
pub const DEVICE_CONTROL_FLR: u16 = 1 << 15;

/// Offset of COMMAND.
pub const COMMAND: u32 = 0x04;
/// Offset of the first BAR dword.
pub const BAR: u32 = 0x10;
/// Offset of the MSI-X capability.
pub const MSIX: u32 = 0x80;
/// Offset of MSI-X message control.
pub const MSIX_CONTROL: u32 = MSIX + 2;
/// Offset of the PCI Express capability (so that DEVCTRL is at 0x98, as Linux has it).
pub const PCIE: u32 = 0x90;
/// Offset of device control.
pub const DEVICE_CONTROL: u32 = PCIE + 8;
/// Offset of the power management capability.
pub const POWER: u32 = 0xE0;

#[rustfmt::skip] // a table reads by columns
macro_rules! row {
    ($at:literal, $bytes:literal x $count:literal, $reg:ident, $name:literal, $access:ident, $mask:expr, $reset:expr, $doc:literal, $source:literal) => {
        $crate::table::Row { at: $at, bytes: $bytes, count: $count, reg: $crate::function::Reg::$reg, name: $name, access: $crate::table::Access::$access, mask: $mask, reset: $reset, doc: $doc, source: $source }
    };
}
pub(crate) use row;

/// The table of a function: what all have, with the rows of its `own` at 0xD0 to 0xDF and those behind the extended
/// capabilities, from 0x164 on. Whoever calls it imports all of this module.
#[rustfmt::skip] // a table reads by columns
macro_rules! function_table {
    (
        device: $device:expr, $device_doc:literal, $device_source:literal;
        class: $class_doc:literal, $class_source:literal;
        bars: $bars_doc:literal;
        pin: $pin_doc:literal;
        msix: $vectors:expr, $msix_table:expr, $msix_pba:expr;
        own: [$($own:expr,)*];
        extended: [$($extended:expr,)*];
    ) => {
        &[
            row!(0x000, 2 x 1, Plain,         "VENDOR_ID",      ReadOnly,        0,           VENDOR as u64,           "Intel", "PCI 3.0, 6.2.1"),
            row!(0x002, 2 x 1, Plain,         "DEVICE_ID",      ReadOnly,        0,           $device as u64,           $device_doc, $device_source),
            row!(0x004, 2 x 1, Command,       "COMMAND",        ReadWrite,       0x0546,      0,                       "bit 1 memory decode, bit 2 bus master, bit 10 INTx disable", "PCI 3.0, 6.2.2"),
            row!(0x006, 2 x 1, Plain,         "STATUS",         WriteOneToClear, 0xF900,      0x0010,                  "bit 4: there are capabilities", "PCI 3.0, 6.2.3"),
            row!(0x008, 1 x 1, Plain,         "REVISION",       ReadOnly,        0,           0x04,                    "revision; no driver looks", "chosen"),
            row!(0x009, 1 x 3, Plain,         "CLASS",          ReadOnly,        0,           0,                       $class_doc, $class_source),
            row!(0x00C, 1 x 1, Plain,         "CACHE_LINE",     ReadWrite,       0xFF,        0,                       "cache line size in dwords", "PCI 3.0, 6.2.4"),
            row!(0x010, 4 x 6, Bars,          "BAR",            ReadWrite,       0xFFFF_FFFF, 0,                       $bars_doc, "PCI 3.0, 6.2.5.1"),
            row!(0x02C, 2 x 1, Plain,         "SUBSYSTEM_VENDOR",ReadOnly,       0,           VENDOR as u64,           "Intel", "PCI 3.0, 6.2.4"),
            row!(0x02E, 2 x 1, Plain,         "SUBSYSTEM_ID",   ReadOnly,        0,           0,                       "none", "chosen"),
            row!(0x034, 1 x 1, Plain,         "CAPABILITIES",   ReadOnly,        0,           MSIX as u64,             "first capability: MSI-X", "PCI 3.0, 6.7"),
            row!(0x03C, 1 x 1, Plain,         "INTERRUPT_LINE", ReadWrite,       0xFF,        0,                       "storage for firmware", "PCI 3.0, 6.2.4"),
            row!(0x03D, 1 x 1, Plain,         "INTERRUPT_PIN",  ReadOnly,        0,           0,                       $pin_doc, "chosen"),
            row!(0x080, 2 x 1, Plain,         "MSIX_CAP",       ReadOnly,        0,           0x11 | (PCIE as u64) << 8, "MSI-X, next: PCI Express", "PCI 3.0, 6.8.2"),
            row!(0x082, 2 x 1, MsixControl,   "MSIX_CONTROL",   ReadWrite,       0xC000,      $vectors as u64 - 1, "bit 15 enable, bit 14 mask all, bits 10:0 vectors less one", "PCI 3.0, 6.8.2.3"),
            row!(0x084, 4 x 1, Plain,         "MSIX_TABLE",     ReadOnly,        0,           $msix_table as u64,       "table in BAR 0", "chosen"),
            row!(0x088, 4 x 1, Plain,         "MSIX_PBA",       ReadOnly,        0,           $msix_pba as u64,         "pending bits in BAR 0", "chosen"),
            row!(0x090, 2 x 1, Plain,         "PCIE_CAP",       ReadOnly,        0,           0x10 | (POWER as u64) << 8, "PCI Express, next: power management", "PCIe 3.0, 7.8.1"),
            row!(0x092, 2 x 1, Plain,         "PCIE_CAPS",      ReadOnly,        0,           0x0002,                  "version 2, endpoint", "PCIe 3.0, 7.8.2"),
            row!(0x094, 4 x 1, Plain,         "DEVCAP",         ReadOnly,        0,           0x1000_8001,             "256-byte payloads, role-based errors, function-level reset", "PCIe 3.0, 7.8.3"),
            row!(0x098, 2 x 1, DeviceControl, "DEVCTRL",        ReadWrite,       0xFFFF,      0x2810,                  "bit 15 starts a function-level reset and reads 0", "PCIe 3.0, 7.8.4; Linux ndev_ntb3_debugfs_read"),
            row!(0x09A, 2 x 1, Plain,         "DEVSTS",         WriteOneToClear, 0x000F,      0,                       "errors detected", "PCIe 3.0, 7.8.5; Linux ndev_ntb3_debugfs_read"),
            row!(0x09C, 4 x 1, Plain,         "LINKCAP",        ReadOnly,        0,           0x0000_0103,             "8 GT/s, x16", "PCIe 3.0, 7.8.6"),
            row!(0x0A0, 2 x 1, Plain,         "LINKCTRL",       ReadWrite,       0x0FEB,      0,                       "link control of the host's own link", "PCIe 3.0, 7.8.7"),
            row!(0x0A2, 2 x 1, Plain,         "LINKSTS",        ReadOnly,        0,           0x1103,                  "8 GT/s, x16: the host's own link, not the NTB's", "PCIe 3.0, 7.8.8"),
            row!(0x0B4, 4 x 1, Plain,         "DEVCAP2",        ReadOnly,        0,           0,                       "nothing optional", "PCIe 3.0, 7.8.15"),
            row!(0x0B8, 2 x 1, Plain,         "DEVCTRL2",       ReadWrite,       0x001F,      0,                       "completion time-out", "PCIe 3.0, 7.8.16"),
            row!(0x0BC, 4 x 1, Plain,         "LINKCAP2",       ReadOnly,        0,           0x0000_000E,             "2.5, 5 and 8 GT/s", "PCIe 3.0, 7.8.18"),
            row!(0x0C0, 2 x 1, Plain,         "LINKCTRL2",      ReadWrite,       0x000F,      0x0003,                  "target speed", "PCIe 3.0, 7.8.19"),
            row!(0x0C2, 2 x 1, Plain,         "LINKSTS2",       ReadOnly,        0,           0,                       "nothing to tell", "PCIe 3.0, 7.8.20"),
            $($own,)*
            row!(0x0E0, 2 x 1, Plain,         "PM_CAP",         ReadOnly,        0,           0x0001,                  "power management, last", "PCI PM 1.2, 3.2"),
            row!(0x0E2, 2 x 1, Plain,         "PM_CAPS",        ReadOnly,        0,           0x0003,                  "version 3, no PME", "PCI PM 1.2, 3.2.3"),
            row!(0x0E4, 2 x 1, Plain,         "PM_CONTROL",     ReadWrite,       0x0003,      0x0008,                  "power state (stored, without effect); no reset on leaving D3", "PCI PM 1.2, 3.2.4"),
            row!(0x100, 4 x 1, Plain,         "VSEC",           ReadOnly,        0,           0x1481_000B,             "vendor-specific, next: AER", "PCIe 3.0, 7.19"),
            row!(0x104, 4 x 1, Plain,         "VSEC_HEADER",    ReadOnly,        0,           0x00C1_0001,             "12 bytes, nothing in them", "PCIe 3.0, 7.19.2"),
            row!(0x148, 4 x 1, Plain,         "AER",            ReadOnly,        0,           0x0002_0001,             "advanced error reporting, last", "PCIe 3.0, 7.10.1"),
            row!(0x14C, 4 x 1, Plain,         "UNCERRSTS",      WriteOneToClear, 0x01FF_F030, 0,                       "uncorrectable errors: none ever", "PCIe 3.0, 7.10.2; Linux ndev_ntb3_debugfs_read"),
            row!(0x150, 4 x 1, Plain,         "UNCERRMSK",      ReadWrite,       0x01FF_F030, 0,                       "uncorrectable mask", "PCIe 3.0, 7.10.3"),
            row!(0x154, 4 x 1, Plain,         "UNCERRSEV",      ReadWrite,       0x01FF_F030, 0x0006_2030,             "uncorrectable severity", "PCIe 3.0, 7.10.4"),
            row!(0x158, 4 x 1, Plain,         "CORERRSTS",      WriteOneToClear, 0x0000_F1C1, 0,                       "correctable errors: none ever", "PCIe 3.0, 7.10.5; Linux ndev_ntb3_debugfs_read"),
            row!(0x15C, 4 x 1, Plain,         "CORERRMSK",      ReadWrite,       0x0000_F1C1, 0x0000_2000,             "correctable mask", "PCIe 3.0, 7.10.6"),
            row!(0x160, 4 x 1, Plain,         "AERCTRL",        ReadOnly,        0,           0,                       "no ECRC", "PCIe 3.0, 7.10.7"),
            $($extended,)*
        ]
    };
}
pub(crate) use function_table;
