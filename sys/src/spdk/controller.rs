//! One controller: attached whole, told of its end by a thread that polls its admin queue.

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bindings::{self, spdk_nvme_ctrlr, spdk_nvme_ns, spdk_nvme_qpair};
use super::{Env, Transport};

/// How often the admin queue is polled. A target over TCP hangs up after 10 s without a keep-alive, which this sends.
const ADMIN_INTERVAL: Duration = Duration::from_millis(100);

const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// Offsets in the controller's identify data (NVM Express Base Specification 2.0, figure 275).
type IdentifyData = [u8; 4096];
const SERIAL: std::ops::Range<usize> = 4..24;
const MODEL: std::ops::Range<usize> = 24..64;
/// ONCS; its bit 2 is Dataset Management.
const OPTIONAL_COMMANDS: usize = 520;
const VOLATILE_CACHE: usize = 525;
const ATOMIC_POWER_FAIL: usize = 528;

#[derive(Clone, Copy, Debug)]
pub struct AttachOptions {
    /// None: the only one there is.
    pub namespace: Option<u32>,
    /// A command that takes longer means that the controller is gone.
    pub timeout: Duration,
}

/// What the controller says of itself and of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub serial: String,
    pub model: String,
    pub namespace: u32,
    pub block_bytes: u32,
    pub blocks: u64,
    /// There is a volatile write cache (VWC): a write that ended is not yet durable.
    pub volatile_cache: bool,
    /// It takes Dataset Management (ONCS), and so can be told what carries nothing.
    pub dataset_management: bool,
    /// The most that one command transfers (MDTS). SPDK splits what is larger.
    pub transfer_bytes_max: u32,
    /// A power cut tears no write of up to so many blocks (AWUPF).
    pub power_fail_atomic_blocks: u32,
}

/// Shared by the controller, its admin thread and SPDK's timeout callback.
#[derive(Default)]
struct Flags {
    /// A command timed out, or the admin queue broke.
    lost: AtomicBool,
    stop: AtomicBool,
}

/// SPDK's handles, which any thread may use where SPDK says so.
#[derive(Clone, Copy)]
struct Handles {
    controller: NonNull<spdk_nvme_ctrlr>,
    namespace: NonNull<spdk_nvme_ns>,
}

// SAFETY: SPDK guards a controller by a lock of its own; a namespace is only read, and lives as long as its controller
// (it is freed by a reset, which nothing here asks for, and by detaching).
unsafe impl Send for Handles {}
// SAFETY: as above.
unsafe impl Sync for Handles {}

/// An attached controller, and one namespace of it. Detached when its last queue pair and this are gone.
pub struct Controller {
    handles: Handles,
    identity: Identity,
    flags: Arc<Flags>,
    admin: Option<JoinHandle<()>>,
}

impl Controller {
    /// Takes the controller and starts its admin thread. Blocks, for `options.timeout` at most a command.
    ///
    /// # Errors
    /// Nobody there, no such namespace, one with metadata. What SPDK has to say stands on standard error.
    pub fn attach(_started: Env, transport: &Transport, options: &AttachOptions) -> io::Result<Arc<Controller>> {
        let id = transport.id()?;
        let timeout_ms = u32::try_from(options.timeout.as_millis()).unwrap_or(u32::MAX);
        let mut opts = bindings::spdk_nvme_ctrlr_opts::default();
        let opts_bytes = size_of::<bindings::spdk_nvme_ctrlr_opts>();
        // SAFETY: a whole structure, and its size.
        unsafe { bindings::spdk_nvme_ctrlr_get_default_ctrlr_opts(ptr::from_mut(&mut opts), opts_bytes) };
        opts.admin_timeout_ms = timeout_ms;
        opts.keep_alive_timeout_ms = opts.keep_alive_timeout_ms.min(timeout_ms);
        // Whoever submits is told of an error. A line for each would come from the polling thread.
        opts.disable_error_logging = true;
        // SAFETY: SPDK was started, which `_started` proves; both structures are whole and live through the call.
        let controller = unsafe { bindings::spdk_nvme_connect(ptr::from_ref(&id), ptr::from_ref(&opts), opts_bytes) };
        let controller = NonNull::new(controller).ok_or_else(|| io::Error::other("SPDK cannot attach it"))?;
        let flags = Arc::<Flags>::default();
        match find_namespace(controller, options.namespace) {
            Ok((namespace, identity)) => {
                let handles = Handles { controller, namespace };
                watch(handles, &flags, options.timeout);
                let mut attached = Controller { handles, identity, flags, admin: None };
                attached.admin = Some(attached.start_admin()?);
                Ok(Arc::new(attached))
            }
            Err(error) => {
                // SAFETY: attached above, and nothing refers to it.
                unsafe { bindings::spdk_nvme_detach(controller.as_ptr()) };
                Err(error)
            }
        }
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A command timed out, or the admin queue broke: whoever has a queue pair should give it up.
    pub(super) fn is_lost(&self) -> bool {
        self.flags.lost.load(Ordering::Relaxed)
    }

    pub(super) fn controller(&self) -> *mut spdk_nvme_ctrlr {
        self.handles.controller.as_ptr()
    }

    pub(super) fn namespace(&self) -> *mut spdk_nvme_ns {
        self.handles.namespace.as_ptr()
    }

    /// Tells SPDK that the controller does not answer, so that nothing waits for it any more.
    pub(super) fn fail(&self) {
        // SAFETY: attached until this is dropped; SPDK takes the controller's lock.
        unsafe { bindings::spdk_nvme_ctrlr_fail(self.controller()) };
    }

    fn start_admin(&self) -> io::Result<JoinHandle<()>> {
        let (handles, flags) = (self.handles, Arc::clone(&self.flags));
        let poll = move || {
            // The whole of `handles`, not its pointer, is what may change threads.
            let handles: Handles = handles;
            while !flags.stop.load(Ordering::Relaxed) {
                // SAFETY: the controller is detached only after this thread was joined; SPDK takes its lock.
                let polled =
                    unsafe { bindings::spdk_nvme_ctrlr_process_admin_completions(handles.controller.as_ptr()) };
                if polled < 0 {
                    flags.lost.store(true, Ordering::Relaxed);
                    return;
                }
                std::thread::park_timeout(ADMIN_INTERVAL);
            }
        };
        std::thread::Builder::new().name("spdk-admin".into()).spawn(poll)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        if let Some(admin) = self.admin.take() {
            admin.thread().unpark();
            let _ = admin.join();
        }
        if self.is_lost() {
            self.fail();
        }
        // SAFETY: attached, and this was the last that knows of it: queue pairs keep their controller alive.
        unsafe { bindings::spdk_nvme_detach(self.controller()) };
    }
}

/// Has SPDK tell when a command takes longer than `timeout`.
fn watch(handles: Handles, flags: &Arc<Flags>, timeout: Duration) {
    // SPDK multiplies it by the ticks of a second.
    let timeout_us = u64::try_from(timeout.min(TIMEOUT_MAX).as_micros()).expect("an hour in microseconds is small");
    let argument = Arc::as_ptr(flags).cast_mut().cast();
    // SAFETY: the flags live as long as the controller, which is detached before they are dropped.
    unsafe {
        bindings::spdk_nvme_ctrlr_register_timeout_callback(
            handles.controller.as_ptr(),
            timeout_us,
            timeout_us,
            Some(timed_out),
            argument,
        );
    }
}

/// Called by SPDK within a poll. Nothing may be freed there, so it only says so.
unsafe extern "C" fn timed_out(
    argument: *mut c_void,
    _controller: *mut spdk_nvme_ctrlr,
    _pair: *mut spdk_nvme_qpair,
    _command: u16,
) {
    // SAFETY: the flags that `watch` registered, alive as long as the controller that is being polled.
    let flags: &Flags = unsafe { &*argument.cast::<Flags>() };
    flags.lost.store(true, Ordering::Relaxed);
}

fn find_namespace(
    controller: NonNull<spdk_nvme_ctrlr>,
    wanted: Option<u32>,
) -> io::Result<(NonNull<spdk_nvme_ns>, Identity)> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::NotFound, why));
    // SAFETY: an attached controller.
    let first = unsafe { bindings::spdk_nvme_ctrlr_get_first_active_ns(controller.as_ptr()) };
    let number = wanted.unwrap_or(first);
    // SAFETY: an attached controller.
    if !unsafe { bindings::spdk_nvme_ctrlr_is_active_ns(controller.as_ptr(), number) } {
        return refuse(match wanted {
            Some(number) => format!("the controller has no active namespace {number}"),
            None => "the controller has no active namespace".to_owned(),
        });
    }
    // SAFETY: an attached controller.
    let second = unsafe { bindings::spdk_nvme_ctrlr_get_next_active_ns(controller.as_ptr(), first) };
    if wanted.is_none() && second != 0 {
        return refuse(format!("the controller has several namespaces ({first}, {second}, ...): name one, @{first}"));
    }
    // SAFETY: an attached controller.
    let namespace = unsafe { bindings::spdk_nvme_ctrlr_get_ns(controller.as_ptr(), number) };
    let Some(namespace) = NonNull::new(namespace) else { return refuse(format!("no namespace {number}")) };
    // SAFETY: a namespace of an attached controller.
    let metadata_bytes = unsafe { bindings::spdk_nvme_ns_get_md_size(namespace.as_ptr()) };
    if metadata_bytes != 0 {
        return refuse(format!("namespace {number} has {metadata_bytes} B of metadata a block, which cannot be used"));
    }
    Ok((namespace, identify(controller, namespace, number)))
}

fn identify(controller: NonNull<spdk_nvme_ctrlr>, namespace: NonNull<spdk_nvme_ns>, number: u32) -> Identity {
    // SAFETY: an attached controller.
    let data = unsafe { bindings::spdk_nvme_ctrlr_get_data(controller.as_ptr()) };
    // SAFETY: the identify data, 4,096 B by the specification, lives as long as the controller, and is copied here.
    let data = unsafe { data.cast::<IdentifyData>().read_unaligned() };
    let text = |range| String::from_utf8_lossy(&data[range]).trim().to_owned();
    Identity {
        serial: text(SERIAL),
        model: text(MODEL),
        namespace: number,
        // SAFETY: a namespace of an attached controller.
        block_bytes: unsafe { bindings::spdk_nvme_ns_get_sector_size(namespace.as_ptr()) },
        // SAFETY: as above.
        blocks: unsafe { bindings::spdk_nvme_ns_get_num_sectors(namespace.as_ptr()) },
        volatile_cache: data[VOLATILE_CACHE] & 1 != 0,
        dataset_management: data[OPTIONAL_COMMANDS] & 1 << 2 != 0,
        // SAFETY: an attached controller.
        transfer_bytes_max: unsafe { bindings::spdk_nvme_ctrlr_get_max_xfer_size(controller.as_ptr()) },
        power_fail_atomic_blocks: u32::from(data[ATOMIC_POWER_FAIL])
            + (u32::from(data[ATOMIC_POWER_FAIL + 1]) << 8)
            + 1,
    }
}
