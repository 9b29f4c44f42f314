//! What travels on a twin's control socket: types and framing, no I/O.
