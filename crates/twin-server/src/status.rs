//! A machine described in the control socket's words.

use crate::machine::{Machine, millis};
use crate::seat::Seat;
use crate::trace::{self, element};
use control::{
    EngineStatus, LinkState, LinkStatus, PortName, PortStatus, RegisterValue, Registers, Role, Status,
    WindowStatus,
};
use ntb_spec::meaning::ConfigMeaning;
use ntb_spec::table::Row;
use ntb_spec::{WINDOWS, config, ioat};
use std::time::Duration;
use twin::{Register, Side, Space};

/// Messages handled and refused in the session of the moment, and where the seat listens: what the server adds.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionStatus {
    pub(crate) socket: String,
    pub(crate) messages: u64,
    pub(crate) refused: u64,
}

pub(crate) fn port_name(side: Side) -> PortName {
    match side {
        Side::A => PortName::A,
        Side::B => PortName::B,
    }
}

/// Everything at this moment.
pub(crate) fn status(machine: &Machine, sessions: &[(Seat, SessionStatus)]) -> Status {
    let (ups, downs) = machine.twin.link_changes();
    let state = match machine.twin.link() {
        twin::LinkState::Down => LinkState::Down,
        twin::LinkState::Training { .. } => LinkState::Training,
        twin::LinkState::Up => LinkState::Up,
    };
    let now = machine.now();
    let held = now.0.saturating_sub(machine.link_since.0);
    let whole_millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_ms: millis(now),
        link: LinkStatus {
            state,
            for_ms: whole_millis(held),
            ups,
            downs,
            training_ms: whole_millis(machine.setup.training),
        },
        stores: machine.stores,
        ports: Side::BOTH.into_iter().map(|side| port(machine, side, sessions)).collect(),
    }
}

/// What the server knows of a seat.
fn session(sessions: &[(Seat, SessionStatus)], seat: Seat) -> SessionStatus {
    let found = sessions.iter().find(|(other, _)| *other == seat);
    found.map(|(_, session)| session.clone()).unwrap_or_default()
}

fn port(machine: &Machine, side: Side, sessions: &[(Seat, SessionStatus)]) -> PortStatus {
    let session = session(sessions, Seat::Port(side));
    let (twin, host) = (&machine.twin, machine.hosts.get(side));
    let counters = twin.counters(side);
    let (mapped_bytes, unreachable_bytes) = host.memory.bytes();
    PortStatus {
        port: port_name(side),
        role: match side {
            Side::A => Role::Usd,
            Side::B => Role::Dsd,
        },
        socket: session.socket,
        attached: twin.attached(side),
        pid: host.pid,
        enabled: twin.enabled(side),
        memory_enabled: twin.memory_enabled(side),
        bus_master: twin.bus_master(side),
        attaches: counters.attaches,
        resets: counters.resets,
        mapped_bytes,
        unreachable_bytes,
        messages: host.messages.wrapping_add(session.messages),
        refused_messages: host.refused_messages.wrapping_add(session.refused),
        bad_accesses: counters.bad_accesses,
        doorbells: counters.doorbells,
        doorbells_dropped: counters.doorbells_dropped,
        interrupts: counters.interrupts,
        windows: (0..WINDOWS).map(|index| window(machine, side, index)).collect(),
        engine: engine(machine, side, sessions),
    }
}

fn engine(machine: &Machine, side: Side, sessions: &[(Seat, SessionStatus)]) -> Option<EngineStatus> {
    let host = machine.dma.get(side)?;
    let session = session(sessions, Seat::Engine(side));
    let (counters, traffic) = (host.engine.counters(), host.traffic);
    let (mapped_bytes, unreachable_bytes) = host.memory.bytes();
    Some(EngineStatus {
        socket: session.socket,
        attached: host.attached,
        pid: host.pid,
        channels: u8::try_from(ioat::CHANNELS).unwrap_or(u8::MAX),
        memory_enabled: host.engine.memory_enabled(),
        bus_master: host.engine.bus_master(),
        attaches: host.attaches,
        resets: counters.resets,
        mapped_bytes,
        unreachable_bytes,
        messages: host.messages.wrapping_add(session.messages),
        refused_messages: host.refused_messages.wrapping_add(session.refused),
        bad_accesses: counters.bad_accesses,
        descriptors: counters.descriptors,
        copied_bytes: counters.bytes,
        pieces: traffic.pieces,
        faults: traffic.faults,
        errors: counters.errors,
        drops: traffic.drops,
        dropped_bytes: traffic.dropped_bytes,
        refused_reads: traffic.refused_reads,
        interrupts: counters.interrupts,
    })
}

fn window(machine: &Machine, side: Side, index: usize) -> WindowStatus {
    let (translation, open_bytes) = machine.twin.outbound(side, index);
    let (mode, class) = machine.windows.mode((side, index));
    let counters = machine.hosts.get(side).windows.get(index).copied().unwrap_or_default();
    WindowStatus {
        window: u8::try_from(index).unwrap_or(u8::MAX),
        mode: mode.into(),
        class,
        bytes: machine.twin.window_bytes(side, index),
        open_bytes,
        translation: (open_bytes > 0).then_some(translation),
        stores: counters.stores,
        stored_bytes: counters.stored_bytes,
        dropped: counters.dropped,
        discarded: counters.discarded,
        discarded_bytes: counters.discarded_bytes,
        loads: counters.loads,
        refused_loads: counters.refused_loads,
    }
}

/// Every register of both ports, and of their engines.
pub(crate) fn registers(machine: &Machine) -> Registers {
    let of = |side| {
        let port = machine.twin.registers(side).map(move |register| value(side, register));
        let engine = machine.dma.get(side).into_iter().flat_map(|host| host.engine.registers());
        port.chain(engine.map(move |register| engine_value(side, register)))
    };
    Registers { registers: Side::BOTH.into_iter().flat_map(of).collect() }
}

fn value(side: Side, register: Register) -> RegisterValue {
    let Register { space, offset, bytes, index, value, .. } = register;
    let (space, meaning) = match space {
        Space::Bar0 => ("bar0", trace::name_bar0(offset, usize::from(bytes), value, false).1),
        Space::Config => ("config", config_meaning(config::row_at(offset), index, value)),
    };
    listed(side, space, register, meaning)
}

fn engine_value(side: Side, register: Register) -> RegisterValue {
    let Register { space, offset, bytes, index, value, .. } = register;
    let (space, meaning) = match space {
        Space::Bar0 => ("dma_bar0", trace::name_dma_bar0(offset, usize::from(bytes), value, false).1),
        Space::Config => ("dma_config", config_meaning(ioat::config::row_at(offset), index, value)),
    };
    listed(side, space, register, meaning)
}

fn config_meaning(row: Option<&'static Row<config::Reg>>, index: u8, value: u64) -> String {
    row.map_or_else(String::new, |row| ConfigMeaning { reg: row.reg, index, value }.to_string())
}

fn listed(side: Side, space: &str, register: Register, meaning: String) -> RegisterValue {
    let Register { space: _, offset, bytes, name, index, array, value } = register;
    RegisterValue {
        port: port_name(side),
        space: space.to_owned(),
        offset,
        bytes,
        name: element(name, if array { 2 } else { 1 }, index),
        value,
        meaning,
    }
}
