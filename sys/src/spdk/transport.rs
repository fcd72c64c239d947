//! Where a controller is, in SPDK's words.

use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::ptr;

use super::bindings;

/// How a controller is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A drive on this machine, by its PCI address "0000:00:04.0". It must be bound to vfio-pci or uio_pci_generic.
    Pcie {
        address: String,
    },
    /// A target in another process: the directory in which it listens.
    VfioUser {
        directory: String,
    },
    Tcp {
        host: IpAddr,
        port: u16,
        subsystem: String,
    },
}

impl Transport {
    /// What SPDK parses.
    fn text(&self) -> String {
        match self {
            Transport::Pcie { address } => format!("trtype:PCIe traddr:{address}"),
            Transport::VfioUser { directory } => format!("trtype:VFIOUSER traddr:{directory}"),
            Transport::Tcp { host, port, subsystem } => {
                let family = if host.is_ipv4() { "IPv4" } else { "IPv6" };
                format!("trtype:TCP adrfam:{family} traddr:{host} trsvcid:{port} subnqn:{subsystem}")
            }
        }
    }

    /// # Errors
    /// `InvalidInput` for a blank, a NUL, or more than SPDK takes: 256 B of an address, 223 B of a subsystem's name.
    pub(super) fn id(&self) -> io::Result<bindings::spdk_nvme_transport_id> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        let (Transport::Pcie { address: name }
        | Transport::VfioUser { directory: name }
        | Transport::Tcp { subsystem: name, .. }) = self;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(invalid("an address of a controller is not empty and has no blanks"));
        }
        let text = CString::new(self.text()).map_err(|_| invalid("an address of a controller has no NUL"))?;
        let mut id = bindings::spdk_nvme_transport_id::default();
        // SAFETY: `id` is a whole structure, zeroed as SPDK asks, and `text` a C string; both live through the call.
        match unsafe { bindings::spdk_nvme_transport_id_parse(ptr::from_mut(&mut id), text.as_ptr()) } {
            0 => Ok(id),
            _ => Err(invalid("SPDK does not understand the address; at most 256 B, and 223 B for a subsystem")),
        }
    }
}
