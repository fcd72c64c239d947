//! `forebay page`: pages of a page space, by number.

use std::path::{Path, PathBuf};

use forebay::config::ByteSize;
use forebay::error::Error;
use forebay::ring::protocol::PAGES_MAX;
use forebay::types::{PageHint, PageSize};
use serde_json::{Map, Value, json};

use super::bytes;
use super::context::{Context, Failure, WriteArgs};

/// Write, read and forget pages: pieces of one size, by number.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Put(Put),
    /// Print pages, byte for byte. One that was never written is an error, and nothing is printed.
    Get(Which),
    /// Forget pages, as if they had never been written: all of them or none.
    Discard(Which),
}

/// Write whole pages, the first with this number: all of them or none. Prints their version.
#[derive(Debug, clap::Args)]
struct Put {
    /// The page space's name.
    space: String,
    /// The first page's number.
    number: u64,
    /// Take the pages from a file, or from standard input with -.
    #[arg(long, value_name = "PATH")]
    file: PathBuf,
    /// With --create: the size of every page, 4KiB to 2MiB, a power of two. Fixed for good.
    #[arg(long, value_name = "SIZE", requires = "create", conflicts_with = "hint")]
    page_size: Option<ByteSize>,
    /// With --create: how the pages will be used, instead of their size: point (4 KiB), random (16 KiB) or sequential
    /// (128 KiB). Default: random.
    #[arg(long, value_name = "HINT", requires = "create")]
    hint: Option<PageHint>,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The page space's name.
    space: String,
    /// The first page's number.
    number: u64,
    /// So many pages, 64 at most, as they are at one moment.
    #[arg(long, default_value_t = 1)]
    count: u64,
}

impl Which {
    fn numbers(&self) -> Result<Vec<u64>, Failure> {
        let last = self.count.checked_sub(1).and_then(|more| self.number.checked_add(more));
        match last {
            Some(last) if self.count <= PAGES_MAX as u64 => Ok((self.number..=last).collect()),
            _ => Err(Failure::Usage(
                Error::new(format!("{} pages from number {} on are not 1 to {PAGES_MAX}", self.count, self.number))
                    .remedy("name fewer with --count"),
            )),
        }
    }
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    match args.command {
        Command::Put(args) => put(&args, context),
        Command::Get(which) => get(&which, context),
        Command::Discard(which) => {
            let numbers = which.numbers()?;
            let (mut client, pages) = context.pages(&which.space, None)?;
            let version = client.discard_pages(pages, &numbers, None)?;
            if context.json { context.out.json(&json!({ "version": version })) } else { Ok(()) }
        }
    }
}

fn put(args: &Put, context: &mut Context) -> Result<(), Failure> {
    let wanted = match args.page_size {
        Some(ByteSize(bytes)) => usize::try_from(bytes).ok().and_then(PageSize::new).ok_or_else(|| {
            Failure::Usage(
                Error::new(format!("a page cannot have {bytes} B")).remedy("use a power of two from 4KiB to 2MiB"),
            )
        })?,
        None => args.hint.unwrap_or(PageHint::Random).page_size(),
    };
    let bytes = bytes::read_source(Path::new(&args.file))?;
    let created = args.write.created_with(&context.config);
    let (mut client, pages) = context.pages(&args.space, created.map(|durability| (wanted, durability)))?;
    let page_bytes = pages.size.bytes();
    if (args.page_size.is_some() || args.hint.is_some()) && pages.size != wanted {
        return Err(Error::new(format!("the page space {:?} is there with pages of {page_bytes} B", args.space))
            .remedy("leave out --page-size and --hint, or choose another page space")
            .into());
    }
    if bytes.is_empty() || !bytes.len().is_multiple_of(page_bytes) {
        return Err(Error::new(format!("{} B are no whole pages of {page_bytes} B", bytes.len()))
            .remedy("fill up the last page")
            .into());
    }
    let writes: Vec<(u64, &[u8])> = (args.number..).zip(bytes.chunks(page_bytes)).collect();
    if writes.len() != bytes.len() / page_bytes {
        return Err(Error::new("the page numbers end at 2^64 - 1").remedy("begin with a smaller one").into());
    }
    let version = client.write_pages(pages, &writes, args.write.durability)?;
    if context.json {
        return context.out.json(&json!({ "version": version, "pages": writes.len() }));
    }
    context.out.line(version.to_string())
}

fn get(which: &Which, context: &mut Context) -> Result<(), Failure> {
    let numbers = which.numbers()?;
    let (mut client, pages) = context.pages(&which.space, None)?;
    let found = client.read_pages(pages, &numbers)?;
    for (number, page) in numbers.iter().zip(&found) {
        match page {
            Some((version, page)) if context.json => {
                let mut object = Map::new();
                object.insert("number".into(), Value::from(*number));
                object.insert("version".into(), Value::from(*version));
                bytes::insert(&mut object, "page", page, false);
                context.out.json(&Value::Object(object))?;
            }
            None if context.json => context.out.json(&json!({ "number": number, "version": 0 }))?,
            _ => {}
        }
    }
    if let Some((number, _)) = numbers.iter().zip(&found).find(|(_, page)| page.is_none()) {
        return Err(Error::new(format!("page {number} of {:?} was never written", which.space)).into());
    }
    if !context.json {
        found.iter().flatten().try_for_each(|(_, page)| context.out.raw(page))?;
    }
    Ok(())
}
