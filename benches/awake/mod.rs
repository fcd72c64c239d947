//! Cores that do not halt while somebody is measured who sleeps: one takes tens of microseconds to wake, where a reactor's
//! never has to.

use std::process::{Child, Command, Stdio};

use core_affinity::CoreId;

/// A loop of idle priority on each core: whoever else wants the core has it at once.
struct Spinner(Child);

impl Drop for Spinner {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Does `work` while none of the cores halts.
pub fn awake<T>(cores: &[CoreId], work: impl FnOnce() -> T) -> Result<T, String> {
    let spin = |core: &CoreId| {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0", "taskset", "--cpu-list", &core.id.to_string(), "sh", "-c", "while :; do :; done"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Spinner).map_err(|error| format!("chrt: {error}; install it (apt-get install util-linux)"))
    };
    let spinners = cores.iter().map(spin).collect::<Result<Vec<_>, _>>()?;
    // By then they run.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let done = work();
    drop(spinners);
    Ok(done)
}
