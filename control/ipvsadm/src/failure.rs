//! What goes wrong, with the texts and exit statuses that scripts know.

use dpvs_api::{ApiError, ErrorKind, Operation, Scheduler};
use dpvs_client::ClientError;

/// Exit status of a command line that makes no sense.
pub(crate) const USAGE: u8 = 2;
/// Exit status of an operation that was refused (-1, as the real one returns it).
pub(crate) const REFUSED: u8 = 255;
/// Exit status of a listing that failed.
pub(crate) const LISTING: u8 = 1;

/// Why there is no result: lines for standard error, without the last newline, and the exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub status: u8,
    pub message: String,
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: USAGE, message: message.into() }
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self { status: REFUSED, message: message.into() }
    }

    /// Something that ipvsadm's grammar has and dpvsd has not.
    pub fn unsupported(what: &str) -> Self {
        Self::refused(format!("dpvsd does not support {what} yet"))
    }

    /// A scheduler that is not there, in the words the real one uses when the kernel lacks the module.
    pub fn no_scheduler(name: &str) -> Self {
        let have = Scheduler::ALL.map(Scheduler::name).join(", ");
        Self::refused(format!(
            "Scheduler or persistence engine not found\ndpvsd: '{name}' is not among its schedulers: {have}"
        ))
    }

    /// A persistence engine that is not there, in the same words.
    pub fn no_engine(name: &str) -> Self {
        Self::refused(format!(
            "Scheduler or persistence engine not found\ndpvsd: '{name}' is no persistence engine of its: there is sip"
        ))
    }

    /// A listing that the daemon refused or could not be asked for.
    pub fn listing(error: ClientError) -> Self {
        match error {
            ClientError::Api(error) if error.kind == ErrorKind::NotFound => {
                Self { status: LISTING, message: "No such service".into() }
            }
            ClientError::Api(error) => Self { status: LISTING, ..Self::general(error.into()) },
            error => Self::general(error),
        }
    }

    /// An operation that the daemon refused or could not be asked for.
    pub fn operation(error: ClientError, operation: &Operation) -> Self {
        match error {
            ClientError::Api(error) => Self::refused(words(&error, operation)),
            error => Self::general(error),
        }
    }

    /// An error that is not about a particular operation. No daemon is to ipvsadm what no IPVS in the kernel is to the
    /// real one, which ends with the status of a usage error then.
    fn general(error: ClientError) -> Self {
        match error {
            ClientError::Api(error) if error.kind == ErrorKind::Forbidden => {
                Self::refused(format!("Permission denied (you must be root)\ndpvsd: {}", error.message))
            }
            ClientError::Api(error) => Self::refused(format!("dpvsd: {}", error.message)),
            error => Self::usage(error.to_string()),
        }
    }

    /// The same failure, in a given line of the input of `-R`.
    pub fn in_line(self, number: usize) -> Self {
        Self { message: format!("line {number}: {}", self.message), ..self }
    }
}

/// The index of the operation that an error of a batch is about: `[3]` at the start of its path.
pub(crate) fn index_of(error: &ApiError) -> Option<usize> {
    let (index, _) = error.path.as_deref()?.strip_prefix('[')?.split_once(']')?;
    index.parse().ok()
}

/// The text that the real ipvsadm has for an error, else the daemon's own.
fn words(error: &ApiError, operation: &Operation) -> String {
    use Operation as Op;
    // The path without the operation's index tells which part of the operation is meant.
    let path = error.path.as_deref().unwrap_or_default();
    let part = path.split_once(']').map_or(path, |(_, part)| part.trim_start_matches('.'));
    let about_service = part == "address" || part == "service";
    match (error.kind, operation) {
        (ErrorKind::Exists, Op::AddService { .. }) => "Service already exists".into(),
        (ErrorKind::Exists, Op::AddServer { .. }) => "Destination already exists".into(),
        (ErrorKind::NotFound, Op::EditService { .. } | Op::DeleteService { .. } | Op::Zero { .. }) => {
            "No such service".into()
        }
        (ErrorKind::NotFound, Op::AddServer { .. }) => "Service not defined".into(),
        (ErrorKind::NotFound, Op::EditServer { .. } | Op::DeleteServer { .. }) if about_service => {
            "Service not defined".into()
        }
        (ErrorKind::NotFound, Op::EditServer { .. } | Op::DeleteServer { .. }) => "No such destination".into(),
        (ErrorKind::NotFound, Op::AddLocalAddress { .. } | Op::DeleteLocalAddress { .. }) if about_service => {
            "Service not defined".into()
        }
        (ErrorKind::Forbidden, _) => format!("Permission denied (you must be root)\ndpvsd: {}", error.message),
        (ErrorKind::Invalid, _) if part.ends_with("lower_threshold") => {
            format!("Numerical result out of range\ndpvsd: {}", error.message)
        }
        (ErrorKind::Invalid, _) if part == "server.address" => {
            let words = "Invalid operation.  Possibly wrong module version, address not unicast, ...";
            format!("{words}\ndpvsd: {}", error.message)
        }
        _ => format!("dpvsd: {}", error.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_daemon_has_a_status_of_its_own() {
        let gone = || ClientError::Timeout("s".into());
        assert_eq!(Failure::listing(gone()).status, USAGE);
        assert_eq!(Failure::operation(gone(), &Operation::Clear).status, USAGE);
        let forbidden = || ApiError { kind: ErrorKind::Forbidden, message: "no".into(), path: None };
        let message = "Permission denied (you must be root)\ndpvsd: no".to_owned();
        assert_eq!(Failure::listing(forbidden().into()), Failure { status: LISTING, message: message.clone() });
        assert_eq!(Failure::operation(forbidden().into(), &Operation::Clear), Failure { status: REFUSED, message });
    }

    #[test]
    fn the_path_names_the_operation() {
        let error = |path: Option<&str>| ApiError {
            kind: ErrorKind::Invalid,
            message: String::new(),
            path: path.map(str::to_owned),
        };
        assert_eq!(index_of(&error(Some("[12].server.weight"))), Some(12));
        assert_eq!(index_of(&error(Some("weight"))), None);
        assert_eq!(index_of(&error(None)), None);
    }
}
