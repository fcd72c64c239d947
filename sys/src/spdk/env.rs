//! SPDK in this process: started once, with the memory that devices may read and write.

use std::ffi::{CString, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{Transport, bindings};
use crate::dma::{BUFFER_ALIGN_BYTES, PageKind};

/// What SPDK's own queues and requests need beside the buffers, with several queue pairs.
const OWN_BYTES: usize = 64 << 20;

/// Errors alone: SPDK's and DPDK's notices would stand in the output of every command.
const DPDK_OPTIONS: &std::ffi::CStr = c"--log-level=lib.eal:4";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvMemory {
    /// 2 MiB hugepages, taken as they are needed, by files in this directory: a hugetlbfs that this user may write to.
    Hugepages { directory: PathBuf },
    /// 4 KiB pages, taken at once: so many bytes for buffers, and 64 MiB for SPDK.
    Ordinary { bytes: usize },
}

/// The proof that SPDK was started.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    pages: PageKind,
}

struct Started {
    env: Env,
    /// The one PCI device that DPDK was told of.
    pcie: Option<String>,
}

static STARTED: Mutex<Option<Started>> = Mutex::new(None);

impl Env {
    /// Starts SPDK for `transport`, or returns what was started before. Blocks for 0.2 s. The calling thread keeps its
    /// cores; one more thread, for interrupts, lives until the process ends.
    ///
    /// # Errors
    /// No memory of the kind that was asked for; a second PCI device, which SPDK cannot be told of later.
    pub fn start(transport: &Transport, memory: EnvMemory) -> io::Result<Env> {
        let pcie = match transport {
            Transport::Pcie { address } => Some(address.clone()),
            Transport::VfioUser { .. } | Transport::Tcp { .. } => None,
        };
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(started) = &*started {
            if pcie.is_some() && pcie != started.pcie {
                return Err(io::Error::other("SPDK was started without this PCI device; one to a process"));
            }
            return Ok(started.env);
        }
        let cores = sched_getaffinity(None)?;
        let begun = start(transport, &memory, &cores);
        // DPDK pins the thread that starts it.
        sched_setaffinity(None, &cores)?;
        begun?;
        let pages = match memory {
            EnvMemory::Hugepages { .. } => PageKind::Huge2MiB,
            EnvMemory::Ordinary { .. } => PageKind::Ordinary,
        };
        let env = Env { pages };
        *started = Some(Started { env, pcie });
        Ok(env)
    }

    #[must_use]
    pub fn page_kind(&self) -> PageKind {
        self.pages
    }

    /// Zeroed memory that devices can reach.
    pub(crate) fn allocate(self, bytes: usize) -> Option<NonNull<u8>> {
        let flags = bindings::SPDK_MALLOC_DMA;
        let any_node = bindings::SPDK_ENV_NUMA_ID_ANY;
        // SAFETY: SPDK was started, which `self` proves; the third argument must be null.
        let address = unsafe { bindings::spdk_zmalloc(bytes, BUFFER_ALIGN_BYTES, ptr::null_mut(), any_node, flags) };
        NonNull::new(address.cast())
    }

    /// # Safety
    /// `address` came from `allocate`, is given back once, and nothing uses it from now on.
    pub(crate) unsafe fn free(self, address: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { bindings::spdk_free(address.as_ptr().cast()) };
    }
}

fn start(transport: &Transport, memory: &EnvMemory, cores: &CpuSet) -> io::Result<()> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    // SAFETY: sets a level.
    unsafe { bindings::spdk_log_set_print_level(bindings::spdk_log_level_SPDK_LOG_ERROR) };
    let core = (0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core)).ok_or_else(|| invalid("no core to run on"))?;
    let core = CString::new(format!("[{core}]"))?;
    let mut pcie = bindings::spdk_pci_addr::default();
    let mut options = bindings::spdk_env_opts { opts_size: size_of::<bindings::spdk_env_opts>(), ..Default::default() };
    // SAFETY: a whole structure that says its size.
    unsafe { bindings::spdk_env_opts_init(ptr::from_mut(&mut options)) };
    options.name = c"forebay".as_ptr();
    options.core_mask = core.as_ptr();
    options.env_context = DPDK_OPTIONS.as_ptr().cast_mut().cast();
    match transport {
        Transport::Pcie { address } => {
            let text = CString::new(address.as_str())?;
            // SAFETY: a whole structure and a C string; both live through the call.
            if unsafe { bindings::spdk_pci_addr_parse(ptr::from_mut(&mut pcie), text.as_ptr()) } != 0 {
                return Err(invalid("not a PCI address like 0000:00:04.0"));
            }
            // No other device is touched.
            options.pci_allowed = ptr::from_mut(&mut pcie);
            options.num_pci_addr = 1;
        }
        Transport::VfioUser { .. } | Transport::Tcp { .. } => options.no_pci = true,
    }
    // Lives until SPDK has started.
    let hugepages;
    match memory {
        EnvMemory::Hugepages { directory } => {
            hugepages = CString::new(directory.as_os_str().as_bytes())?;
            options.hugedir = hugepages.as_ptr();
            // A vfio-user target maps our memory by its descriptors, and takes few of them.
            options.hugepage_single_segments = matches!(transport, Transport::VfioUser { .. });
        }
        EnvMemory::Ordinary { bytes } => {
            let mib = bytes.saturating_add(OWN_BYTES).div_ceil(1 << 20);
            options.no_huge = true;
            options.mem_size = c_int::try_from(mib).map_err(|_| invalid("more than 2 PiB of memory for SPDK"))?;
        }
    }
    // SAFETY: SPDK was not started before (the caller holds the lock and has looked), and copies what the options name.
    match unsafe { bindings::spdk_env_init(ptr::from_ref(&options)) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
    }
}
