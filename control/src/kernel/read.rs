//! Reading the kernel's objects.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::model::{InterfaceAddress, KernelRoute, Link, Neighbour};
use super::netlink::Requests;

impl Requests {
    /// All links by interface index.
    pub async fn links(&mut self) -> io::Result<HashMap<u32, Link>> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.dump(&RouteNetlinkMessage::GetLink(request), |object| match object {
            RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(&message)),
            _ => None,
        })
        .await
    }

    /// The addresses of all interfaces.
    pub async fn addresses(&mut self) -> io::Result<Vec<InterfaceAddress>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(&request, |object| match object {
            RouteNetlinkMessage::NewAddress(message) => InterfaceAddress::from_message(&message),
            _ => None,
        })
        .await
    }

    /// The routes of both families that count.
    pub async fn routes(&mut self) -> io::Result<Vec<KernelRoute>> {
        let mut routes = self.routes_of(AddressFamily::Inet).await?;
        routes.append(&mut self.routes_of(AddressFamily::Inet6).await?);
        Ok(routes)
    }

    async fn routes_of(&mut self, family: AddressFamily) -> io::Result<Vec<KernelRoute>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        self.dump(&RouteNetlinkMessage::GetRoute(request), |object| match object {
            // Where a family is disabled, the kernel answers with the routes of all others.
            RouteNetlinkMessage::NewRoute(m) if m.header.address_family == family => KernelRoute::from_message(&m),
            _ => None,
        })
        .await
    }

    /// The neighbours of all interfaces, by interface index and address.
    pub async fn neighbours(&mut self) -> io::Result<HashMap<(u32, IpAddr), Neighbour>> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.dump(&request, |object| match object {
            RouteNetlinkMessage::NewNeighbour(message) => Neighbour::from_message(&message),
            _ => None,
        })
        .await
    }
}
