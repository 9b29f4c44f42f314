//! VERSION: the JSON of capabilities and what is agreed.
//!
//! Source: specification, section "VFIO_USER_VERSION"; limits of the client from QEMU's `caps_check`.

use serde::{Deserialize, Serialize};

use super::fault::{Fault, FaultKind};
use super::header::{MAX_DATA_BYTES, MAX_MESSAGE_FDS};

/// Protocol major version.
pub const MAJOR: u16 = 0;
/// Protocol minor version.
pub const MINOR: u16 = 0;

/// What one side says it can do. A key that is missing has the specification's default; an unknown key is
/// ignored, so that newer clients are welcome; a known key of the wrong type is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Most file descriptors that the sender takes with one message.
    pub max_msg_fds: u32,
    /// Most data that the sender takes in one access, in bytes.
    pub max_data_xfer_size: u32,
    /// Most DMA ranges that may be mapped at once.
    pub max_dma_maps: u32,
    /// Page sizes of DMA ranges, or'ed together, in bytes.
    pub pgsizes: u64,
    /// REGION_WRITE_MULTI is understood.
    pub write_multiple: bool,
    /// Parameters of migration, which nobody here uses. Parsed so that nonsense is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
}

/// The `migration` object of the capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Migration {
    /// Page size of dirty bitmaps, in bytes.
    pub pgsize: u64,
    /// Largest dirty bitmap, in bytes.
    pub max_bitmap_size: u64,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            max_msg_fds: 1,
            max_data_xfer_size: 1 << 20,
            max_dma_maps: 65535,
            pgsizes: 4096,
            write_multiple: false,
            migration: None,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct VersionData {
    capabilities: Capabilities,
}

const fn refused(reason: &'static str) -> Fault {
    Fault::new(FaultKind::Version, rustix::io::Errno::INVAL, reason)
}

impl Capabilities {
    /// What our client says of itself.
    pub const CLIENT: Self = Self {
        max_msg_fds: 16,
        max_data_xfer_size: MAX_DATA_BYTES,
        max_dma_maps: 65535,
        pgsizes: 4096,
        write_multiple: true,
        migration: None,
    };

    /// Reads the data part of a VERSION message: nothing, or JSON that ends in NUL.
    ///
    /// # Errors
    /// A [`FaultKind::Version`] fault if the last byte is not NUL, if it is not JSON of the right shape, or if
    /// a limit is zero.
    pub fn parse(data: &[u8]) -> Result<Self, Fault> {
        if data.is_empty() {
            return Ok(Self::default());
        }
        let Some((0, json)) = data.split_last() else {
            return Err(refused("the version data does not end in NUL"));
        };
        let data: VersionData =
            serde_json::from_slice(json).map_err(|_| refused("the version data is not JSON as specified"))?;
        let capabilities = data.capabilities;
        if capabilities.max_data_xfer_size == 0 {
            return Err(refused("max_data_xfer_size is zero"));
        }
        if capabilities.pgsizes == 0 {
            return Err(refused("pgsizes is zero"));
        }
        Ok(capabilities)
    }

    /// The data part of a VERSION message, with its NUL.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        // A struct of numbers always serialises; were it not so, "no data" is a legal VERSION too.
        let mut json = serde_json::to_vec(&VersionData { capabilities: self }).unwrap_or_default();
        if !json.is_empty() {
            json.push(0);
        }
        json
    }
}

/// The richest reply data that fits in `room` bytes.
///
/// A client gives no separate size for the reply to VERSION, so QEMU allots as much as its request had
/// ("reply larger than recv buffer" otherwise). Each step down merely claims less: an absent key has a default
/// that we also meet.
#[must_use]
pub fn server_data(room: usize) -> &'static [u8] {
    const LADDER: [&[u8]; 3] = [
        b"{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,\"write_multiple\":true}}\0",
        b"{\"capabilities\":{\"max_msg_fds\":16}}\0",
        b"{}\0",
    ];
    const _: () = assert!(MAX_MESSAGE_FDS == 16 && MAX_DATA_BYTES == 1_048_576);
    LADDER.into_iter().find(|data| data.len() <= room).unwrap_or(b"")
}
