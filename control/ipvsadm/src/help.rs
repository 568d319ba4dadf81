//! `-h` and `-v`.

use std::io::{self, Write};

/// Version of IPVS whose behaviour dpvsd offers.
pub(crate) const IPVS_VERSION: &str = "1.2.1";

/// Prints the version. Scripts look for `ipvsadm v1.31`.
pub(crate) fn version(output: &mut dyn Write) -> io::Result<()> {
    writeln!(output, "ipvsadm v1.31 (dpvs {}, compatible with IPVS v{IPVS_VERSION})", env!("CARGO_PKG_VERSION"))
}

/// Prints the grammar.
pub(crate) fn help(output: &mut dyn Write, program: &str) -> io::Result<()> {
    version(output)?;
    let name = program.rsplit('/').next().unwrap_or(program);
    output.write_all(TEXT.replace('%', name).as_bytes())
}

const TEXT: &str = "\
Manages the virtual services of dpvsd, with the grammar of ipvsadm and DPVS's FULLNAT options.

Services:
  % -A|-E SERVICE [-s SCHEDULER] [-b FLAG,...] [-p [SECONDS]] [-M NETMASK] [--pe sip] [-o]
        [--conn-timeout SECONDS] [--local-ports FIRST-LAST]
                                          add or edit
  % -D SERVICE                            delete, with its servers
  % -C                                    delete all
Servers:
  % -a|-e SERVICE -r SERVER [-g|-i|-m|-b] [-w WEIGHT] [-x UPPER] [-y LOWER] [TUNNEL]
                                          add or edit
  % -d SERVICE -r SERVER                  delete
Local addresses, the sources of FULLNAT:
  % -P SERVICE -z ADDRESS [-F INTERFACE]  add
  % -Q SERVICE -z ADDRESS                 delete
  % -G [SERVICE]                          list
Everything:
  % -L|-l [SERVICE] [-n] [--exact] [--nosort]
        [--stats|--rate|--thresholds|--persistent-conn|--tun-info]
                                          list services and servers
  % -L -c [-n] [--persistent-conn]        list connections
  % -L --timeout                          show the timeouts
  % --set TCP TCPFIN UDP                  set them, in seconds; 0 leaves one as it is
  % -Z [SERVICE]                          set counters to zero
  % -S [-n]                               print the table as commands
  % -R                                    read such commands; all take effect at once, or none
  % -h|-v                                 this text; the version

SERVICE is -t ADDRESS:PORT (TCP), -u ADDRESS:PORT (UDP), --sctp-service ADDRESS:PORT or
-f MARK [-6]; SERVER is ADDRESS[:PORT]. IPv6 addresses stand in brackets. TUNNEL, with -i, is
--tun-type ipip|gue|gre [--tun-port PORT] [--tun-nocsum|--tun-csum|--tun-remcsum]. Long options:
  -A --add-service     -a --add-server     -t --tcp-service     -g --gatewaying (DR, the default)
  -E --edit-service    -e --edit-server    -u --udp-service     -i --ipip (tunnel)
  -D --delete-service  -d --delete-server  -f --fwmark-service  -m --masquerading (NAT)
  -C --clear           -r --real-server    -6 --ipv6            -b --fullnat
  -L --list            -S --save           -s --scheduler       -P --add-laddr
  -Z --zero            -R --restore        -p --persistent      -Q --del-laddr
  -n --numeric         -c --connection     -M --netmask         -G --get-laddr
  -X --exact           -w --weight         -o --ops             -z --laddr
  -h --help            -x --u-threshold    -y --l-threshold     -F --ifname
  -v --version
Schedulers: rr, wrr, lc, wlc (the default), sed, nq, fo, ovf, lblc, lblcr, dh, sh, mh, twos and
conhash. Their flags (-b or --sched-flags): sh-port, sh-fallback, mh-port, mh-fallback,
conhash-qid.
Not in dpvsd yet, and refused: -j --start-daemon --stop-daemon.

dpvsd is reached at /run/dpvs/dpvsd.sock, or at the socket that DPVS_SOCKET names.
";
