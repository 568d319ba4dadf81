//! Rules as `ipvsadm -S` writes them and `ipvsadm -R` reads them.

use std::path::Path;
use std::rc::Rc;

use dpvs_api::{Operation, Service, ServiceId};
use dpvs_ipvsadm::SystemNames;

use crate::output::Output;
use crate::{Imported, Place, Report};

/// Translates the output of `ipvsadm -S`, with names or numbers, DPVS's options included.
pub fn ipvsadm(file: &Path, text: &str) -> Imported {
    let file: Rc<Path> = file.into();
    let (mut output, mut report) = (Output::default(), Report::default());
    for line in dpvs_ipvsadm::rules(text, &SystemNames::default()) {
        let place = Place { file: Rc::clone(&file), line: line.number };
        let result = line.operation.and_then(|operation| apply(&mut output, operation));
        if let Err(message) = result {
            report.warn(&place, message.trim().replace('\n', "; "));
        }
    }
    output.finish(report)
}

fn apply(output: &mut Output, operation: Operation) -> Result<(), String> {
    match operation {
        Operation::AddService { service } => {
            if output.services.iter().any(|other| other.id == service.id) {
                return Err(format!("service {} is there already", service.id));
            }
            output.services.push(service);
        }
        Operation::AddServer { service, server } => {
            let service = find(output, service)?;
            if service.servers.iter().any(|other| other.address == server.address) {
                return Err(format!("server {} is there already", server.address));
            }
            service.servers.push(server);
        }
        Operation::AddLocalAddress { service, local_address, interface } => {
            let service = find(output, service)?;
            if !service.local_addresses.contains(&local_address) {
                service.local_addresses.push(local_address);
            }
            if let Some(interface) = interface {
                return Err(format!(
                    "interface {interface} of local address {local_address} is left out: dpvsd gives the address to the port \
                     that leads to the servers, unless a port has it in 'addresses'"
                ));
            }
        }
        Operation::SetTimeouts { timeouts } => output.timeouts = Some(timeouts),
        Operation::Clear => *output = Output::default(),
        _ => return Err("this changes rules that there are already: give the output of 'ipvsadm -S'".to_owned()),
    }
    Ok(())
}

fn find(output: &mut Output, id: ServiceId) -> Result<&mut Service, String> {
    let service = output.services.iter_mut().find(|service| service.id == id);
    service.ok_or_else(|| format!("service {id} has not been added before"))
}
