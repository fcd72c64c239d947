//! `forebay doctor`: what this machine and this drive give, and what is missing. Changes nothing.

use std::io::ErrorKind;
use std::path::PathBuf;

use forebay::doctor::{self, State};
use forebay::error::Error;
use forebay::ring::client::{Client, ClientError, ConnectOptions};
use serde_json::json;

use super::context::{Context, Failure};

/// Say what this machine and a device are fit for.
///
/// A line a finding: ok, warning (it works, but with less than it could), missing (a fallback is used) or broken, with
/// what to do. With a device also its live tier, and why no better one. Changes nothing. Exit code 1 when broken.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look at this file or block device too. Default: device.path of the configuration.
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let device = args.device.as_ref().or(context.config.device.path.as_ref());
    let mut checks = doctor::checks(device.map(PathBuf::as_path), &context.config);
    checks.extend(doctor::configured(&context.config));
    if context.connect().is_ok() {
        // What a daemon serves nobody else can look at.
        for check in checks.iter_mut().filter(|check| check.found.contains("locked by another process")) {
            (check.state, check.remedy) = (State::Warning, Some("stop the daemon to have it looked at".to_owned()));
            check.found = "in use by another process, and a daemon answers, see below".to_owned();
        }
    }
    for check in &checks {
        let state = check.state.name();
        let remedy = check.remedy.as_deref();
        if context.json {
            let object = json!({ "what": check.name, "state": state, "found": check.found, "remedy": remedy });
            context.out.json(&object)?;
        } else {
            let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
            context.out.line(format!("{state:<7} {:<18} {}{remedy}", check.name, check.found))?;
        }
    }
    daemon(context)?;
    match checks.iter().filter(|check| check.state == State::Broken).count() {
        0 => Ok(()),
        count => {
            context.out.flush()?;
            Err(Error::new(format!("{count} of {} findings stop an appliance", checks.len()))
                .remedy("the lines marked broken say what to do")
                .into())
        }
    }
}

/// Whether a daemon answers. That none does is no fault; that this user may not ask it is one to know of.
fn daemon(context: &mut Context) -> Result<(), Failure> {
    let socket = context.client_socket();
    let (state, found) = match Client::connect(&socket, &ConnectOptions::default()) {
        Ok(client) => (
            State::Ok,
            format!("answers on {}, {} reactors, {} shards", socket.display(), client.reactors(), client.shards()),
        ),
        Err(ClientError::NoDaemon { error, .. }) if error.kind() != ErrorKind::PermissionDenied => {
            (State::Ok, format!("none answers on {}", socket.display()))
        }
        // It says what to do.
        Err(error) => (State::Warning, error.to_string()),
    };
    if context.json {
        let object = json!({ "what": "daemon", "state": state.name(), "found": found, "remedy": null });
        return context.out.json(&object);
    }
    context.out.line(format!("{:<7} {:<18} {found}", state.name(), "daemon"))
}
