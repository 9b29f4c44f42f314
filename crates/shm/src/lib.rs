//! Memory shared with somebody: mapped files, bounds-checked volatile copies. The main room for unsafe.
