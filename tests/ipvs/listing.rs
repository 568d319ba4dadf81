//! A case's part of a listing, and what in it need not be equal.

use std::net::{IpAddr, SocketAddr};

use crate::case::{Listing, Place};

/// The lines that are about the case with this number, with the heading.
pub fn part(listing: Listing, text: &str, number: u16) -> String {
    let mut lines = Vec::new();
    let mut in_block = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let heading = ["IP Virtual", "Prot ", "  -> RemoteAddress", "IPVS connection", "pro expire"];
        let mine = match listing {
            _ if heading.iter().any(|start| line.starts_with(start)) => true,
            Listing::Connections | Listing::Persistent | Listing::Rules => is_about(line, number),
            _ => {
                // A service, and its servers below.
                if !line.starts_with(' ') {
                    in_block = is_about(line, number);
                }
                in_block
            }
        };
        if mine {
            lines.push(line);
        }
    }
    if matches!(listing, Listing::Connections | Listing::Persistent) {
        // In the order of a hash table.
        lines.sort_unstable();
    }
    lines.into_iter().map(|line| normalised(line) + "\n").collect()
}

fn is_about(line: &str, number: u16) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let marks = words.windows(2).filter(|pair| ["FWM", "-f"].contains(&pair[0]));
    let mark = marks.filter_map(|pair| pair[1].parse().ok()).find_map(Place::owner_of_mark);
    let owners = words.iter().filter_map(|word| address(word)).find_map(Place::owner);
    owners.or(mark) == Some(number)
}

fn address(word: &str) -> Option<IpAddr> {
    let socket = word.parse::<SocketAddr>().map(|socket| socket.ip());
    socket.or_else(|_| word.trim_matches(['[', ']']).parse()).ok()
}

/// Without the size of the connection table, which is a matter of configuration.
fn normalised(line: &str) -> String {
    match line.split_once("(size=") {
        Some((start, _)) => format!("{start}(size=N)"),
        None => line.trim_end().to_owned(),
    }
}
