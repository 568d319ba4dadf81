//! EAL refuses its arguments: the error says why, on one line.

use dpdk::{Eal, Error};

#[test]
fn unknown_argument_is_named_in_the_error() {
    let error = Eal::init(["dpvsd", "--no-huge", "--no-pci", "--no-shconf", "--nonsense"]).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("--nonsense") && !message.contains('\n'), "{message}");
    assert!(matches!(error, Error::Eal { .. }));
    // DPDK cannot be relied on to start after a failure.
    assert!(matches!(Eal::init(["dpvsd"]), Err(Error::AlreadyInitialised)));
}
