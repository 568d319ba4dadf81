//! What checks do.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Digest, Pattern, Payload, StatusRange};

/// What is done, and what is expected. Written as the name of the protocol and its settings, `{ http = { path = "/" } }`, or
/// as the name alone, `"http"`, for the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Opens a TCP connection.
    Tcp(TcpProbe),
    /// Makes a request of HTTP.
    Http(HttpProbe),
    /// Asks a name server.
    Dns(DnsProbe),
    /// Sends a UDP datagram.
    Udp(UdpProbe),
    /// Sends an ICMP echo request.
    Icmp(IcmpProbe),
    /// Greets a mail server.
    Smtp(SmtpProbe),
    /// Asks gRPC's health service (`grpc.health.v1.Health`).
    Grpc(GrpcProbe),
    /// Runs a program.
    External(ExternalProbe),
}

/// [`Probe`] with its settings.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Written {
    /// Opens a TCP connection.
    Tcp(TcpProbe),
    /// Makes a request of HTTP.
    Http(HttpProbe),
    /// Asks a name server.
    Dns(DnsProbe),
    /// Sends a UDP datagram.
    Udp(UdpProbe),
    /// Sends an ICMP echo request.
    Icmp(IcmpProbe),
    /// Greets a mail server.
    Smtp(SmtpProbe),
    /// Asks gRPC's health service (`grpc.health.v1.Health`).
    Grpc(GrpcProbe),
    /// Runs a program.
    External(ExternalProbe),
}

impl From<Written> for Probe {
    fn from(written: Written) -> Self {
        match written {
            Written::Tcp(probe) => Probe::Tcp(probe),
            Written::Http(probe) => Probe::Http(probe),
            Written::Dns(probe) => Probe::Dns(probe),
            Written::Udp(probe) => Probe::Udp(probe),
            Written::Icmp(probe) => Probe::Icmp(probe),
            Written::Smtp(probe) => Probe::Smtp(probe),
            Written::Grpc(probe) => Probe::Grpc(probe),
            Written::External(probe) => Probe::External(probe),
        }
    }
}

/// Probes that need no settings.
const NAMES: [&str; 7] = ["tcp", "http", "dns", "udp", "icmp", "smtp", "grpc"];

impl Probe {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Probe::Tcp(_) => "tcp",
            Probe::Http(_) => "http",
            Probe::Dns(_) => "dns",
            Probe::Udp(_) => "udp",
            Probe::Icmp(_) => "icmp",
            Probe::Smtp(_) => "smtp",
            Probe::Grpc(_) => "grpc",
            Probe::External(_) => "external",
        }
    }

    /// Whether it goes to a port.
    pub fn has_port(&self) -> bool {
        !matches!(self, Probe::Icmp(_) | Probe::External(_))
    }
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Probe;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a probe: its name, e.g. \"tcp\", or its name and settings, e.g. { http = { path = \"/\" } }",
                )
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Probe, E> {
                Ok(match name {
                    "tcp" => Probe::Tcp(TcpProbe::default()),
                    "http" => Probe::Http(HttpProbe::default()),
                    "dns" => Probe::Dns(DnsProbe::default()),
                    "udp" => Probe::Udp(UdpProbe::default()),
                    "icmp" => Probe::Icmp(IcmpProbe::default()),
                    "smtp" => Probe::Smtp(SmtpProbe::default()),
                    "grpc" => Probe::Grpc(GrpcProbe::default()),
                    "external" => return Err(E::custom("a probe of kind external needs a command")),
                    // For serde's own message.
                    _ => Written::deserialize(StrDeserializer::new(name))?.into(),
                })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Probe, A::Error> {
                if map.size_hint().is_some_and(|size| size != 1) {
                    return Err(de::Error::custom("a check has one probe: make each of them a check"));
                }
                Written::deserialize(MapAccessDeserializer::new(map)).map(Probe::from)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Probe {
    fn schema_name() -> Cow<'static, str> {
        "Probe".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let written = Written::json_schema(generator);
        json_schema!({
            "description": "A probe: its name alone, or its name and settings.",
            "anyOf": [{ "enum": NAMES }, written],
        })
    }
}

/// Opens a TCP connection; sends something and waits for an answer, if told to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpProbe {
    /// What is sent; empty: nothing.
    #[serde(skip_serializing_if = "is_nothing")]
    pub send: Payload,
    /// What the server must begin with to say; absent: it need not say anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Pattern>,
    /// Uses TLS; absent: does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// TLS of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Name that the server is told (SNI), and that its certificate must be for; absent: the probe's host, or the
    /// address, which servers are not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Whether the server is told a name.
    pub sni: bool,
    /// Whether the server's certificate must be valid.
    pub verify: bool,
    /// Certificates of the authorities to trust (PEM); absent: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Certificate to show, with those between it and its authority (PEM); goes with `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl Default for Tls {
    /// Valid certificates only, from the system's authorities.
    fn default() -> Self {
        Self { server_name: None, sni: true, verify: true, ca_file: None, certificate_file: None, key_file: None }
    }
}

/// Makes a request of HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpProbe {
    /// The method.
    pub method: HttpMethod,
    /// The path, and a query if need be.
    pub path: String,
    /// Host that is asked for; absent: the address and port that are checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Further headers of the request.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The protocol's version.
    pub version: HttpVersion,
    /// Expected status; empty: 200 to 299.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<StatusRange>,
    /// Regular expression that the body must match somewhere. Of the body, the first MiB counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Regular expression that the body must not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_not: Option<String>,
    /// Digest that the whole body must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Uses TLS; absent: does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Default for HttpProbe {
    /// `GET /` by HTTP/1.1.
    fn default() -> Self {
        Self {
            method: HttpMethod::default(),
            path: "/".to_owned(),
            host: None,
            headers: BTreeMap::new(),
            version: HttpVersion::default(),
            status: Vec::new(),
            body: None,
            body_not: None,
            digest: None,
            tls: None,
        }
    }
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// Asks for the resource.
    #[default]
    Get,
    /// Asks for its headers.
    Head,
    /// Asks what can be done with it.
    Options,
}

impl HttpMethod {
    /// As requests have it.
    pub fn name(self) -> &'static str {
        match self {
            HttpMethod::Get => "GET",
            HttpMethod::Head => "HEAD",
            HttpMethod::Options => "OPTIONS",
        }
    }
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HttpVersion {
    /// HTTP/1.0.
    #[serde(rename = "1.0")]
    Http10,
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "1.1")]
    Http11,
    /// HTTP/2; without TLS, the server must know beforehand.
    #[serde(rename = "2")]
    Http2,
}

/// Asks a name server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DnsProbe {
    /// Name that is asked for.
    pub name: String,
    /// Type of the records that are asked for.
    #[serde(rename = "type")]
    pub record_type: DnsType,
    /// How it is asked.
    pub transport: DnsTransport,
    /// Expected response code.
    pub rcode: DnsRcode,
    /// Data of a record that the answer must have, e.g. `192.0.2.1`; absent: any answer will do, and none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

impl Default for DnsProbe {
    /// The SOA record of the root, as in keepalived.
    fn default() -> Self {
        Self {
            name: ".".to_owned(),
            record_type: DnsType::default(),
            transport: DnsTransport::default(),
            rcode: DnsRcode::default(),
            answer: None,
        }
    }
}

/// A type of DNS records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DnsType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Alias.
    Cname,
    /// Mail exchange.
    Mx,
    /// Name server.
    Ns,
    /// Pointer.
    Ptr,
    /// Start of authority.
    #[default]
    Soa,
    /// Server of a service.
    Srv,
    /// Text.
    Txt,
}

impl DnsType {
    /// As zone files have it.
    pub fn name(self) -> &'static str {
        match self {
            DnsType::A => "A",
            DnsType::Aaaa => "AAAA",
            DnsType::Cname => "CNAME",
            DnsType::Mx => "MX",
            DnsType::Ns => "NS",
            DnsType::Ptr => "PTR",
            DnsType::Soa => "SOA",
            DnsType::Srv => "SRV",
            DnsType::Txt => "TXT",
        }
    }
}

/// How a name server is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DnsTransport {
    /// By UDP.
    #[default]
    Udp,
    /// By TCP.
    Tcp,
}

/// A response code of DNS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DnsRcode {
    /// No error.
    #[default]
    NoError,
    /// The server cannot say.
    ServFail,
    /// There is no such name.
    NxDomain,
    /// The server does not want to.
    Refused,
    /// Any: a server that answers is up.
    Any,
}

/// Sends a UDP datagram. A server that says, by ICMP, that it does not take it has failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UdpProbe {
    /// What is sent; empty: an empty datagram.
    #[serde(skip_serializing_if = "is_nothing")]
    pub send: Payload,
    /// Whether there must be an answer. Without, silence until the timeout is a success.
    pub require_reply: bool,
    /// What the answer must begin with; absent: anything. Needs `require_reply`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Pattern>,
    /// Least bytes of the answer; absent: those of `expect`. An answer may have less than `expect` if this allows it: what is
    /// there counts then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u16>,
    /// Most bytes of the answer; absent: as many as there can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u16>,
}

/// Sends an ICMP echo request and expects the reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IcmpProbe {}

/// Expects a mail server to be ready (220), to take a HELO (250), and to say goodbye (221).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SmtpProbe {
    /// Name that the director calls itself.
    pub helo: String,
}

impl Default for SmtpProbe {
    fn default() -> Self {
        Self { helo: "localhost".to_owned() }
    }
}

/// Asks gRPC's health service, which must say `SERVING`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcProbe {
    /// Service that is asked for; empty: the server as a whole.
    pub service: String,
    /// Authority of the request; absent: the address and port that are checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Uses TLS; absent: does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// Runs a program: exit status 0 is success. It finds `DPVS_ADDRESS` and `DPVS_PORT` in its environment: the server's own, in all
/// modes, unless the check names others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalProbe {
    /// The program, an absolute path, and its arguments. There is no shell in between.
    pub command: Vec<String>,
    /// User that runs it, with the user's groups; absent: the daemon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// An exit status of 2 to 255 is success as well, and makes the server's weight that less 2 (keepalived's
    /// `misc_dynamic`). What several programs make of the weight is added up.
    #[serde(default)]
    pub dynamic: bool,
}

fn is_nothing(payload: &Payload) -> bool {
    payload.0.is_empty()
}
