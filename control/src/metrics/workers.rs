//! Workers: their poll loops and what they own.

use std::fmt;

use dataplane::counters::{Counter, WorkerCounters};
use dataplane::defence::{DROP_ENTRY, DROP_PACKET, SECURE_TCP};

use super::sheet::Sheet;
use super::{Scene, unix_time};

/// Counters: name, help, where they are.
type Column = (&'static str, &'static str, fn(&WorkerCounters) -> &Counter);

const COUNTERS: [Column; 16] = [
    ("polls", "Turns of the poll loop.", |c| &c.polls),
    ("busy_polls", "Turns of the poll loop that found packets.", |c| &c.busy_polls),
    ("packets", "Packets that turns found: received, passed by other workers, sent by the kernel.", |c| &c.packets),
    ("bursts", "Bursts that packets came in.", |c| &c.bursts),
    ("cycles", "Processor cycles (time stamp counter) of all turns and the rest between them.", |c| &c.cycles),
    ("busy_cycles", "Processor cycles (time stamp counter) of turns that found packets.", |c| &c.busy_cycles),
    ("steered_packets", "Packets passed to other workers.", |c| &c.steered),
    ("punted_packets", "Packets handed to the kernel.", |c| &c.punted),
    ("icmp_sent_packets", "ICMP messages of the director's own.", |c| &c.icmp_sent),
    ("inserted_packets", "TCP segments of the director's own that were put into connections.", |c| &c.inserted),
    ("reaped_connections", "Connections that drop_entry ended.", |c| &c.reaped),
    ("reassembled_packets", "Packets put together from fragments.", |c| &c.reassembled),
    ("reassembled_fragments", "Fragments that packets were put together from.", |c| &c.fragments),
    ("fragmented_packets", "Packets that left in fragments.", |c| &c.fragmented),
    ("sent_fragments", "Fragments that packets left in.", |c| &c.fragments_made),
    ("snapshots", "Generation of the snapshot in use; compare dpvs_snapshot_publications_total.", |c| {
        &c.snapshot_generation
    }),
];

pub(super) fn write(scene: &Scene, sheet: &mut Sheet<'_>) -> fmt::Result {
    let names: Vec<String> = (0..scene.shared.workers.len()).map(|worker| worker.to_string()).collect();
    let workers = || names.iter().map(String::as_str).zip(scene.shared.workers.iter().map(|worker| &worker.counters));
    let cores: Vec<String> = scene.facts.cores.iter().map(ToString::to_string).collect();
    let info = names.iter().zip(&cores).map(|(name, core)| ([("worker", name.as_str()), ("core", core)], 1_u64));
    sheet.gauges("worker_info", "Processor core of a worker; always 1.", info)?;
    for (name, help, counter) in COUNTERS {
        let members = workers().map(|(worker, counters)| ([("worker", worker)], counter(counters).get()));
        sheet.counters(&format!("worker_{name}"), help, members)?;
    }
    let adopted = workers().filter_map(|(worker, counters)| {
        let published = scene.publications.time_of(counters.snapshot_generation.get())?;
        Some(([("worker", worker)], unix_time(published)))
    });
    let help = "When the snapshot in use was published, in seconds since 1970.";
    sheet.gauges("worker_snapshot_timestamp_seconds", help, adopted)?;

    let families = |v4: u64, v6: u64| [("inet", v4), ("inet6", v6)];
    let by_family = |worker, values: [(&'static str, u64); 2]| {
        values.map(|(family, value)| ([("worker", worker), ("family", family)], value))
    };
    let connections = workers().flat_map(|(worker, counters)| {
        let (all, v6) = (counters.table_entries.get(), counters.table_entries_v6.get());
        // The two are not read at one instant.
        by_family(worker, families(all.saturating_sub(v6), v6))
    });
    sheet.gauges("worker_connections", "Connections in the table.", connections)?;
    let capacity = scene.facts.worker_capacity;
    let capacities = names.iter().flat_map(|worker| by_family(worker, families(capacity, capacity)));
    sheet.gauges("worker_connection_capacity", "Connections that the table can hold.", capacities)?;
    let held = workers().map(|(worker, counters)| ([("worker", worker)], counters.fragments_held.get()));
    sheet.gauges("worker_held_fragments", "Fragments that wait for others.", held)?;

    let defences = [("drop_entry", DROP_ENTRY), ("drop_packet", DROP_PACKET), ("secure_tcp", SECURE_TCP)];
    let active = workers().flat_map(|(worker, counters)| {
        let bits = counters.defences.get();
        defences.map(|(name, bit)| ([("worker", worker), ("defence", name)], u64::from(bits & bit != 0)))
    });
    sheet.gauges("worker_defence_active", "1 while a defence against floods acts.", active)
}
