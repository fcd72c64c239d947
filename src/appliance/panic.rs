//! What a panic on a reactor's thread does: it ends the process. A daemon without one of its reactors would let clients
//! wait for ever. (A release build aborts at once.)

/// Held by a reactor's thread while it runs.
pub struct EndsProcess;

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            eprintln!("forebay: {} panicked; start again: recovery keeps every promise", thread.name().unwrap_or("?"));
            std::process::exit(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = "FOREBAY_TEST_PANICS";

    #[test]
    fn a_panic_on_a_reactors_thread_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            let reactor = std::thread::Builder::new().name("reactor-7".into()).spawn(|| {
                let _ends = EndsProcess;
                panic!("a bug");
            });
            // Whoever waits for it, or does not.
            std::thread::sleep(std::time::Duration::from_secs(60));
            drop(reactor);
            std::process::exit(0);
        }
        let name = "appliance::panic::tests::a_panic_on_a_reactors_thread_ends_the_process";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args([name, "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("forebay: reactor-7 panicked") && text.contains("a bug"), "{text}");
    }
}
