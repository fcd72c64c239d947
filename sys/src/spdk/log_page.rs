//! The SMART log of a controller, asked for on its admin queue.

use std::ffi::c_void;
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use super::bindings::{self, spdk_nvme_cpl};
use super::controller::Controller;
use super::queue::Status;

pub const SMART_BYTES: usize = 512;
/// SMART / Health Information (NVM Express Base Specification 2.1, figure 202).
const LOG_SMART: u8 = 0x02;
const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// Belongs to SPDK from the moment it is asked until it calls back.
struct Asked {
    page: [u8; SMART_BYTES],
    /// The page, or the status field of a failure.
    answer: SyncSender<Result<[u8; SMART_BYTES], u16>>,
}

impl Controller {
    /// Reads the SMART log. Blocks until the admin thread has seen the answer; any thread may call it.
    ///
    /// # Errors
    /// The controller refuses, or does not answer within `timeout`.
    pub fn smart_log(&self, timeout: Duration) -> io::Result<[u8; SMART_BYTES]> {
        let (answer, answered) = mpsc::sync_channel(1);
        let bytes = u32::try_from(SMART_BYTES).expect("512 is small");
        let asked = Box::into_raw(Box::new(Asked { page: [0; SMART_BYTES], answer }));
        // SAFETY: `asked` was made above, and nothing else refers to it yet.
        let page = unsafe { &raw mut (*asked).page };
        // SAFETY: an attached controller, whose lock SPDK takes; the page has the length that is named and, like the
        // argument, lives until `logged` is called.
        let refused = unsafe {
            bindings::spdk_nvme_ctrlr_cmd_get_log_page(
                self.controller(),
                LOG_SMART,
                ALL_NAMESPACES,
                page.cast(),
                bytes,
                0,
                Some(logged),
                asked.cast(),
            )
        };
        if refused != 0 {
            // SAFETY: SPDK refused it, so it will not call back, and the box is still ours.
            drop(unsafe { Box::from_raw(asked) });
            return Err(io::Error::from_raw_os_error(refused.saturating_neg()));
        }
        match answered.recv_timeout(timeout) {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(status)) => Err(io::Error::other(format!("the controller refuses: status {status:#06x}"))),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Called by SPDK once, within a poll of the admin queue.
unsafe extern "C" fn logged(argument: *mut c_void, completion: *const spdk_nvme_cpl) {
    // SAFETY: the box that `smart_log` gave to SPDK, which gives it back with this one call.
    let asked = unsafe { Box::from_raw(argument.cast::<Asked>()) };
    // SAFETY: SPDK passes a completion that it owns during the call.
    let completion: &spdk_nvme_cpl = unsafe { &*completion };
    // SAFETY: both members of the union are the same 16 bits.
    let status = Status::of(unsafe { completion.__bindgen_anon_1.status_raw });
    let Asked { page, answer } = *asked;
    // Whoever asked may have given up.
    let _ = answer.send(if status.is_success() { Ok(page) } else { Err(status.field()) });
}
