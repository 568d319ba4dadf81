//! Director-wide settings, from the configuration's types to those of the packet path.

use dataplane::snapshot::{Reuse, Settings};
use dpvs_api::{Sysctls, Timeouts};

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
    }
}
