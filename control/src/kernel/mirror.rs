//! Mirror interfaces: one TAP per port, by which the kernel takes part in the port's traffic.
//!
//! What workers punt is written to the TAP; what the kernel sends out of it is queued for the first worker. The TAP
//! has no offloads and no packet-information header: frames are complete, with checksums, in both directions. Frames of
//! health checks are changed here on their way (`detour`); while there are none, nobody looks into frames.
//!
//! The kernel drops punted packets by its own rules, and none of its settings is changed here. Who has asymmetric
//! routes must know that reverse-path filtering (`net.ipv4.conf.IF.rp_filter`) applies to mirror interfaces.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use dataplane::PortId;
use dataplane::packet::PacketBuf;
use dataplane::shared::Shared;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use tokio::sync::mpsc;
use tokio::time::{Duration, MissedTickBehavior, interval, sleep};
use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

use super::counters::Counters;
use super::neighbour::{Kick, RateLimit};
use super::netlink::{Requests, errno};
use super::{KernelError, PortKernel};
use crate::detour::{Detours, DoesNotFit};

/// How often workers' queues are looked at. Workers cannot wake us: that would be a system call.
const TICK: Duration = Duration::from_millis(1);

/// After so many ticks without work, only every second tick is used.
const IDLE_TICKS: u32 = 2000;

/// Frames taken at a time, so that the other tasks of the thread get their turn.
const BURST: usize = 256;

/// The longest frame a TAP can pass.
const LARGEST_FRAME: usize = 65_535 + 18;

/// A port's TAP interface, which exists as long as this value.
pub(super) struct Mirror {
    pub port: PortId,
    pub interface: String,
    /// Interface index.
    pub index: u32,
    tap: AsyncDevice,
}

impl Mirror {
    /// Creates the interface with the port's MAC address and MTU; it is still down.
    pub async fn create(port: PortId, config: &PortKernel, requests: &mut Requests) -> Result<Self, KernelError> {
        let failed = |source| KernelError::creation(&config.interface, source);
        let tap = DeviceBuilder::new().name(&config.interface).layer(Layer::L2).inherit_enable_state().build_async();
        let tap = tap.map_err(failed)?;
        let index = tap.if_index().map_err(failed)?;
        let mirror = Self { port, interface: config.interface.clone(), index, tap };
        let mac = LinkAttribute::Address(config.mac.to_vec());
        mirror.change("set the MAC address (no group address)", LinkFlags::empty(), Some(mac), requests).await?;
        let mtu = LinkAttribute::Mtu(config.mtu.into());
        mirror.change("set the MTU (68 to 65521)", LinkFlags::empty(), Some(mtu), requests).await?;
        Ok(mirror)
    }

    /// Sets the interface up.
    pub async fn set_up(&self, requests: &mut Requests) -> Result<(), KernelError> {
        self.change("set it up", LinkFlags::Up, None, requests).await
    }

    /// Tells the kernel whether the port has link.
    pub async fn set_carrier(&self, up: bool, requests: &mut Requests) -> Result<(), KernelError> {
        let carrier = LinkAttribute::Carrier(up.into());
        self.change("set the link state", LinkFlags::empty(), Some(carrier), requests).await
    }

    /// Changes an attribute of the interface and sets `flags`. `action` says what for.
    async fn change(
        &self,
        action: &'static str,
        flags: LinkFlags,
        attribute: Option<LinkAttribute>,
        requests: &mut Requests,
    ) -> Result<(), KernelError> {
        let mut link = LinkMessage::default();
        link.header.index = self.index;
        (link.header.flags, link.header.change_mask) = (flags, flags);
        link.attributes.extend(attribute);
        let outcome = requests.change(RouteNetlinkMessage::SetLink(link), 0).await;
        outcome.map_err(|source| KernelError::Mirror { interface: self.interface.clone(), action, source })
    }
}

/// What the tasks that move frames share.
#[derive(Clone)]
pub(super) struct Traffic {
    pub shared: Arc<Shared>,
    pub detours: Arc<Detours>,
    pub counters: Arc<Counters>,
}

/// Queues what the kernel sends for the first worker, until the interface is deleted.
pub(super) async fn kernel_to_wire(mirror: Arc<Mirror>, traffic: Traffic) {
    let mut frame = vec![0; LARGEST_FRAME];
    loop {
        match read_burst(&mirror, &traffic, &mut frame).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) if error.raw_os_error() == Some(errno::EBADFD) => {
                tracing::error!("mirror interface {} was deleted: restart dpvsd to get it back", mirror.interface);
                return;
            }
            Err(error) => {
                tracing::warn!("mirror interface {}: reading failed: {error}", mirror.interface);
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn read_burst(mirror: &Mirror, traffic: &Traffic, frame: &mut [u8]) -> io::Result<()> {
    let Traffic { shared, detours, counters } = traffic;
    mirror.tap.readable().await?;
    for _ in 0..BURST {
        let frame = match mirror.tap.try_recv(frame) {
            Ok(length) => &mut frame[..length],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        if detours.is_empty() {
            inject(mirror.port, frame, shared, counters);
            continue;
        }
        match detours.to_server(frame, mirror.port, &shared.snapshot.load()) {
            Ok(None) => inject(mirror.port, frame, shared, counters),
            Ok(Some(wrapped)) => inject(mirror.port, wrapped.data(), shared, counters),
            Err(DoesNotFit) => counters.from_kernel_too_long.add(1),
        }
    }
    Ok(())
}

fn inject(port: PortId, frame: &[u8], shared: &Shared, counters: &Counters) {
    let Some(mut buffer) = shared.inject.take_empty() else {
        counters.from_kernel_no_buffer.add(1);
        return;
    };
    if buffer.fill(port, frame) {
        shared.inject.send(buffer);
        counters.from_kernel.add(1);
    } else {
        shared.inject.recycle(buffer);
        counters.from_kernel_too_long.add(1);
    }
}

/// Serves what workers have for the kernel: punted frames, and next hops to be resolved.
pub(super) async fn wire_to_kernel(mirrors: Vec<Arc<Mirror>>, traffic: Traffic, kicks: mpsc::Sender<Kick>) {
    let mut spare = Vec::new();
    let mut limit = RateLimit::new(Instant::now());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle = 0;
    loop {
        ticks.tick().await;
        if idle >= IDLE_TICKS {
            ticks.tick().await;
        }
        let mut punted = write_burst(&mirrors, &traffic, &mut spare);
        let resolved = resolve(&mirrors, &traffic, &mut limit, &kicks);
        idle = if punted + resolved == 0 { idle.saturating_add(1) } else { 0 };
        while punted == BURST {
            tokio::task::yield_now().await;
            punted = write_burst(&mirrors, &traffic, &mut spare);
        }
    }
}

/// Hands a burst of punted frames to the kernel; returns how many there were. `spare` is room for another frame.
fn write_burst(mirrors: &[Arc<Mirror>], traffic: &Traffic, spare: &mut Vec<u8>) -> usize {
    let Traffic { shared, detours, counters } = traffic;
    for done in 0..BURST {
        let Some(mut frame) = shared.punt.receive() else { return done };
        let mirror = mirrors.get(usize::from(frame.port.0));
        let data = match detours.is_empty() {
            true => frame.data(),
            false => detours.to_kernel(frame.data_mut(), spare, &shared.snapshot.load()),
        };
        // A TAP is always writable unless it is down or gone; there is nothing to wait for.
        match mirror.map(|mirror| mirror.tap.try_send(data)) {
            Some(Ok(_)) => counters.to_kernel.add(1),
            _ => counters.to_kernel_dropped.add(1),
        }
        shared.punt.recycle(frame);
    }
    BURST
}

/// Passes on workers' requests for next hops; returns how many there were.
fn resolve(
    mirrors: &[Arc<Mirror>],
    Traffic { shared, counters, .. }: &Traffic,
    limit: &mut RateLimit,
    kicks: &mpsc::Sender<Kick>,
) -> usize {
    let mut requests = 0;
    while requests < BURST
        && let Some((port, address)) = shared.resolve.pop()
    {
        requests += 1;
        let Some(mirror) = mirrors.get(usize::from(port.0)) else { continue };
        if limit.allows(port, address, Instant::now()) && kicks.try_send((mirror.index, address)).is_err() {
            counters.neighbour_kicks_failed.add(1);
        }
    }
    counters.resolve_requests.add(requests as u64);
    requests
}
