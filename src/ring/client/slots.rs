//! The requests in flight, by the number that goes over the wire.

use crate::ring::protocol::low_u32;
use crate::timing::Tag;

use super::arena::Block;
use super::request::Form;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The caller of `submit`.
    User,
    /// The blocking call of this number.
    Call(u64),
}

/// What is remembered of a request until its answer comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub owner: Owner,
    pub user_data: u64,
    pub reactor: u32,
    pub form: Form,
    pub block: Option<Block>,
    pub reply_offset: u64,
    pub reply_bytes_max: u32,
}

#[derive(Debug)]
struct Slot {
    /// Counts the uses of this slot, so that an answer that comes twice is seen.
    generation: u32,
    flight: Option<Flight>,
}

/// Grows to the most requests that were ever in flight at once, and stays there.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    tag: Tag,
}

impl Slots {
    /// Takes a slot; its number is what the wire carries.
    pub fn take(&mut self, flight: Flight) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, flight: None });
            low_u32(self.slots.len() as u64 - 1)
        });
        let slot = &mut self.slots[index as usize];
        slot.flight = Some(flight);
        u64::from(self.tag.wire(index)) | u64::from(slot.generation) << 32
    }

    /// What is in flight under a number, if anything is.
    pub fn look(&self, wire: u64) -> Option<&Flight> {
        let slot = self.slots.get(self.tag.index(low_u32(wire)) as usize)?;
        slot.flight.as_ref().filter(|_| slot.generation == low_u32(wire >> 32))
    }

    /// What was in flight under this number on this reactor.
    #[inline]
    pub fn give(&mut self, wire: u64, reactor: u32) -> Option<Flight> {
        let index = self.tag.index(low_u32(wire));
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != low_u32(wire >> 32) || slot.flight?.reactor != reactor {
            return None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        slot.flight.take()
    }

    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLIGHT: Flight = Flight {
        owner: Owner::User,
        user_data: 7,
        reactor: 1,
        form: Form::Plain,
        block: None,
        reply_offset: 0,
        reply_bytes_max: 0,
    };

    #[test]
    fn an_answer_counts_once_and_on_its_own_reactor() {
        let mut slots = Slots::default();
        let wire = slots.take(FLIGHT);
        assert!(slots.give(wire, 0).is_none());
        assert!(slots.give(wire + 1, 1).is_none());
        assert_eq!(slots.give(wire, 1).unwrap().user_data, 7);
        assert!(slots.give(wire, 1).is_none());
        let again = slots.take(FLIGHT);
        assert!(slots.give(wire, 1).is_none(), "a late answer of the former use");
        assert!(slots.give(again, 1).is_some());
        assert_eq!(slots.in_flight(), 0);
    }
}
