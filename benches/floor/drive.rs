//! What a drive can do by itself: reads and durable writes of 4 KiB, one at a time and 32 in flight, through the same
//! device code as the appliance, with the figure of fio or spdk_nvme_perf beside it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use forebay::buffer::Pool;
use forebay::device::controller_name::Name;
use forebay::device::open::{OpenDevice, OpenOptions, open};
use forebay::device::{BLOCK_BYTES, Device, Operation, OperationKind};
use forebay::error::Error;
use forebay::types::{DeviceAddress, TierChoice};
use forebay_sys::dma::Pages;

/// The part of the drive that is read and written, from its start.
pub const SPAN_BYTES: u64 = 256 << 20;

/// Half the time from the start of an operation to its end is below this, in microseconds; and operations a second.
#[derive(Clone, Copy)]
pub struct Figures {
    pub p50_us: f64,
    pub per_second: f64,
}

pub fn opened(path: &Path, tier: TierChoice) -> Result<OpenDevice, Error> {
    open(path, &OpenOptions { tier, hugepages: false, ..OpenOptions::default() })
}

/// Reads or durable writes, `depth` in flight, for `run`.
pub fn measure(opened: &OpenDevice, kind: OperationKind, depth: usize, run: Duration) -> Result<Figures, Error> {
    let region = opened.region(depth * BLOCK_BYTES as usize, Pages::Ordinary)?;
    let span = region.span();
    let mut device = opened.device(Some(&span))?;
    let mut pool = Pool::new(region, BLOCK_BYTES as usize);
    let blocks = SPAN_BYTES.min(device.geometry().capacity_bytes) / u64::from(BLOCK_BYTES);
    let (mut begun, mut latencies) = (vec![Instant::now(); depth], Vec::with_capacity(1 << 20));
    let (mut free, mut number) = ((0..depth).collect::<Vec<usize>>(), 0_u64);
    let started = Instant::now();
    while started.elapsed() < run || free.len() < depth {
        while let Some(slot) = free.pop_if(|_| started.elapsed() < run) {
            // Every block in turn, far from the one before it: no read finds what a read ahead left there.
            let address = DeviceAddress(number * 7_919 % blocks * u64::from(BLOCK_BYTES));
            let buffer = pool.take().expect("a buffer for each in flight");
            begun[slot] = Instant::now();
            let operation = Operation { tag: slot as u64, kind, address, bytes: BLOCK_BYTES, buffer };
            device.submit(operation).map_err(|_| Error::new("the device takes fewer operations at once"))?;
            number += 1;
        }
        device.kick(true);
        while let Some(completion) = device.poll() {
            completion.result.map_err(|error| Error::new(error.to_string()))?;
            let slot = usize::try_from(completion.operation.tag).expect("a slot's number");
            latencies.push(begun[slot].elapsed());
            free.push(slot);
            pool.give(completion.operation.buffer);
        }
    }
    let per_second = latencies.len() as f64 / started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let p50_us = latencies.get(latencies.len() / 2).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6);
    Ok(Figures { p50_us, per_second })
}

/// What fio finds on the same file or block device and core. None where there is no fio, or it refuses the device.
pub fn fio(path: &Path, kind: OperationKind, depth: usize, core: usize, run: Duration) -> Option<Figures> {
    let reads = kind == OperationKind::Read;
    let (rw, sync) = if reads { ("--rw=randread", "--sync=none") } else { ("--rw=randwrite", "--sync=dsync") };
    let engine = if depth == 1 { "--ioengine=psync" } else { "--ioengine=io_uring" };
    let output = Command::new("fio")
        .args(["--name=floor", rw, sync, engine, "--bs=4k", "--direct=1", "--overwrite=1", "--time_based"])
        .args([format!("--filename={}", path.display()), format!("--size={SPAN_BYTES}")])
        .args([format!("--iodepth={depth}"), format!("--cpus_allowed={core}")])
        .args([format!("--runtime={}ms", run.as_millis()), "--output-format=json".to_owned()])
        .output()
        .ok()?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let job = &json["jobs"][0][if reads { "read" } else { "write" }];
    let p50_us = job["clat_ns"]["percentile"]["50.000000"].as_f64()? / 1e3;
    Some(Figures { p50_us, per_second: job["iops"].as_f64()? })
}

/// What SPDK's own tool finds on a controller; None where FOREBAY_SPDK_PERF does not name it. It does not flush.
pub fn spdk_perf(name: &Name, kind: OperationKind, depth: usize, core: usize) -> Option<Figures> {
    let program = std::env::var_os("FOREBAY_SPDK_PERF")?;
    let transport = match name.kind {
        "pcie" => "PCIe",
        "vfio-user" => "VFIOUSER",
        _ => return None,
    };
    let (address, namespace) = (&name.address, name.namespace.unwrap_or(1));
    let output = Command::new(program)
        .args(["-c", &format!("{:#x}", 1_u64.checked_shl(u32::try_from(core).ok()?)?), "-L", "-o", "4096", "-t", "1"])
        .args(["-w", if kind == OperationKind::Read { "randread" } else { "randwrite" }, "-q", &depth.to_string()])
        .args(["-r", &format!("trtype:{transport} traddr:{address} ns:{namespace}")])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let p50 = text.lines().find(|line| line.trim_start().starts_with("50.00000%"))?;
    let total = text.lines().find(|line| line.starts_with("Total"))?;
    Some(Figures {
        p50_us: p50.rsplit(':').next()?.trim().strip_suffix("us")?.parse().ok()?,
        per_second: total.split(':').nth(1)?.split_whitespace().next()?.parse().ok()?,
    })
}
