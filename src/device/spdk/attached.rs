//! Attaching a controller by its name: what it is, whether it may be used, and how a write on it becomes durable.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use forebay_sys::dma::DmaRegion;
use forebay_sys::spdk::{AttachOptions, Controller, Env, EnvMemory, Transport};

use super::{SpdkDevice, WritePath};
use crate::device::controller_name::Name;
use crate::device::flush::FlushFailed;
use crate::device::health;
use crate::device::hugetlbfs;
use crate::device::identity::{DriveId, Identity};
use crate::device::open::OpenOptions;
use crate::device::{BLOCK_BYTES, Geometry, Tier};
use crate::error::{Error, Result};
use crate::types::{DriveDurability, TierChoice};

const HUGEPAGE_BYTES: usize = 2 << 20;
const FREE_HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// What SPDK takes beside the buffers; also with hugepages, where it takes it as it needs it.
const OWN_BYTES: usize = 64 << 20;

/// A controller that is ours, and one namespace of it.
pub struct Attached {
    pub name: String,
    env: Env,
    controller: Arc<Controller>,
    write_path: WritePath,
    flush_failed: FlushFailed,
    deallocates: bool,
    /// Why its memory is not what was asked for.
    memory_note: Option<&'static str>,
}

impl Attached {
    /// Takes the controller that `name` says. Blocks for about a second.
    ///
    /// # Errors
    /// Nobody there, a kernel driver that has it, no memory, a namespace that cannot be used.
    pub fn attach(name: &Name, options: &OpenOptions) -> Result<Attached> {
        if options.tier != TierChoice::Auto {
            return Err(Error::new("a controller is driven by SPDK, and no other tier can reach it")
                .remedy("use --tier auto, or name a block device"));
        }
        let transport = transport(name)?;
        let (memory, memory_note) = memory(options);
        let env = Env::start(&transport, memory).map_err(|error| {
            Error::new(format!("SPDK cannot start: {error}")).remedy(
                "reserve hugepages (`setup/host.sh config --hugepages NODE=COUNT`), or set device.hugepages = false",
            )
        })?;
        let attach = AttachOptions { namespace: name.namespace, timeout: options.command_timeout };
        let controller = Controller::attach(env, &transport, &attach)
            .map_err(|error| Error::new(error.to_string()).remedy(remedy(&transport)))?;
        let identity = controller.identity();
        if identity.block_bytes > BLOCK_BYTES || !BLOCK_BYTES.is_multiple_of(identity.block_bytes) {
            let message =
                format!("the namespace has blocks of {} B; at most {BLOCK_BYTES} B can be used", identity.block_bytes);
            return Err(Error::new(message).remedy("format the namespace with 512 B or 4 KiB blocks"));
        }
        let write_path = match transport {
            _ if options.durability == DriveDurability::Flush => WritePath::ThenFlush,
            _ if !identity.volatile_cache => WritePath::Plain,
            Transport::Pcie { .. } => WritePath::Through,
            Transport::VfioUser { .. } | Transport::Tcp { .. } => WritePath::ThenFlush,
        };
        let flush_failed = FlushFailed::default();
        let deallocates = options.deallocate && identity.dataset_management;
        Ok(Attached { name: name.text.clone(), env, controller, write_path, flush_failed, deallocates, memory_note })
    }

    #[must_use]
    pub fn geometry(&self, operations_max: u32) -> Geometry {
        let identity = self.controller.identity();
        let bytes = identity.blocks.saturating_mul(u64::from(identity.block_bytes));
        Geometry {
            capacity_bytes: bytes - bytes % u64::from(BLOCK_BYTES),
            block_bytes: BLOCK_BYTES,
            operations_max,
            tier: Tier::Spdk,
            deallocate_bytes_max: if self.deallocates { u32::MAX / BLOCK_BYTES * BLOCK_BYTES } else { 0 },
        }
    }

    /// Its name says where it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let found = self.controller.identity();
        Identity { controllers: Vec::new(), drive: DriveId::new(&found.serial, found.namespace) }
    }

    #[must_use]
    pub fn lba_bytes(&self) -> u32 {
        self.controller.identity().block_bytes
    }

    #[must_use]
    pub fn durability(&self) -> String {
        let identity = self.controller.identity();
        let how = match self.write_path {
            WritePath::Plain => "a plain write",
            WritePath::Through => "FUA on the write",
            WritePath::ThenFlush => "write, then flush",
        };
        let cache = if identity.volatile_cache { "a volatile write cache" } else { "no volatile write cache" };
        format!("{how}; {} ({}), namespace {}, has {cache}", identity.model, identity.serial, identity.namespace)
    }

    #[must_use]
    pub fn volatile_cache(&self) -> bool {
        self.controller.identity().volatile_cache
    }

    /// The drive's model, serial number and namespace.
    #[must_use]
    pub fn wwid(&self) -> String {
        let identity = self.controller.identity();
        format!("{} {} {}", identity.model, identity.serial, identity.namespace)
    }

    /// Where the controller is asked of its health.
    #[must_use]
    pub fn health(&self) -> health::Source {
        health::Source::Spdk(Arc::clone(&self.controller))
    }

    /// What is worth knowing, one line each.
    #[must_use]
    pub fn notes(&self, name: &Name) -> Vec<String> {
        let mut notes: Vec<String> = self.memory_note.map(str::to_owned).into_iter().collect();
        if name.is_shared() {
            notes.push("NVMe/TCP: nothing keeps another host away from this namespace".to_owned());
        }
        notes
    }

    /// Memory that the controller can reach.
    ///
    /// # Errors
    /// When SPDK has not so much left.
    pub fn region(&self, bytes: usize) -> io::Result<DmaRegion> {
        DmaRegion::allocate_spdk(self.env, bytes).map_err(|error| {
            io::Error::new(
                error.kind(),
                "SPDK has no more memory; set format.shards to those of the device, or reserve hugepages",
            )
        })
    }

    /// One device for one reactor.
    ///
    /// # Errors
    /// As `SpdkDevice::new`.
    pub fn device(&self, geometry: Geometry) -> io::Result<SpdkDevice> {
        SpdkDevice::new(&self.controller, geometry, self.write_path, &self.flush_failed)
    }
}

fn transport(name: &Name) -> Result<Transport> {
    let address = name.address.clone();
    Ok(match name.kind {
        "pcie" => {
            check_driver(&address)?;
            Transport::Pcie { address }
        }
        "vfio-user" => {
            if !Path::new(&address).join("cntrl").exists() {
                return Err(Error::new("no target listens in this directory")
                    .remedy("start one, or look for its directory: it holds a socket called `cntrl`"));
            }
            Transport::VfioUser { directory: address }
        }
        _ => {
            let (host, port, subsystem) = name.tcp()?;
            Transport::Tcp { host, port, subsystem }
        }
    })
}

/// A drive that the kernel drives is not ours.
fn check_driver(address: &str) -> Result<()> {
    let device = Path::new("/sys/bus/pci/devices").join(address);
    if !device.exists() {
        return Err(Error::new("no such PCI device").remedy("`lspci -D | grep -i nvme` lists the controllers"));
    }
    let driver = std::fs::read_link(device.join("driver")).ok();
    let driver = driver.as_ref().and_then(|link| link.file_name()).map(|name| name.to_string_lossy().into_owned());
    match driver.as_deref() {
        Some("vfio-pci") => check_group(address, &device),
        Some("uio_pci_generic") => Ok(()),
        driver => Err(Error::new(format!(
            "{} has this controller",
            driver.map_or("no driver".to_owned(), |d| format!("the kernel's driver `{d}`"))
        ))
        .remedy(format!(
            "give the whole controller, with all its namespaces, to vfio-pci (`setup/host.sh config --bind {address}`), or \
             name a block device of it"
        ))),
    }
}

/// SPDK does not say whether it may not open the controller's group, or somebody has it.
fn check_group(address: &str, device: &Path) -> Result<()> {
    let Some(group) = std::fs::read_link(device.join("iommu_group")).ok() else { return Ok(()) };
    let Some(group) = group.file_name().map(|number| Path::new("/dev/vfio").join(number)) else { return Ok(()) };
    let Err(error) = File::options().read(true).write(true).open(&group) else { return Ok(()) };
    let group = group.display();
    Err(match error.kind() {
        io::ErrorKind::ResourceBusy => Error::new("another process drives this controller")
            .remedy(format!("stop it (`fuser -v {group}` names it); one process can have a controller")),
        io::ErrorKind::PermissionDenied => Error::new(format!("{group} may not be opened by this user"))
            .remedy(format!("give it the controller: `setup/host.sh config --bind {address} --user NAME`")),
        _ => Error::new(format!("{group}: {error}")).remedy("look for vfio in `dmesg`"),
    })
}

fn remedy(transport: &Transport) -> &'static str {
    match transport {
        Transport::Pcie { .. } => "look at SPDK's lines above; another process may have it, or may not open /dev/vfio",
        Transport::VfioUser { .. } => "look at SPDK's lines above; a target serves one client a directory",
        Transport::Tcp { .. } => "look at SPDK's lines above; check address, port and subsystem",
    }
}

/// Hugepages where there are enough and a place to take them from; and what a person should know who has only the first.
fn memory(options: &OpenOptions) -> (EnvMemory, Option<&'static str>) {
    let ordinary = EnvMemory::Ordinary { bytes: options.buffer_bytes };
    let free = std::fs::read_to_string(FREE_HUGEPAGES).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let needed = options.buffer_bytes.saturating_add(OWN_BYTES).div_ceil(HUGEPAGE_BYTES);
    if !options.hugepages || free.is_none_or(|free| free < needed) {
        return (ordinary, None);
    }
    let no_mount = "no hugepages for SPDK: no hugetlbfs is mounted that this user may write to; \
                    `setup/host.sh config --hugepages NODE=COUNT --user NAME` mounts one";
    match hugetlbfs::mount() {
        Some(directory) => (EnvMemory::Hugepages { directory }, None),
        None => (ordinary, Some(no_mount)),
    }
}
