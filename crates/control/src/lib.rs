//! What travels on a twin's control socket: types and framing, no I/O.
//!
//! ```text
//!   isthmus status, lab  ──Request──▶  one line of JSON  ──▶  twin-server
//!                        ◀──Reply───   one line of JSON  ◀──
//!                        ◀──Event───   one line each, after Request::Watch
//! ```
//!
//! A client sends one [`Request`] a line and reads one [`Reply`] a line, in order. After [`Request::Watch`]
//! the connection carries [`Reply::Event`] lines until the client closes it; further requests are still
//! answered in between.
//!
//! What this crate does not do: open sockets, hold state, know a device. [`Lines`] cuts a byte stream into
//! bounded lines; [`Client`] runs a dialogue over anything that reads and writes.
//!
//! Invariants: a line is at most [`MAX_LINE_BYTES`]; an unknown request or a malformed line is answered by
//! [`Reply::Error`] and the connection goes on.

#![forbid(unsafe_code)]

mod client;
mod lines;
mod overlay;
mod types;

pub use client::{CallError, Client};
pub use lines::{LineTooLong, Lines, MAX_LINE_BYTES, decode, encode};
pub use overlay::{FileRange, MAX_OVERLAY_FILES, MAX_OVERLAY_PIECES, OverlayAnswer, OverlayCommand, Piece};
pub use types::{
    EngineStatus, Event, LinkState, LinkStatus, PortName, PortStatus, RegisterValue, Registers, Reply,
    Request, Role, Status, StoreMode, WindowClass, WindowMode, WindowStatus,
};
