//! The device models, pure: an access or an event goes in, effects come out.
