//! The daemon as a whole: what it is, its control thread, ports, drops and pools.

use std::fmt;

use dataplane::PortId;
use dataplane::counters::{Counter, WorkerCounters};

use super::sheet::{NONE, Sheet};
use super::{Scene, unix_time};
use crate::core::{DeviceCounters, PortFacts};
use crate::stats::{self, PortTraffic};

pub(super) fn write(scene: &Scene, sheet: &mut Sheet<'_>) -> fmt::Result {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("dpdk", scene.facts.dpdk.as_str())];
    sheet.gauges("build_info", "Version of dpvsd and of DPDK; always 1.", [(labels, 1_u64)])?;
    sheet.gauge("start_time_seconds", "When the daemon started, in seconds since 1970.", scene.control.started())?;
    sheet.gauge("draining", "1 while the daemon drains before it stops.", u64::from(scene.draining))?;
    control(scene, sheet)?;
    ports(scene, sheet)?;
    pools(scene, sheet)?;
    connection_log(scene, sheet)?;
    let drops = stats::drops(&scene.shared);
    let drops = drops.iter().map(|drop| ([("reason", drop.reason.as_str())], drop.packets));
    sheet.counters("dropped_packets", "Packets dropped, by reason; 'dpvs-ctl drops' says what each means.", drops)
}

fn control(scene: &Scene, sheet: &mut Sheet<'_>) -> fmt::Result {
    let control = &scene.control;
    let help = "How late the periodic work of the control thread began.";
    sheet.histogram("control_tick_delay_seconds", help, &control.tick_delay)?;
    let help = "Time from a request to the owner of the configuration until its answer, the wait for others included.";
    sheet.histogram("control_request_duration_seconds", help, &control.request_duration)?;
    let reloads = control.reloads();
    let results = [([("result", "success")], reloads.succeeded), ([("result", "failure")], reloads.failed)];
    sheet.counters("config_reloads", "Times that the configuration file was read again, on SIGHUP.", results)?;
    let help = "0 if the last attempt to read the configuration file again failed.";
    sheet.gauge("config_last_reload_successful", help, u64::from(reloads.has_last_succeeded))?;
    let help = "When the configuration in force was read, in seconds since 1970.";
    sheet.gauge("config_last_reload_success_timestamp_seconds", help, reloads.last_success)?;
    let (generation, published) = match scene.publications.latest() {
        Some((generation, time)) => (generation, unix_time(time)),
        None => (0, 0.0),
    };
    let help = "Snapshots of configuration, routes and neighbours that were published to the workers.";
    sheet.counter("snapshot_publications", help, generation)?;
    let help = "When the snapshot in force was published, in seconds since 1970.";
    sheet.gauge("snapshot_timestamp_seconds", help, published)?;
    let (routes, neighbours) = scene.routes;
    sheet.gauge("routes", "Routes in the forwarding table.", routes)?;
    sheet.gauge("neighbours", "Usable neighbours in the forwarding table.", neighbours)
}

/// A port as it is shown.
struct Row<'a> {
    facts: &'a PortFacts,
    traffic: PortTraffic,
    device: DeviceCounters,
    is_up: bool,
}

fn ports(scene: &Scene, sheet: &mut Sheet<'_>) -> fmt::Result {
    let row = |(index, facts)| {
        let id = PortId(index as u16);
        let (device, is_up) = ((scene.devices.counters)(id), (scene.devices.is_link_up)(id));
        Row { facts, traffic: stats::port_traffic(&scene.shared, id), device, is_up }
    };
    let rows: Vec<Row<'_>> = scene.facts.ports.iter().enumerate().map(row).collect();
    let info = |row: &Row<'_>| {
        let PortFacts { name, device, interface, .. } = row.facts;
        ([("port", name.clone()), ("device", device.clone()), ("interface", interface.clone())], 1_u64)
    };
    sheet.gauges("port_info", "Device and mirror interface of a port; always 1.", rows.iter().map(info))?;
    let port = |row: &Row<'_>| [("port", row.facts.name.clone())];
    let links = rows.iter().map(|row| (port(row), u64::from(row.is_up)));
    sheet.gauges("port_up", "1 while the port has a link.", links)?;
    let mut counters = |name: &str, help: &str, value: fn(&Row<'_>) -> u64| {
        sheet.counters(name, help, rows.iter().map(|row| (port(row), value(row))))
    };
    counters("port_received_packets", "Packets that workers received.", |row| row.traffic.rx_packets)?;
    counters("port_received_bytes", "Bytes that workers received, from the Ethernet header on.", |row| {
        row.traffic.rx_bytes
    })?;
    counters("port_sent_packets", "Packets that workers sent.", |row| row.traffic.tx_packets)?;
    counters("port_sent_bytes", "Bytes that workers sent, from the Ethernet header on.", |row| row.traffic.tx_bytes)?;
    counters("port_missed_packets", "Packets that the device dropped because its receive queues were full.", |row| {
        row.device.missed
    })?;
    counters("port_no_buffer_packets", "Packets that the device dropped for want of packet buffers.", |row| {
        row.device.no_buffer
    })?;
    counters("port_receive_errors", "Damaged packets that the device received.", |row| row.device.rx_errors)?;
    counters("port_send_errors", "Packets that the device could not send.", |row| row.device.tx_errors)
}

fn connection_log(scene: &Scene, sheet: &mut Sheet<'_>) -> fmt::Result {
    let (written, unwritten) = scene.control.log_lines();
    sheet.counter("connection_log_lines", "Lines written to the connection log.", written)?;
    let sum = |counter: fn(&WorkerCounters) -> &Counter| -> u64 {
        scene.shared.workers.iter().map(|worker| counter(&worker.counters).get()).sum()
    };
    let lost = [
        ([("reason", "rate")], sum(|c| &c.log_suppressed)),
        ([("reason", "ring_full")], sum(|c| &c.log_overflowed)),
        ([("reason", "write_error")], unwritten),
    ];
    sheet.counters("connection_log_lost_lines", "Lines missing in the connection log, by reason.", lost)
}

fn pools(scene: &Scene, sheet: &mut Sheet<'_>) -> fmt::Result {
    let (free, size) = (scene.devices.buffers)();
    sheet.gauge("packet_buffers", "Packet buffers (mbufs) in the pool.", u64::from(size))?;
    sheet.gauge("packet_buffers_free", "Packet buffers (mbufs) that nobody uses.", u64::from(free))?;
    let templates = &scene.shared.templates;
    sheet.gauges("persistence_templates", "Persistence templates.", [(NONE, templates.len() as u64)])?;
    let help = "Persistence templates that there can be.";
    sheet.gauge("persistence_template_capacity", help, templates.capacity() as u64)
}
