//! One twin running: sessions, guest memory, interrupts, windows, control socket.
