//! What the bits of an Intel NTB Gen3 mean: registers, PCI configuration space, scratchpad hand-shakes. No behaviour.
