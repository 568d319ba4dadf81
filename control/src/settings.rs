//! Director-wide settings, from the configuration's types to those of the packet path.

use dataplane::defence::{self, Defences, Mode};
use dataplane::shared::Shared;
use dataplane::snapshot::{Reuse, Settings};
use dpvs_api::{Sysctls, Timeouts};
use sched::Expirations;

/// The settings as workers see them.
pub(crate) fn compile(configured: Timeouts, sysctls: Sysctls, draining: bool) -> Settings {
    let mut timeouts = proto::state::Timeouts::default();
    timeouts.set_tcp(configured.tcp);
    timeouts.set_fin(configured.tcp_fin);
    timeouts.set_udp(configured.udp);
    Settings {
        timeouts,
        draining,
        reuse: match sysctls.conn_reuse_mode {
            0 => Reuse::Never,
            1 => Reuse::Ended,
            _ => Reuse::Closing,
        },
        expire_nodest_conn: sysctls.expire_nodest_conn != 0,
        sloppy_tcp: sysctls.sloppy_tcp != 0,
        sloppy_sctp: sysctls.sloppy_sctp != 0,
        expire_quiescent_template: sysctls.expire_quiescent_template != 0,
        expirations: Expirations { lblc: sysctls.lblc_expiration, lblcr: sysctls.lblcr_expiration },
        nat_icmp_send: sysctls.nat_icmp_send != 0,
        fragment_tunnels: sysctls.pmtu_disc == 0,
        schedule_icmp: sysctls.schedule_icmp != 0,
        defences: Defences {
            drop_entry: mode(sysctls.drop_entry),
            drop_packet: mode(sysctls.drop_packet),
            secure_tcp: mode(sysctls.secure_tcp),
            amemthresh: sysctls.amemthresh,
            am_droprate: sysctls.am_droprate,
        },
        helper_ports: Default::default(),
    }
}

/// Automatic defences are 1 while they rest and 2 while they act, whichever of the two was asked for.
fn mode(value: u32) -> Mode {
    match value {
        0 => Mode::Off,
        1 | 2 => Mode::Automatic,
        _ => Mode::Always,
    }
}

/// The settings as they are to be shown: a worker that defends itself shows in those of the automatic defences.
pub(crate) fn shown(configured: Sysctls, shared: &Shared) -> Sysctls {
    let acting = shared.workers.iter().fold(0, |all, worker| all | worker.counters.defences.get_acquire());
    let shown = |value: u32, bit: u64| match value {
        1 | 2 => 1 + u32::from(acting & bit != 0),
        other => other,
    };
    Sysctls {
        drop_entry: shown(configured.drop_entry, defence::DROP_ENTRY),
        drop_packet: shown(configured.drop_packet, defence::DROP_PACKET),
        secure_tcp: shown(configured.secure_tcp, defence::SECURE_TCP),
        ..configured
    }
}
