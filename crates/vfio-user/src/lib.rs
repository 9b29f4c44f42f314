//! The vfio-user protocol: wire format, server session, client session.
