//! Whether what is to be written fits the daemon's limits and what is there. Changes nothing.

use std::collections::VecDeque;

use forebay::error::Error;
use forebay::ring::client::{Client, ClientError, Creation, Object};
use forebay::ring::protocol::Status;
use forebay::types::{Compression, ObjectId, ObjectKind, PageSize};

use crate::cli::context::{Failure, check_key, check_value};
use crate::cli::dump::reading::{Item, Told};
use crate::cli::read::begin;

/// An object of the file, and what there is of it.
pub struct Target {
    pub told: Told,
    /// `None`: it has to be made.
    pub object: Option<Object>,
    /// Events of the file that the stream holds already.
    pub there: u64,
    /// Where the events that the stream holds go on, and some of them; `None`: behind the last.
    next: Option<u64>,
    ahead: VecDeque<Vec<u8>>,
    /// The offset that the next event of the file has where none is missing; `None`: the stream numbers them otherwise.
    pub numbered: Option<u64>,
}

impl Target {
    /// What it is or will be; without a number until it is made.
    pub fn as_object(&self) -> Object {
        let Creation { durability, compression, .. } = self.told.creation;
        self.object.unwrap_or(Object { id: ObjectId(0), kind: self.told.kind, durability, compression })
    }
}

#[derive(Clone, Copy)]
pub struct Policy {
    /// All events go behind those that are there.
    pub append: bool,
    /// None of the objects may be there.
    pub fresh: bool,
}

pub struct Check<'a> {
    client: &'a mut Client,
    policy: Policy,
    pub targets: Vec<Target>,
}

impl<'a> Check<'a> {
    pub fn new(client: &'a mut Client, policy: Policy) -> Check<'a> {
        Check { client, policy, targets: Vec::new() }
    }

    pub fn item(&mut self, item: Item) -> Result<(), Failure> {
        match item {
            Item::Object(told) => self.object(told),
            Item::Pair { object, key, value, .. } => {
                check_key(self.client, &key)?;
                check_value(self.client, self.targets[object].as_object().stored(), &value)
            }
            Item::Event { object, event, offset } => {
                let target = &mut self.targets[object];
                target.numbered = target.numbered.filter(|next| *next == offset).map(|next| next + 1);
                check_value(self.client, target.as_object(), &event)?;
                compare(self.client, target, &event)
            }
            Item::Page { .. } | Item::Cursor { .. } | Item::End => Ok(()),
        }
    }

    fn object(&mut self, told: Told) -> Result<(), Failure> {
        let found = match self.find(&told) {
            Err(ClientError::Status(Status::UnknownObject)) => None,
            Err(ClientError::Status(Status::WrongKind)) => {
                return Err(Error::new(format!("{:?} is there and is no {}", told.name, told.kind.name()))
                    .remedy("import into another appliance")
                    .into());
            }
            found => Some(found?),
        };
        if found.is_some() && self.policy.fresh {
            return Err(Error::new(format!("{:?} is there already; nothing was changed", told.name))
                .remedy("restore into an appliance that has none of it, as `forebay format` makes one")
                .into());
        }
        if let Some(size) = told.page.filter(|size| size.bytes() > self.client.value_bytes_max()) {
            return Err(Error::new(format!("pages of {} B are over limits.value_bytes_max", size.bytes()))
                .remedy("raise it in the daemon's configuration")
                .into());
        }
        let (mut next, mut numbered) = (None, Some(told.first));
        if let Some(Found { object, creation, page }) = found {
            let is_delta = |creation: Creation| creation.compression == Compression::Delta;
            if is_delta(creation) != is_delta(told.creation) {
                return Err(Error::new(format!("{:?} holds deltas here or in the file, and not in both", told.name))
                    .remedy("import into another appliance")
                    .into());
            }
            tell_difference(&told, creation);
            if page != told.page {
                return Err(Error::new(format!("{:?} is there with pages of another size", told.name))
                    .remedy("import into another appliance")
                    .into());
            }
            if told.kind == ObjectKind::Stream {
                let first = begin(self.client, object, None)?;
                next = (!self.policy.append).then_some(first);
                numbered = numbered.filter(|told| *told == first && !self.policy.append);
            }
        }
        let object = found.map(|found| found.object);
        self.targets.push(Target { told, object, there: 0, next, ahead: VecDeque::new(), numbered });
        Ok(())
    }

    fn find(&mut self, told: &Told) -> Result<Found, ClientError> {
        let (object, chained, page) = match told.kind {
            ObjectKind::Space => (self.client.open_space(&told.name, None)?, false, None),
            ObjectKind::Stream => {
                let (object, chained) = self.client.find_stream(&told.name)?;
                (object, chained, None)
            }
            ObjectKind::Pages => {
                let pages = self.client.open_pages(&told.name, None)?;
                (pages.object, false, Some(pages.size))
            }
        };
        let Object { durability, compression, .. } = object;
        Ok(Found { object, creation: Creation { durability, compression, chained }, page })
    }
}

/// What is there.
#[derive(Clone, Copy)]
struct Found {
    object: Object,
    creation: Creation,
    page: Option<PageSize>,
}

fn tell_difference(told: &Told, found: Creation) {
    if told.creation == found {
        return;
    }
    let (durability, compression) = (found.durability.name(), found.compression.name());
    let chained = if found.chained { ", chained" } else { "" };
    eprintln!(
        "forebay: {:?} is there with durability {durability} and compression {compression}{chained}, not as in the file, \
         and stays so",
        told.name
    );
}

/// Holds an event of the file against the one that the stream has in its place, if it has one.
fn compare(client: &mut Client, target: &mut Target, event: &[u8]) -> Result<(), Failure> {
    if let (Some(stream), Some(next), true) = (target.object, target.next, target.ahead.is_empty()) {
        let events = client.read(stream, next, None)?;
        target.next = events.last().map(|(last, _)| last + 1);
        target.ahead.extend(events.into_iter().map(|(_, event)| event));
    }
    match target.ahead.pop_front() {
        None => Ok(()),
        Some(there) if there == event => {
            target.there += 1;
            Ok(())
        }
        Some(_) => Err(Error::new(format!("the stream {:?} holds another event in this place", target.told.name))
            .remedy("import into another stream, or write all events behind those that are there with --append")
            .into()),
    }
}
