//! docs/registers.md, written from the tables that the twin dispatches by.

use crate::workspace::Workspace;
use anyhow::{Context as _, Result};
use ntb_spec::table::{Access, Row};
use ntb_spec::{
    DOORBELLS, INTERRUPT_SOURCES, LINK_SOURCE, MSIX_VECTORS, SCRATCHPADS, bar0, config, ioat, messages,
};
use std::fs;

/// The page, from the root of the repository.
const PAGE: &str = "docs/registers.md";

/// Writes the page.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join(PAGE);
    fs::create_dir_all(path.parent().unwrap_or(&path)).context("making docs/")?;
    fs::write(&path, page()).with_context(|| format!("writing {PAGE}"))?;
    println!("wrote {PAGE}");
    Ok(())
}

/// Whether the page is what the tables say.
pub(crate) fn findings(workspace: &Workspace) -> Result<Vec<String>> {
    let text = match fs::read_to_string(workspace.root.join(PAGE)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(vec![format!("{PAGE} is missing: run `cargo xtask registers` and commit it")]);
        }
        Err(error) => return Err(error).with_context(|| format!("reading {PAGE}")),
    };
    Ok(difference(&text, &page()).into_iter().collect())
}

/// The first line in which a page is stale.
fn difference(is: &str, should: &str) -> Option<String> {
    if is == should {
        return None;
    }
    let same = is.lines().zip(should.lines()).take_while(|(is, should)| is == should).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    Some(format!(
        "{PAGE} is stale from line {} on: run `cargo xtask registers` and commit it\n    it says:      {}\n    tables say:   {}",
        same + 1,
        line(is),
        line(should)
    ))
}

/// The whole page.
fn page() -> String {
    let last_doorbell = u8::try_from(DOORBELLS - 1).unwrap_or(u8::MAX);
    format!(
        "\
# Registers of the twin

<!-- Written by `cargo xtask registers` from crates/ntb-spec/src/{{bar0,config,function,ioat}}.rs: change those. -->

The Intel NTB Gen3 (8086:201C) and, below, the I/OAT DMA engine (8086:2021), as this project models them. The twin takes
every access by these tables, traces are decoded by them and the table tests walk them; CI fails if this page says
something else.

There is no public document of these devices. *Source* names the driver, and the function or constant in it, from which
a row was read; what no driver tells is *chosen*.

**How to read it.** *Width* is in bytes. An array of *Count* elements lies side by side from its offset. *Mask* has the
bits that a write may change (or clear), *Reset* the value after power-on and after a reset of the function.

| Access | A write | A read |
|---|---|---|
| RO | is ignored | gives the value |
| RW | stores the bits of the mask | gives the value |
| RW1C | clears the bits of the mask that are written as 1 | gives the value |
| W1 | of 1 to a bit of the mask is an event, nothing is stored | gives 0, unless the row says more |
| RW peer | lands in the peer's register | gives the peer's live value |

## BAR 0

{bar0_bytes} KiB, 64-bit, prefetchable. *IM* is a port's own set of registers, *EM* the external one.

- A register is accessed in its own width. One of 8 bytes may also be reached by its two aligned halves, as
  processors without 8-byte accesses do. Any other access, and one that hits no row, reads all ones, is dropped on
  write, and moves a counter.
- The doorbells and the registers `B2B_SPAD` are the peer's: they work while the link is up. While it is down a doorbell is
  dropped and `B2B_SPAD` reads all ones. Own scratchpads, masks and translations survive a link that goes down, and
  clear on a reset of their own port alone.
- There are {DOORBELLS} doorbells, {SCRATCHPADS} scratchpads and {INTERRUPT_SOURCES} interrupt sources: doorbell n is source n, the link is source
  {LINK_SOURCE}. After reset `INTVEC` has vector {first} for doorbell 0, {last} for doorbell {last_doorbell}, and {link} for the link.
- The MSI-X table ({MSIX_VECTORS} vectors) is at {msix_table} and its pending bits are at {msix_pba}; both places are chosen.

{bar0}
## BAR 0: message registers (an extension, not hardware)

No Gen3 device has these. `isthmus twin --messages` gives them to both ports; without it the offsets hit no register. A message goes from
`MSG_OUT` n to the peer's `MSG_IN` n and lies there until the peer clears bit n of its `MSG_STATUS`. One that cannot go,
since the last one lies there or the link is down, is dropped and sets bit 16 + n. A link that goes down takes what lies in both
directions along.

{messages}
## Configuration space

{config_bytes} bytes, in any width at any offset: bytes that no row covers read 0 and ignore writes. The mask of `BAR` depends on the
size of the windows, and so does the reset value of `BARSZ`; `CLASS` reads 0x{class}; `PPD` is 0x01 on port a and 0x11 on port b.

{config}
{ioat}",
        bar0_bytes = bar0::BYTES / 1024,
        first = bar0::reset_vector(0),
        last = bar0::reset_vector(last_doorbell),
        link = bar0::reset_vector(LINK_SOURCE),
        msix_table = hex(bar0::MSIX_TABLE.into(), 2),
        msix_pba = hex(bar0::MSIX_PBA.into(), 2),
        bar0 = table(bar0::TABLE),
        messages = table(messages::TABLE),
        config_bytes = config::BYTES,
        class = config::CLASS.iter().rev().map(|byte| format!("{byte:02X}")).collect::<String>(),
        config = table(config::TABLE),
        ioat = ioat_section(),
    )
}

/// The engine's part of the page.
fn ioat_section() -> String {
    format!(
        "\
## I/OAT: BAR 0

{bytes} KiB, 64-bit. Widths are as in the NTB's BAR 0. The MSI-X table ({vectors} vectors, one for each channel) is at {msix_table} and its
pending bits are at {msix_pba}; both places are chosen.

{global}
## I/OAT: a channel

Channel n of {channels} has its block at {stride} × (n + 1) in BAR 0; offsets are from there. What the orders do, which bit of CHANERR stands
for what, and when an interrupt is raised is told in `crates/twin/src/ioat/mod.rs`.

{channel}
## I/OAT: a descriptor

{descriptor} bytes, aligned to as many, little-endian: `size` at 0x00 (4 bytes), `control` at 0x04 (4), `source` at 0x08, `destination` at
0x10, `next` at 0x18 (8 each); the rest is the driver's. Control: bit 0 interrupt, bit 3 write the completion, bit 4
fence, bit 5 null, bits 31:24 operation, 0 is a copy; the others are hints without effect.

## I/OAT: configuration space

As the NTB's, but for these rows; `CLASS` reads 0x{class}, and BAR 0 is the only BAR.

{config}",
        bytes = ioat::BYTES / 1024,
        vectors = ioat::MSIX_VECTORS,
        msix_table = hex(ioat::MSIX_TABLE.into(), 2),
        msix_pba = hex(ioat::MSIX_PBA.into(), 2),
        global = table(ioat::GLOBAL),
        channels = ioat::CHANNELS,
        stride = hex(ioat::CHANNEL_BYTES.into(), 1),
        channel = table(ioat::CHANNEL),
        descriptor = ioat::DESCRIPTOR_BYTES,
        class = ioat::config::CLASS.iter().rev().map(|byte| format!("{byte:02X}")).collect::<String>(),
        config = table(&ioat_config()),
    )
}

/// The rows of the engine's configuration space that the NTB does not have just so.
fn ioat_config() -> Vec<Row<config::Reg>> {
    let ntb: Vec<String> = config::TABLE.iter().map(line).collect();
    ioat::config::TABLE.iter().filter(|row| !ntb.contains(&line(row))).copied().collect()
}

fn table<R>(rows: &[Row<R>]) -> String {
    let head = "| Offset | Width | Count | Name | Access | Mask | Reset | Meaning | Source |\n|---|---|---|---|---|---|---|---|---|\n";
    rows.iter().fold(head.to_owned(), |page, row| page + &line(row))
}

fn line<R>(row: &Row<R>) -> String {
    let mask = match row.access {
        Access::ReadOnly => "none".to_owned(),
        _ => hex(row.mask, row.bytes),
    };
    let cells = [
        hex(row.at.into(), 2),
        row.bytes.to_string(),
        row.count.to_string(),
        format!("`{}`", row.name),
        row.access.abbreviation().to_owned(),
        mask,
        hex(row.reset, row.bytes),
        escape(row.doc),
        escape(row.source),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// A number of so many bytes, in groups of four digits.
fn hex(value: u64, bytes: u8) -> String {
    let digits = format!("{value:0width$X}", width = 2 * usize::from(bytes));
    let (head, groups) = digits.split_at(digits.len() % 4);
    let groups = groups.as_bytes().chunks(4).map(String::from_utf8_lossy);
    let parts: Vec<_> = (!head.is_empty()).then(|| head.into()).into_iter().chain(groups).collect();
    format!("0x{}", parts.join("_"))
}

/// Text that cannot end a cell or begin markup.
fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_on_the_page_and_every_line_has_all_columns() {
        let page = page();
        let names = bar0::TABLE.iter().map(|row| row.name).chain(config::TABLE.iter().map(|row| row.name));
        let engine = ioat::GLOBAL.iter().map(|row| row.name).chain(ioat::CHANNEL.iter().map(|row| row.name));
        let names = names.chain(messages::TABLE.iter().map(|row| row.name));
        for name in names.chain(engine).chain(ioat::config::TABLE.iter().map(|row| row.name)) {
            assert!(page.contains(&format!("| `{name}` |")), "{name}");
        }
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| 0x")).collect();
        let engine = ioat::GLOBAL.len() + ioat::CHANNEL.len() + ioat_config().len();
        assert_eq!(rows.len(), bar0::TABLE.len() + messages::TABLE.len() + config::TABLE.len() + engine);
        assert!(rows.iter().all(|row| row.matches(" | ").count() == 8));
        assert!(page.ends_with("|\n"));
    }

    #[test]
    fn accesses_are_all_explained() {
        let page = page();
        let accesses =
            bar0::TABLE.iter().map(|row| row.access).chain(config::TABLE.iter().map(|row| row.access));
        let accesses = accesses.chain(ioat::CHANNEL.iter().map(|row| row.access));
        for access in accesses {
            assert!(page.contains(&format!("\n| {} | ", access.abbreviation())), "{access:?}");
        }
    }

    #[test]
    fn numbers_have_the_width_of_their_register() {
        assert_eq!(hex(0x1_FFFF_FFFF, 8), "0x0000_0001_FFFF_FFFF");
        assert_eq!(hex(3, 4), "0x0000_0003");
        assert_eq!(hex(0xFF, 1), "0xFF");
        assert_eq!(hex(0x12345, 2), "0x1_2345");
    }

    #[test]
    fn a_stale_page_is_found_at_its_line() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        let finding = difference("a\nb\n", "a\nc\n").unwrap();
        assert!(finding.contains("stale from line 2"), "{finding}");
        assert!(difference("a\n", "a\nc\n").unwrap().contains("(the end)"));
    }
}
