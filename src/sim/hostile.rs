//! A client that writes garbage into everything that it shares with the daemon. The honest ones must notice nothing.

use std::sync::Arc;

use forebay_sys::shm::SharedMap;

use crate::ring::client::ClientParts;
use crate::ring::protocol::{ENTRY_BYTES, ENTRY_WORDS, OPCODES_END, Opcode, Submission, flag};
use crate::ring::segment::{Layout, end_reason};
use crate::ring::server::SessionId;
use crate::sim::oracle::{Oracle, Verdict};
use crate::sim::random::Random;
use crate::sim::report::{Count, Counts};

pub struct Hostile {
    pub id: SessionId,
    parts: ClientParts,
    layout: Layout,
    /// Entries written with their right sequence, by reactor.
    published: Vec<u64>,
    counts: Counts,
}

impl Hostile {
    pub fn new(id: SessionId, parts: ClientParts, counts: Counts) -> Verdict<Hostile> {
        let layout = Layout::read_from(&parts.map)?;
        let published = vec![0; layout.shape.reactors as usize];
        // What it takes for keys and names are such letters.
        let letters = vec![b'h'; crate::bytes::index(layout.shape.arena_bytes)];
        parts.map.write(layout.arena_offset(), &letters).map_err(|error| error.to_string())?;
        Ok(Hostile { id, parts, layout, published, counts })
    }

    fn map(&self) -> &Arc<SharedMap> {
        &self.parts.map
    }

    /// The daemon has had enough of it.
    pub fn is_ended(&self) -> bool {
        end_reason(self.map()).is_some()
    }

    pub fn act(&mut self, random: &mut Random, oracle: &Oracle) {
        match random.below(10) {
            0 => self.scribble(random),
            1 => self.scribble_over_arena(random),
            _ => self.publish(random, oracle),
        }
    }

    /// A random word somewhere in the rings, or a small one, which may be a position.
    fn scribble(&mut self, random: &mut Random) {
        let begin = self.layout.submissions(0).head_offset / 8;
        let word = begin + random.index(self.layout.arena_offset() / 8 - begin);
        let value = if random.chance(500) { random.word() } else { random.below(40) };
        self.map().write(word * 8, &value.to_le_bytes()).expect("the rings lie in the map");
        self.counts.add(Count::HostileWords);
    }

    fn scribble_over_arena(&mut self, random: &mut Random) {
        let at = random.index(crate::bytes::index(self.layout.shape.arena_bytes) / 8) * 8;
        let value = random.word().to_le_bytes();
        self.map().write(self.layout.arena_offset() + at, &value).expect("the arena lies in the map");
        self.counts.add(Count::HostileWords);
    }

    /// An entry that is almost right.
    fn publish(&mut self, random: &mut Random, oracle: &Oracle) {
        let submission = self.submission(random, oracle);
        let reactor = random.index(self.published.len());
        let ring = self.layout.submissions(crate::bytes::len_u32(reactor));
        let position = self.published[reactor];
        let at = ring.entries_offset + crate::bytes::index(position % u64::from(ring.entries)) * ENTRY_BYTES;
        self.published[reactor] += 1;
        let mut bytes: Vec<u8> = submission.to_words().iter().flat_map(|word| word.to_le_bytes()).collect();
        let sequence = if random.chance(30) { random.below(60) } else { position + 1 };
        bytes.extend_from_slice(&sequence.to_le_bytes());
        self.map().write(at, &bytes).expect("the entry lies in the map");
        self.counts.add_many(Count::HostileWords, ENTRY_WORDS as u64);
        // It reads none of its answers, but may say that it did.
        let head = self.layout.completions(crate::bytes::len_u32(reactor)).head_offset;
        if random.chance(700) {
            self.map().write(head, &position.saturating_sub(3).to_le_bytes()).expect("the head lies in the map");
        }
    }

    fn submission(&self, random: &mut Random, oracle: &Oracle) -> Submission {
        let arena = self.layout.shape.arena_bytes;
        let opcode = if random.chance(30) {
            random.word().to_le_bytes()[0]
        } else {
            random.word().to_le_bytes()[0] % OPCODES_END
        };
        let reads =
            matches!(Opcode::from_wire(opcode), Some(Opcode::Get | Opcode::Scan | Opcode::Read | Opcode::Stats));
        // It may read what others wrote, and write where nobody else does.
        let mut object = crate::bytes::len_u32(1 + random.index(12));
        if !reads && oracle.objects.iter().any(|known| known.object.id.0 == object) {
            object += 1_000;
        }
        let odd = |random: &mut Random, usual: u64| match random.below(60) {
            0 => u64::MAX,
            1 => random.word(),
            2 => arena,
            _ => usual,
        };
        let usual_offset = random.below(arena / 2);
        let usual_reply = arena / 2 + random.below(arena / 4);
        let small = |word: u64| u32::try_from(word).unwrap_or(u32::MAX);
        let usual_flags = random.pick(&[0, 0, 1, 2, 3, flag::IF_VERSION, flag::RELAXED, flag::PREFIX]);
        let value_bytes = random.pick(&[0, 5, 40, 3_000]);
        let reply_bytes = random.below(arena / 4);
        let name = u64::from(1 + random.word().to_le_bytes()[0] % 2) | 1 << 8 | 1 << 16;
        let arg = random.pick(&[0, 1, name, name]);
        Submission {
            user_data: random.word(),
            opcode,
            flags: if random.chance(20) { random.word().to_le_bytes()[0] } else { usual_flags },
            key_bytes: if random.chance(10) { 5_000 } else { random.pick(&[0, 1, 3, 60, 900]) },
            object,
            payload_offset: odd(random, usual_offset),
            value_bytes: small(odd(random, value_bytes)),
            reply_bytes_max: small(odd(random, reply_bytes)),
            reply_offset: odd(random, usual_reply),
            arg0: odd(random, arg),
            arg1: odd(random, 0),
        }
    }
}
