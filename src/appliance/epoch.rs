//! The raise of the epoch at a start: the superblock and the flight recorders go up together, though nothing writes
//! them at once. docs/format.md, "Which recorder counts", has the argument.

use crate::error::Result;
use crate::wal::blocks::Blocks;
use crate::wal::flight::Flight;
use crate::wal::superblock::Superblock;

/// Raises the epoch above `last`, one by one: each time in the current flight recorders first, then in the superblock,
/// so that those are never more than one ahead. Where a shard has no current one, at least by two: a recorder that is
/// left somewhere else is at most one ahead of this superblock, and stays behind from here on. Blocks until the new
/// epoch, which it gives, is durable.
///
/// # Errors
/// When the superblock cannot be written.
pub fn raise<B: Blocks>(blocks: &mut B, superblock: &Superblock, last: u64, flights: &[Flight]) -> Result<u64> {
    let steps = if flights.iter().all(Flight::is_current) { 1 } else { 2 };
    let target = (last + 1).max(superblock.epoch + steps);
    let mut raised = *superblock;
    while raised.epoch < target {
        raised = Superblock { epoch: raised.epoch + 1, generation: raised.generation + 1, ..raised };
        flights.iter().for_each(|flight| flight.stamp(raised.epoch));
        raised.write(blocks)?;
    }
    Ok(raised.epoch)
}

#[cfg(test)]
mod tests {
    use forebay_sys::shm::SharedMap;

    use super::*;
    use crate::device::DeviceError;
    use crate::types::{DeviceAddress, Lsn, ShardId};
    use crate::wal::flight::{HEADER_BYTES, Owner};
    use crate::wal::layout::{BLOCK_BYTES, Layout, SUPERBLOCK_COPIES};

    const CAPACITY: u64 = 8 << 20;
    const FILE_BYTES: usize = HEADER_BYTES + BLOCK_BYTES;

    /// The superblock copies, and the writes left before the kill.
    #[derive(Clone)]
    struct Copies {
        blocks: Vec<(DeviceAddress, Vec<u8>)>,
        writes_left: u32,
    }

    impl Blocks for Copies {
        fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
            let block = self.blocks.iter().find(|(at, _)| *at == address).ok_or(DeviceError::INVALID)?;
            out.copy_from_slice(&block.1);
            Ok(())
        }

        fn write(&mut self, address: DeviceAddress, bytes: &[u8]) -> Result<(), DeviceError> {
            self.writes_left = self.writes_left.checked_sub(1).ok_or(DeviceError::Vanished)?;
            self.blocks.retain(|(at, _)| *at != address);
            self.blocks.push((address, bytes.to_vec()));
            Ok(())
        }
    }

    /// What a recorder's file must be to the next start that looks at it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Must {
        Count,
        /// A start without it was killed before its first write.
        Either,
        NotCount,
    }

    #[derive(Clone)]
    struct World {
        copies: Copies,
        /// Of shards 0 and 1: the beginning of the file, and what it must be.
        files: [([u8; 64], Must); 2],
        told: String,
    }

    /// One start. It has the recorders of `present`, is killed after so many writes of superblock copies, and may be
    /// killed before its recorders begin anew.
    #[derive(Clone, Copy, Debug)]
    struct Start {
        present: [bool; 2],
        writes: u32,
        settles: bool,
    }

    fn starts() -> impl Iterator<Item = Start> {
        let presents = [[true, true], [true, false], [false, true], [false, false]];
        let writes = [0, 1, 4, 5, 8];
        presents.into_iter().flat_map(move |present| {
            let any = move |writes| [true, false].map(|settles| Start { present, writes, settles });
            // Whoever is killed so early does not settle.
            writes.into_iter().flat_map(any).filter(|start| start.writes >= 4 || !start.settles)
        })
    }

    fn run(world: &World, start: Start) -> World {
        let mut next = world.clone();
        next.told += &format!("{start:?}; ");
        next.copies.writes_left = start.writes;
        let superblock = Superblock::load(&mut next.copies, CAPACITY).unwrap();
        let (mut flights, mut files) = (Vec::new(), Vec::new());
        for (shard, (header, must)) in world.files.iter().enumerate() {
            let (file, map) = SharedMap::create_sealed(c"flight", FILE_BYTES).unwrap();
            map.write(0, header).unwrap();
            let owner = Owner { namespace: [7; 16], shard: ShardId(u32::try_from(shard).unwrap()), boot: [1; 16] };
            let flight = Flight::new(start.present[shard].then_some(map), owner, superblock.epoch);
            if start.present[shard] && *must != Must::Either {
                let what = format!("shard {shard}, superblock {}: {must:?}; {}", superblock.epoch, next.told);
                assert_eq!(flight.is_current(), *must == Must::Count, "{what}");
            }
            flights.push(flight);
            files.push(SharedMap::map_sealed(&file, FILE_BYTES).unwrap());
        }
        let reached = raise(&mut next.copies, &superblock, superblock.epoch, &flights);
        for (shard, flight) in flights.iter_mut().enumerate() {
            let (header, must) = &mut next.files[shard];
            *must = match (start.present[shard], &reached, *must) {
                (true, Ok(epoch), _) if start.settles => {
                    flight.reset(*epoch, Lsn(0));
                    Must::Count
                }
                (true, Ok(_), _) if flight.is_current() => Must::Count,
                (_, Ok(_), _) => Must::NotCount,
                (true, Err(_), must) => must,
                (false, Err(_), Must::Count) => Must::Either,
                (false, Err(_), must) => must,
            };
            files[shard].read(0, header).unwrap();
        }
        next
    }

    /// Runs every history of so many starts from here, and a last one that looks. Gives their number.
    fn explore(world: &World, starts_left: u32) -> u64 {
        if starts_left == 0 {
            run(world, Start { present: [true, true], writes: 0, settles: false });
            return 1;
        }
        starts().map(|start| explore(&run(world, start), starts_left - 1)).sum()
    }

    /// Each start with or without each recorder, killed at each step.
    #[test]
    fn a_recorder_counts_until_a_start_went_on_without_it() {
        let layout = Layout::plan(CAPACITY, 64 << 10, 2).unwrap();
        let superblock = Superblock { namespace: [7; 16], generation: 1, epoch: 5, layout, cuts: 0, drive: None };
        let mut copies = Copies { blocks: Vec::new(), writes_left: u32::try_from(SUPERBLOCK_COPIES).unwrap() };
        superblock.write(&mut copies).unwrap();
        let fresh = ([0; 64], Must::NotCount);
        let world = World { copies, files: [fresh; 2], told: String::new() };
        let first = run(&world, Start { present: [true, true], writes: 8, settles: true });
        println!("{} histories", explore(&first, 3));
    }
}
