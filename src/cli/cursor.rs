//! `forebay cursor`: where the consumers of a stream go on.

use forebay::ring::client::CursorMove;
use forebay::ring::protocol::CURSOR_ABSENT;
use serde_json::json;

use super::context::{Context, Failure};

/// Show and set the cursors of a stream: named places where consumers go on, kept by the daemon.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Set a cursor: all events below the offset are consumed. It moves back only with --back.
    Set {
        stream: String,
        name: String,
        offset: u64,
        /// Only if it stands at this offset.
        #[arg(long, value_name = "OFFSET", conflicts_with = "if_absent")]
        if_at: Option<u64>,
        /// Only if there is none of this name.
        #[arg(long)]
        if_absent: bool,
        /// Also back.
        #[arg(long)]
        back: bool,
    },
    /// Print a cursor's offset. Exit code 1 when it is absent, or lies below the first event.
    Get { stream: String, name: String },
    /// Print all cursors: the name, a tab, the offset.
    List { stream: String },
    /// Forget a cursor.
    Delete { stream: String, name: String },
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    match args.command {
        Command::Set { stream, name, offset, if_at, if_absent, back } => {
            let (mut client, stream) = context.stream(&stream, None)?;
            let if_at = if_at.or(if_absent.then_some(CURSOR_ABSENT));
            let how = CursorMove { if_at, rewind: back, ..CursorMove::default() };
            client.set_cursor(stream, &name, offset, how)?;
            if context.json { context.out.json(&json!({ "name": name, "offset": offset })) } else { Ok(()) }
        }
        Command::Get { stream, name } => {
            let (mut client, stream) = context.stream(&stream, None)?;
            let offset = client.cursor(stream, &name)?.ok_or_else(|| absent(&name))?;
            if context.json {
                return context.out.json(&json!({ "name": name, "offset": offset }));
            }
            context.out.line(offset.to_string())
        }
        Command::List { stream } => {
            let (mut client, stream) = context.stream(&stream, None)?;
            for (name, offset) in client.cursors(stream)? {
                if context.json {
                    context.out.json(&json!({ "name": name, "offset": offset }))?;
                } else {
                    context.out.line(format!("{name}\t{offset}"))?;
                }
            }
            Ok(())
        }
        Command::Delete { stream, name } => {
            let (mut client, stream) = context.stream(&stream, None)?;
            let deleted = client.drop_cursor(stream, &name)?;
            if context.json {
                return context.out.json(&json!({ "name": name, "deleted": deleted }));
            }
            if deleted { Ok(()) } else { Err(absent(&name)) }
        }
    }
}

fn absent(name: &str) -> Failure {
    let error = forebay::error::Error::new(format!("no cursor is named {name:?}"));
    error.remedy("`forebay cursor list` shows those there are; `forebay cursor set` makes one").into()
}
