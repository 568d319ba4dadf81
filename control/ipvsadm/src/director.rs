//! What ipvsadm needs of dpvsd.

use dpvs_api::{Connection, Operation, ServiceId, ServiceStatus, Timeouts};
use dpvs_client::{Client, ClientError};

/// Connections one by one, as they arrive.
pub type Connections<'a> = Box<dyn Iterator<Item = Result<Connection, ClientError>> + 'a>;

/// The daemon, or a model of it in tests.
pub trait Director {
    /// Connections that its tables can hold.
    fn table_capacity(&self) -> Result<u64, ClientError>;
    /// All services.
    fn services(&self) -> Result<Vec<ServiceStatus>, ClientError>;
    /// One service.
    fn service(&self, id: ServiceId) -> Result<ServiceStatus, ClientError>;
    /// Connection timeouts.
    fn timeouts(&self) -> Result<Timeouts, ClientError>;
    /// All connections.
    fn connections(&self) -> Connections<'_>;
    /// Applies the operations whole or not at all.
    fn apply(&self, operations: &[Operation]) -> Result<(), ClientError>;
}

impl Director for Client {
    fn table_capacity(&self) -> Result<u64, ClientError> {
        self.status().map(|status| status.table_capacity)
    }

    fn services(&self) -> Result<Vec<ServiceStatus>, ClientError> {
        Client::services(self)
    }

    fn service(&self, id: ServiceId) -> Result<ServiceStatus, ClientError> {
        Client::service(self, id)
    }

    fn timeouts(&self) -> Result<Timeouts, ClientError> {
        Client::timeouts(self)
    }

    fn connections(&self) -> Connections<'_> {
        Box::new(Client::connections(self))
    }

    fn apply(&self, operations: &[Operation]) -> Result<(), ClientError> {
        Client::apply(self, operations)
    }
}
