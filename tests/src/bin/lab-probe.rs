//! A station on the lab's switch that is played by the program which started it.
//!
//! Usage: `lab-probe TAP...`. Frames go between TAP devices and the standard streams, each as the number of its device
//! (one byte, from 0), its length (two bytes, most significant first) and its bytes. It ends with its standard input.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        bail!("usage: lab-probe TAP...");
    }
    let mut devices = Vec::new();
    for (number, name) in (0..).zip(&names) {
        let device = DeviceBuilder::new().name(name).layer(Layer::L2).inherit_enable_state().build_sync();
        let device = Arc::new(device.with_context(|| format!("cannot open TAP device {name}"))?);
        devices.push(Arc::clone(&device));
        thread::spawn(move || {
            if let Err(error) = receive(number, &device) {
                eprintln!("lab-probe: {error:#}");
                std::process::exit(1);
            }
        });
    }
    let mut stdin = io::stdin().lock();
    loop {
        let mut head = [0; 3];
        match stdin.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let [number, high, low] = head;
        let mut frame = vec![0; u16::from_be_bytes([high, low]).into()];
        stdin.read_exact(&mut frame)?;
        let device = devices.get(usize::from(number)).with_context(|| format!("no device {number}"))?;
        device.send(&frame).context("TAP device")?;
    }
}

/// Writes what arrives on a device to the standard output, a frame at a time.
fn receive(number: u8, device: &SyncDevice) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        let length = device.recv(&mut buffer[3..]).context("TAP device")?;
        let [high, low] = u16::try_from(length)?.to_be_bytes();
        buffer[..3].copy_from_slice(&[number, high, low]);
        let mut stdout = io::stdout().lock();
        stdout.write_all(&buffer[..3 + length])?;
        stdout.flush()?;
    }
}
