//! A comparison with a simple model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The plainest model: a map of services. It knows nothing of slots.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<ServiceId, Service>);

impl Model {
    fn apply(&mut self, operations: &[Operation]) -> Result<(), usize> {
        let mut after = self.clone();
        for (index, operation) in operations.iter().enumerate() {
            after.step(operation).ok_or(index)?;
        }
        *self = after;
        Ok(())
    }

    fn step(&mut self, operation: &Operation) -> Option<()> {
        match operation.clone() {
            Operation::AddService { service } => match self.0.insert(service.id, service) {
                None => Some(()),
                Some(_) => None,
            },
            Operation::EditService { service, settings } => {
                let service = self.0.get_mut(&service)?;
                let sorry = settings.sorry_server.map(|sorry| sorry.address);
                if service.servers.iter().any(|s| Some(s.address) == sorry) {
                    return None;
                }
                service.settings = settings;
                Some(())
            }
            Operation::DeleteService { service } => self.0.remove(&service).map(|_| ()),
            Operation::Clear => {
                self.0.clear();
                Some(())
            }
            Operation::AddServer { service, server } => {
                let service = self.0.get_mut(&service)?;
                let sorry = service.settings.sorry_server.map(|sorry| sorry.address);
                if sorry == Some(server.address) || service.servers.iter().any(|s| s.address == server.address) {
                    return None;
                }
                service.servers.push(server);
                Some(())
            }
            Operation::EditServer { service, server } => {
                let service = self.0.get_mut(&service)?;
                let place = service.servers.iter_mut().find(|s| s.address == server.address)?;
                *place = server;
                Some(())
            }
            Operation::DeleteServer { service, server } => {
                let service = self.0.get_mut(&service)?;
                let before = service.servers.len();
                service.servers.retain(|s| s.address != server);
                (service.servers.len() < before).then_some(())
            }
            Operation::AddLocalAddress { service, local_address, .. } => {
                let service = self.0.get_mut(&service)?;
                if service.local_addresses.contains(&local_address) {
                    return None;
                }
                service.local_addresses.push(local_address);
                Some(())
            }
            Operation::DeleteLocalAddress { service, local_address } => {
                let service = self.0.get_mut(&service)?;
                let before = service.local_addresses.len();
                service.local_addresses.retain(|a| *a != local_address);
                (service.local_addresses.len() < before).then_some(())
            }
            Operation::Zero { service: Some(service) } => self.0.get(&service).map(|_| ()),
            Operation::SetMarks { .. } | Operation::AddMark { .. } | Operation::DeleteMark { .. } => Some(()),
            Operation::Zero { service: None } | Operation::SetTimeouts { .. } | Operation::SetSysctls { .. } => {
                Some(())
            }
        }
    }
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let vip = (0u8..4).prop_map(|i| match i {
        3 => mark(7),
        _ => id(&format!("192.0.2.{}:80", i + 1)),
    });
    let member = (0u8..5, 0u32..3).prop_map(|(i, weight)| Server { weight, ..server(&format!("10.0.0.{}:80", i + 1)) });
    let local = (0u8..3).prop_map(|i| IpAddr::from([10, 1, 0, i + 1]));
    prop_oneof![
        3 => (vip.clone(), proptest::collection::vec(member.clone(), 0..3)).prop_map(|(id, mut servers)| {
            servers.sort_by_key(|s| s.address);
            servers.dedup_by_key(|s| s.address);
            Operation::AddService { service: Service { id, servers, ..service(VIP, &[]) } }
        }),
        3 => (vip.clone(), 1u32..4, proptest::option::of(member.clone())).prop_map(|(service, timeout, sorry)| {
            let sorry_server = sorry.map(|s| SorryServer { address: s.address, mode: s.mode });
            let settings = ServiceSettings { timeout: Some(timeout), sorry_server, ..ServiceSettings::default() };
            Operation::EditService { service, settings }
        }),
        2 => vip.clone().prop_map(|service| Operation::DeleteService { service }),
        1 => Just(Operation::Clear),
        4 => (vip.clone(), member.clone())
            .prop_map(|(service, server)| Operation::AddServer { service, server }),
        2 => (vip.clone(), member.clone())
            .prop_map(|(service, server)| Operation::EditServer { service, server }),
        4 => (vip.clone(), member)
            .prop_map(|(service, s)| Operation::DeleteServer { service, server: s.address }),
        1 => (vip.clone(), local.clone()).prop_map(|(service, local_address)| {
            Operation::AddLocalAddress { service, local_address, interface: None }
        }),
        1 => (vip.clone(), local).prop_map(|(service, local_address)| {
            Operation::DeleteLocalAddress { service, local_address }
        }),
        1 => proptest::option::of(vip)
            .prop_map(|service| Operation::Zero { service }),
    ]
}

/// A batch and the bits of the slots that have connections left while it is applied.
fn any_batches() -> impl Strategy<Value = Vec<(Vec<Operation>, u32)>> {
    proptest::collection::vec((proptest::collection::vec(any_operation(), 1..5), any::<u32>()), 1..30)
}

proptest! {
    /// Whatever is done, the registry holds what the model holds and fails where the model fails; live and trashed slots
    /// never coincide; a slot with connections left is only ever given to the server that had it.
    #[test]
    fn behaves_like_the_model(batches in any_batches()) {
        // Room for every server there can be, live or in the trash: 4 services x 5 servers.
        let mut registry = Registry::new(4, 20);
        let mut model = Model::default();
        let mut owners: HashMap<ServerSlot, (ServiceId, SocketAddr)> = HashMap::new();
        let mut versions: HashMap<ServiceId, (u64, Service, ServiceSlot)> = HashMap::new();
        for (operations, busy_bits) in batches {
            let is_busy = |slot: ServerSlot| busy_bits & (1 << slot.0) != 0;
            for change in registry.sweep(&is_busy) {
                let Change::ServerFreed(slot) = change else { panic!("{change:?}") };
                prop_assert!(!is_busy(slot));
                prop_assert!(owners.remove(&slot).is_some());
            }
            let before = configuration(&registry);
            let expected = model.apply(&operations);
            match (registry.apply(&operations, &is_busy), expected) {
                (Ok(changes), Ok(())) => prop_assert!(changes.iter().all(|c| !matches!(c, Change::ServerFreed(_)))),
                (Err(error), Err(index)) => {
                    prop_assert!(error.path.as_deref().unwrap_or("").starts_with(&format!("[{index}]")), "{error}");
                    prop_assert_eq!(&configuration(&registry), &before);
                }
                (got, expected) => prop_assert!(false, "registry {got:?}, model {expected:?}"),
            }
            prop_assert_eq!(&configuration(&registry), &model.0.values().cloned().collect::<Vec<_>>());

            let mut live = HashMap::new();
            for (id, entry) in registry.services() {
                for member in entry.servers().iter().chain(entry.sorry()) {
                    let owner = (id, member.server.address);
                    prop_assert_eq!(live.insert(member.slot, owner), None);
                    prop_assert!(registry.table().is_live(member.slot));
                    if let Some(former) = owners.get(&member.slot) {
                        prop_assert_eq!(*former, owner, "a slot that was not freed changed hands");
                    }
                }
                // The same version means the same content, for ever.
                let compiled = &entry.compiled;
                prop_assert_eq!(compiled.servers.len(), entry.servers().len());
                prop_assert_eq!(compiled.sorry.map(|s| s.id), entry.sorry().map(|s| s.slot));
                let now = (compiled.version, entry.service(id), entry.slot());
                if let Some(then) = versions.insert(id, now.clone())
                    && then.0 == now.0
                {
                    prop_assert_eq!(then, now);
                }
            }
            for ((id, address), trashed) in &registry.trash {
                prop_assert_eq!(live.insert(trashed.slot, (*id, *address)), None);
                prop_assert!(!registry.table().is_live(trashed.slot));
            }
            prop_assert_eq!(live.len() + registry.server_slots.available(), 20);
            owners.extend(live);
            prop_assert_eq!(registry.table().iter().count(), registry.services().len());
        }
        registry.apply(&[Operation::Clear], &busy).unwrap();
        registry.sweep(&idle);
        prop_assert_eq!((registry.server_slots.available(), registry.service_slots.available()), (20, 4));
    }
}
