//! A whole twin, over real sockets: two hosts that live with each other, and hosts that do what they can to
//! stop it.

mod any_sequence;
mod control_socket;
mod engine;
mod engine_copies;
mod engine_trouble;
mod hostile_load;
mod hostile_memory;
mod hostile_messages;
mod house;
mod leaks;
mod mapped_engine;
mod mapped_trouble;
mod mapped_windows;
mod two_hosts;
mod windows;
