//! FTP's helper: text that is rewritten, and the data connections that it announces.

use dpvs_e2e::wire::tcp;

use crate::case::{Case, Listing, both, case};

const RULES: &str = "-A -t {V1}:21 -s rr\n-a -t {V1}:21 -r {S1}:21 -m";

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = vec![
        passive("PASV\r\n", "227 Entering Passive Mode (<S1,>,117,48).\r\n"),
        passive("pasv\r\n", "227 (<S1,>,117,48)\r\n"),
        active("PORT <C1,>,160,40\r\n"),
        active("port  <C1,>,160,40\r\n"),
        named("a reply of passive mode that nobody asked for")
            .send(server("227 Entering Passive Mode (<S1,>,117,48).\r\n", 5001, 1001))
            .seen()
            .connections(),
        named("a reply of passive mode that refuses")
            .send(client("PASV\r\n", 1001, 5001))
            .send(server("425 no\r\n", 5001, 1007))
            .seen()
            .connections(),
        named("a command that ends in the next segment")
            .send(client("PORT <C1,>,160,40", 1001, 5001))
            .seen()
            .connections(),
        case("a server at another port", "-A -t {V1}:21 -s rr\n-a -t {V1}:21 -r {S1}:2121 -m")
            .open("C1:4000", "V1:21")
            .send(client("PORT <C1,>,160,40\r\n", 1001, 5001))
            .connections()
            .send(tcp("S1:2120", "C1:41000", "S").seq(5000))
            .seen()
            .connections(),
        on_port("a service at another port", 2121)
            .send(tcp("C1:4000", "V1:2121", "PA").seq(1001).ack(5001).text("PASV\r\n"))
            .send(server("227 Entering Passive Mode (<S1,>,117,48).\r\n", 5001, 1007))
            .seen()
            .connections(),
        named("the sequence after a reply of passive mode")
            .send(client("PASV\r\n", 1001, 5001))
            .send(server("227 Entering Passive Mode (<S1,>,117,48).\r\n", 5001, 1007))
            .send(server("150 Here comes the directory listing.\r\n", 5001 + 51, 1007))
            .seen(),
    ];
    all.extend(both(passive("EPSV\r\n", "229 Entering Extended Passive Mode (|||30000|)\r\n")));
    all.extend(both(passive("EPSV <1|2>\r\n", "229 ok (|||30000|)\r\n")));
    all.extend(both(active("EPRT |<1|2>|<C1>|41000|\r\n")));
    all.extend(both(
        named("a stranger at the port of passive mode")
            .send(client("EPSV\r\n", 1001, 5001))
            .send(server("229 ok (|||30000|)\r\n", 5001, 1007))
            .send(tcp("C2:4001", "V1:30000", "S"))
            .send(tcp("C1:4001", "V1:30001", "S"))
            .connections(),
    ));
    all.extend(both(
        named("a control connection that is closed while data flow")
            .send(client("EPSV\r\n", 1001, 5001))
            .send(server("229 ok (|||30000|)\r\n", 5001, 1007))
            .open("C1:4001", "V1:30000")
            .send(tcp("C1:4000", "V1:21", "FA").seq(1007).ack(5021))
            .send(tcp("@C1:4000", "C1:4000", "FA").seq(5021).ack(1008))
            .send(tcp("C1:4000", "V1:21", "A").seq(1008).ack(5022))
            .send(tcp("@C1:4001", "C1:4001", "PA").seq(5001).ack(1001).payload(b"data"))
            .connections()
            .list(Listing::Services),
    ));
    all
}

fn on_port(name: &str, port: u16) -> Case {
    let service = format!("V1:{port}");
    let rules = format!("-A -t {{V1}}:{port} -s rr\n-a -t {{V1}}:{port} -r {{S1}}:{port} -m");
    case(name, &rules).open("C1:4000", &service)
}

/// A case with a control connection.
fn named(name: &str) -> Case {
    case(name, RULES).open("C1:4000", "V1:21")
}

fn client(text: &str, seq: u32, ack: u32) -> dpvs_e2e::wire::Packet {
    tcp("C1:4000", "V1:21", "PA").seq(seq).ack(ack).text(text)
}

fn server(text: &str, seq: u32, ack: u32) -> dpvs_e2e::wire::Packet {
    tcp("@C1:4000", "C1:4000", "PA").seq(seq).ack(ack).text(text)
}

/// A data connection of passive mode to port 30000, until its end.
fn passive(command: &str, reply: &str) -> Case {
    named(&format!("{} and {}", command.trim(), reply.trim()))
        .send(client(command, 1001, 5001))
        .send(server(reply, 5001, 1001 + command.replace("<1|2>", "1").len() as u32))
        .seen()
        .connections()
        .list(Listing::Services)
        .send(tcp("C1:4001", "V1:30000", "S").seq(1000))
        .seen()
        .connections()
        .send(tcp("@C1:4001", "C1:4001", "SA").seq(5000).ack(1001))
        .send(tcp("C1:4001", "V1:30000", "A").seq(1001).ack(5001))
        .seen()
        .connections()
        .close("C1:4001", "V1:30000")
        .seen()
        .connections()
        .list(Listing::Services)
}

/// A data connection of active mode to port 41000, until its end.
fn active(command: &str) -> Case {
    named(&format!("{:?}", command.trim()))
        .send(client(command, 1001, 5001))
        .seen()
        .connections()
        .list(Listing::Services)
        .send(tcp("S1:20", "C1:41000", "S").seq(5000))
        .seen()
        .connections()
        .send(tcp("C1:41000", "V1:20", "SA").seq(1000).ack(5001))
        .send(tcp("S1:20", "C1:41000", "A").seq(5001).ack(1001))
        .seen()
        .connections()
        .send(tcp("S1:20", "C1:41000", "FA").seq(5001).ack(1001))
        .send(tcp("C1:41000", "V1:20", "FA").seq(1001).ack(5002))
        .send(tcp("S1:20", "C1:41000", "A").seq(5002).ack(1002))
        .seen()
        .connections()
        .list(Listing::Services)
}
