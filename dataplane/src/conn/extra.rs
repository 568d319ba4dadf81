//! What few connections need beyond their entry.

use arrayvec::ArrayVec;

use super::{ConnId, FarEnd, Sequence};
use crate::client_address::ProxyHeader;
use crate::directory::Ticket;
use crate::helper::Ftp;

/// What a connection has that carries the flag [`EXTRA`](super::ConnFlags::EXTRA).
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// How its data were lengthened and shortened on the way.
    pub sequence: Sequence,
    /// The PROXY header that it begins with.
    pub proxy: Option<ProxyHeader>,
    /// It is a control connection of FTP.
    pub ftp: Option<Ftp>,
    /// How many connections it controls: it does not end as long as there are any.
    pub controls: u32,
    /// Tells it from other controllers that had its place before.
    pub number: u32,
    /// Another connection announced this one.
    pub announced: Option<Announced>,
    /// Its server is of the other IP version. The table sets it.
    pub far: Option<FarEnd>,
}

/// What a connection that was announced by another leaves behind when it ends.
#[derive(Clone, Debug)]
pub struct Announced {
    /// The connection that controls this one, and its number.
    pub controller: (ConnId, u32),
    /// The tuples by which other workers know whose it is.
    pub tickets: ArrayVec<Ticket, 2>,
    /// Its first packet has not come, and one of its ports is unknown.
    pub is_open: bool,
}

/// The extras of a table's connections, each found by the connection's place: there can be one for every connection.
///
/// The memory is reserved by [`new`](Self::new) but, other than that of the table itself, untouched until it is needed:
/// the system gives it page by page. An extra that was given back is the first to be used again.
#[derive(Debug)]
pub(super) struct Extras {
    /// By [`ConnId`]: the place in `entries`, plus one; 0 for none.
    places: Vec<u32>,
    /// Grows to the capacity of the table, for which it has room from the start.
    entries: Vec<Extra>,
    /// Places in `entries` that are free; has room for all.
    free: Vec<u32>,
    /// What announced connections that ended have left behind; has room for all.
    ended: Vec<Announced>,
}

impl Extras {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            places: vec![0; capacity],
            entries: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            ended: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Extra> {
        let place = self.places[id.0 as usize].checked_sub(1)?;
        self.entries.get(place as usize)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Extra> {
        let place = self.places[id.0 as usize].checked_sub(1)?;
        self.entries.get_mut(place as usize)
    }

    /// The connection's extra, a new one if it has none.
    pub(super) fn get_or_add(&mut self, id: ConnId) -> &mut Extra {
        let place = &mut self.places[id.0 as usize];
        if *place == 0 {
            *place = match self.free.pop() {
                Some(free) => free + 1,
                None => {
                    // There is room: no more are in use than there are connections.
                    self.entries.push(Extra::default());
                    self.entries.len() as u32
                }
            };
        }
        &mut self.entries[*place as usize - 1]
    }

    /// Gives back the connection's extra, if it has one.
    pub(super) fn remove(&mut self, id: ConnId) {
        if let Some(place) = std::mem::take(&mut self.places[id.0 as usize]).checked_sub(1) {
            let extra = std::mem::take(&mut self.entries[place as usize]);
            if let Some(announced) = extra.announced
                && self.ended.len() < self.ended.capacity()
            {
                self.ended.push(announced);
            }
            self.free.push(place);
        }
    }

    /// What an announced connection that ended has left behind.
    pub(super) fn pop_ended(&mut self) -> Option<Announced> {
        self.ended.pop()
    }

    /// How many are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
