//! Events for people.

use dpvs_api::{Change, Event, EventKind};

/// `2026-11-27 01:02:03.456Z  a.7  edit-server tcp/192.0.2.1:80 10.0.0.1:80, by user 0, process 7`.
pub(crate) fn line(event: &Event) -> String {
    format!("{}  {}  {}", time(event.time_ms), event.id, what(&event.what))
}

fn what(what: &EventKind) -> String {
    let up = |up: bool| if up { "up" } else { "down" };
    match what {
        EventKind::Configuration { by, changes, omitted, .. } => {
            let mut changes: Vec<String> = changes.iter().map(Change::to_string).collect();
            if *omitted > 0 {
                changes.push(format!("and {omitted} more"));
            }
            format!("{}, by {by}", changes.join(", "))
        }
        EventKind::ServerHealth { service, server, up: is_up, reason } => {
            let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            format!("server {server} of {service} is {}{reason}", up(*is_up))
        }
        EventKind::WorkerStalled { worker } => format!("worker {worker} takes no turns"),
        EventKind::WorkerResumed { worker } => format!("worker {worker} takes turns again"),
        EventKind::WorkerFailed { worker } => format!("worker {worker} failed, dpvsd ends"),
        EventKind::DropsBegan { reason, per_second } => format!("{per_second} packets a second are dropped: {reason}"),
        EventKind::DropsEnded { reason, packets } => {
            format!("no longer are many packets dropped: {reason}, {packets} since they began")
        }
        EventKind::Link { port, up: is_up } => format!("port {port}: link is {}", up(*is_up)),
        EventKind::Draining => "draining: new connections are refused".to_owned(),
        EventKind::Missed => "events are missing here".to_owned(),
    }
}

/// UTC.
fn time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}Z", milliseconds % 1000)
}

/// Year, month and day of a day since 1970-01-01. Years are counted from March, so that the leap day is the last of its year;
/// 400 of them have 146,097 days.
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468; // Since 0000-03-01.
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March on have 31, 30, 31, 30, 31 days over and over, 153 in all.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, (month + 2) % 12 + 1);
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use dpvs_api::Author;

    use super::*;

    #[test]
    fn times() {
        for (milliseconds, expected) in [
            (0, "1970-01-01 00:00:00.000Z"),
            (951_782_399_999, "2000-02-28 23:59:59.999Z"),
            (951_782_400_000, "2000-02-29 00:00:00.000Z"),
            (951_868_800_001, "2000-03-01 00:00:00.001Z"),
            (1_798_761_599_000, "2026-12-31 23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000Z"),
        ] {
            assert_eq!(time(milliseconds), expected);
        }
    }

    #[test]
    fn lines() {
        let operations: Vec<dpvs_api::Operation> = serde_json::from_str(
            r#"[{"op":"delete-server","service":"tcp/192.0.2.1:80","server":"10.0.0.1:80"},{"op":"clear"}]"#,
        )
        .unwrap();
        let by = Author::User { uid: 0, pid: Some(7) };
        let event = Event {
            id: "a.1".to_owned(),
            time_ms: 0,
            what: EventKind::configuration("a.2".to_owned(), by, &operations),
        };
        let expected =
            "1970-01-01 00:00:00.000Z  a.1  delete-server tcp/192.0.2.1:80 10.0.0.1:80, clear, by user 0, process 7";
        assert_eq!(line(&event), expected);
        let (server, service) = ("10.0.0.1:80".parse().unwrap(), "fwmark/7".parse().unwrap());
        let down = EventKind::ServerHealth { service, server, up: false, reason: Some("refused".to_owned()) };
        assert_eq!(what(&down), "server 10.0.0.1:80 of fwmark/7 is down: refused");
    }
}
