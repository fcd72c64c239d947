//! Images damaged in every way that repair knows: the damage is found, mended, and what was promised is there. What was
//! given up does not come back.

use crate::image::{BLOCK, Data, Image, NAMESPACE, Open, SEGMENT_BYTES, read};
use crate::sample::sample;
use forebay::types::{DeviceAddress, Lsn, ShardId};
use forebay::wal::flight::{self, Contents, Flight, Owner};
use forebay::wal::layout::Layout;
use forebay::wal::repair::{self, Plan};
use forebay::wal::superblock::Superblock;
use forebay::wal::survey::survey;
use forebay::wal::verify::{self, End};
use forebay_sys::shm::SharedMap;

const OTHER: [u8; 16] = *b"another namespac";

fn bytes(image: &Image) -> u64 {
    image.0.len() as u64
}

fn spoil(image: &mut Image, at: u64, length: usize) {
    let at = usize::try_from(at).unwrap();
    image.0[at..at + length].fill(0x5a);
}

fn error_of(image: &mut Image) -> String {
    let length = bytes(image);
    read(image, length).err().map(|error| error.to_string()).unwrap_or_default()
}

fn data_of(image: &Image) -> Data {
    read(&mut image.clone(), bytes(image)).unwrap().data
}

/// The address of the frame behind whose header `key` stands.
fn frame_of(image: &Image, key: &[u8]) -> u64 {
    let at = image.0.windows(key.len()).position(|bytes| bytes == key).unwrap();
    (at / BLOCK * BLOCK) as u64
}

fn with_survey(
    image: &mut Image,
    plan: impl FnOnce(&mut Image, &Superblock, &forebay::wal::survey::Survey) -> Plan,
) -> Plan {
    let superblock = Superblock::load(image, image.0.len() as u64).unwrap();
    let survey = survey(image, &superblock, &mut |_, _| {});
    plan(image, &superblock, &survey)
}

fn cut(image: &mut Image, shard: u32, flight: Option<&Contents>) -> Plan {
    with_survey(image, |image, superblock, survey| {
        repair::cut(image, superblock, survey, ShardId(shard), flight).unwrap()
    })
}

fn mend_headers(image: &mut Image) -> Plan {
    with_survey(image, repair::segment_headers)
}

/// What a shard's log ends with, as `verify` sees it.
fn end_of(image: &mut Image, shard: u32, flight: Option<&Contents>) -> End {
    let superblock = Superblock::load(image, image.0.len() as u64).unwrap();
    let found = survey(image, &superblock, &mut |_, _| {});
    verify::shard(image, &superblock, &found, ShardId(shard), flight, &mut |_| {}).0.end
}

#[test]
fn damaged_superblocks_are_rewritten_from_the_last_good_one() {
    let (mut image, data) = sample(NAMESPACE);
    let whole = image.clone();
    let addresses = Layout::superblock_addresses(bytes(&image));
    assert!(repair::superblocks(&mut image, bytes(&whole)).unwrap().is_empty());
    for kept in 0..addresses.len() {
        let mut image = whole.clone();
        for (_, address) in addresses.iter().enumerate().filter(|(copy, _)| *copy != kept) {
            spoil(&mut image, address.0, BLOCK);
        }
        let found = verify::superblocks(&mut image, bytes(&whole)).unwrap();
        assert_eq!(found.copies.iter().filter(|copy| copy.is_wrong()).count(), 3);
        let plan = repair::superblocks(&mut image, bytes(&whole)).unwrap();
        assert_eq!((plan.steps.len(), plan.losses.len()), (3, 0));
        plan.carry_out(&mut image).unwrap();
        assert!(image.0 == whole.0, "copy {kept} brings back all others");
        assert_eq!(data_of(&image), data);
    }
    for address in addresses {
        spoil(&mut image, address.0, BLOCK);
    }
    let error = repair::superblocks(&mut image, bytes(&whole)).unwrap_err().to_string();
    assert!(error.contains("no Forebay superblock"), "{error}");
}

#[test]
fn a_stale_copy_is_no_fault_and_is_rewritten() {
    let (mut image, _) = sample(NAMESPACE);
    let length = bytes(&image);
    let newest = Superblock::load(&mut image, length).unwrap();
    let address = Layout::superblock_addresses(length)[3];
    let mut block = vec![0; BLOCK];
    Superblock { generation: newest.generation - 1, epoch: newest.epoch - 1, ..newest }.encode(&mut block, 3, address);
    let at = usize::try_from(address.0).unwrap();
    image.0[at..at + BLOCK].copy_from_slice(&block);
    let found = verify::superblocks(&mut image, length).unwrap();
    assert!(found.copies[3].stale && !found.copies[3].is_wrong());
    let plan = repair::superblocks(&mut image, length).unwrap();
    assert_eq!(plan.steps.len(), 1);
    plan.carry_out(&mut image).unwrap();
    assert!(!verify::superblocks(&mut image, length).unwrap().copies[3].stale);
}

#[test]
fn damaged_segment_headers_are_rewritten_from_their_frames() {
    let (image, data) = sample(NAMESPACE);
    let found = read(&mut image.clone(), bytes(&image)).unwrap();
    let layout = found.superblock.layout;
    let mut mended = 0;
    for (number, chain) in found.survey.chains.iter().enumerate() {
        for chained in chain {
            let mut image = image.clone();
            spoil(&mut image, layout.segment_address(chained.segment).0, BLOCK);
            if error_of(&mut image).is_empty() {
                assert_eq!(data_of(&image), data, "a prepared segment holds nothing");
                continue;
            }
            let error = error_of(&mut image);
            assert!(error.contains(&format!("shard {number}: the header of segment")), "{error}");
            let plan = mend_headers(&mut image);
            assert_eq!((plan.steps.len(), plan.losses.len(), plan.notes.len()), (1, 0, 0), "{plan:?}");
            plan.carry_out(&mut image).unwrap();
            assert_eq!(data_of(&image), data);
            let mut open = Open::start(&image);
            open.put(0, b"later", b"on");
            assert_eq!(data_of(&open.image()).len(), data.len() + 1);
            mended += 1;
        }
    }
    assert!(mended >= 4, "only {mended} segments hold frames");
}

#[test]
fn all_headers_of_a_chain_at_once_are_rewritten() {
    let (mut image, data) = sample(NAMESPACE);
    let found = read(&mut image.clone(), bytes(&image)).unwrap();
    for chained in &found.survey.chains[0] {
        spoil(&mut image, found.superblock.layout.segment_address(chained.segment).0, BLOCK);
    }
    assert!(!error_of(&mut image).is_empty());
    mend_headers(&mut image).carry_out(&mut image).unwrap();
    assert_eq!(data_of(&image), data);
}

/// Header and first frame gone: another frame of the segment still says whose it is. The rest is for `cut`.
#[test]
fn a_hole_in_a_chain_is_closed_by_any_frame_of_the_segment() {
    let (mut image, data) = sample(NAMESPACE);
    let found = read(&mut image.clone(), bytes(&image)).unwrap();
    let second = found.superblock.layout.segment_address(found.survey.chains[0][1].segment);
    spoil(&mut image, second.0, 2 * BLOCK);
    let error = error_of(&mut image);
    assert!(error.contains("segment number 2 of its chain is missing"), "{error}");
    let plan = mend_headers(&mut image);
    assert_eq!((plan.steps.len(), plan.notes.len()), (1, 0), "{plan:?}");
    plan.carry_out(&mut image).unwrap();
    let error = error_of(&mut image);
    assert!(error.contains(&format!("is damaged at address {}", second.0 + BLOCK as u64)), "{error}");
    cut(&mut image, 0, None).carry_out(&mut image).unwrap();
    let left = data_of(&image);
    assert!(left.len() < data.len() && left.iter().all(|(key, value)| data[key] == *value));
}

/// A whole segment of the chain is gone: nothing says where it was, so what lies behind it goes too.
#[test]
fn a_hole_that_nothing_explains_can_be_cut() {
    let (mut image, data) = sample(NAMESPACE);
    let found = read(&mut image.clone(), bytes(&image)).unwrap();
    let second = found.superblock.layout.segment_address(found.survey.chains[0][1].segment);
    spoil(&mut image, second.0, usize::try_from(SEGMENT_BYTES).unwrap());
    let plan = mend_headers(&mut image);
    assert!(plan.is_empty() && plan.notes[0].contains("only --cut --shard 0 is left"), "{plan:?}");
    let plan = cut(&mut image, 0, None);
    assert!(plan.losses[0].contains("records are given up"), "{plan:?}");
    plan.carry_out(&mut image).unwrap();
    let left = data_of(&image);
    assert!(left.contains_key(&(0, b"alpha".to_vec())) && !left.contains_key(&(0, b"omega".to_vec())));
    stays_cut(&image, &data, &left);
}

/// Goes on writing over several lives; nothing of what was given up comes back.
fn stays_cut(image: &Image, before: &Data, left: &Data) {
    let mut expected = left.clone();
    let mut image = image.clone();
    for life in 0..4_u8 {
        let mut open = Open::start(&image);
        assert_eq!(data_of(&open.image()), expected, "life {life}");
        for round in 0..2 {
            let key = [b'n', life, round];
            open.put(0, &key, &[life; 700]);
            expected.insert((0, key.to_vec()), vec![life; 700]);
        }
        // Lives are killed and stopped in turns.
        if life % 2 == 0 {
            open.watermark(true);
        }
        image = open.image();
    }
    assert_eq!(data_of(&image), expected);
    assert!(before.keys().any(|key| !expected.contains_key(key)), "nothing was given up");
    // Backups see it, whatever starts come after.
    let length = bytes(&image);
    assert!(Superblock::load(&mut image, length).unwrap().cuts > 0, "a start forgot the cut");
}

#[test]
fn what_was_cut_does_not_come_back() {
    let (whole, data) = sample(NAMESPACE);
    for (shard, key, lsn) in [(0, b"alpha".as_slice(), 1), (0, b"large-1", 2), (0, b"gamma", 6), (1, b"beta", 1)] {
        let mut image = whole.clone();
        let at = frame_of(&image, key);
        spoil(&mut image, at + 200, 8);
        let error = error_of(&mut image);
        assert!(error.contains(&format!("shard {shard}: ")) && error.contains(&format!("address {at} ")), "{error}");
        let End::Damaged { damage, beyond } = end_of(&mut image, shard, None) else { panic!("{error}") };
        assert_eq!((damage.expected_lsn, damage.address), (Lsn(lsn), DeviceAddress(at)));
        let before = image.clone();
        let plan = cut(&mut image, shard, None);
        assert!(image.0 == before.0, "a plan changes nothing");
        let records = beyond.0 - lsn + 1;
        assert!(plan.losses[0].contains(&format!("at least {records} records are given up")), "{plan:?}");
        plan.carry_out(&mut image).unwrap();
        assert_eq!(Superblock::load(&mut image.clone(), bytes(&image)).unwrap().cuts, 1);
        let left = data_of(&image);
        let lost = data.keys().filter(|key| !left.contains_key(*key));
        assert!(lost.clone().count() > 0 && lost.clone().all(|(of, _)| *of == shard), "{:?}", lost.collect::<Vec<_>>());
        assert!(!left.contains_key(&(shard, key.to_vec())));
        assert!(cut(&mut image, shard, None).is_empty(), "once is enough");
        stays_cut(&image, &data, &left);
    }
}

/// A crash between two steps of a cut: the repair is begun again, and ends as if it had not been interrupted.
#[test]
fn an_interrupted_cut_can_be_begun_again() {
    let (whole, _) = sample(NAMESPACE);
    let mut damaged = whole.clone();
    let at = frame_of(&damaged, b"gamma");
    spoil(&mut damaged, at + 200, 8);
    let steps = cut(&mut damaged, 0, None).steps;
    let mut once = damaged.clone();
    cut(&mut once, 0, None).carry_out(&mut once).unwrap();
    for done in 0..steps.len() {
        let mut image = damaged.clone();
        Plan { steps: steps[..done].to_vec(), ..Plan::default() }.carry_out(&mut image).unwrap();
        cut(&mut image, 0, None).carry_out(&mut image).unwrap();
        assert_eq!(data_of(&image), data_of(&once), "{done} steps done");
        stays_cut(&image, &data_of(&whole), &data_of(&once));
    }
}

#[test]
fn the_flight_recorder_alone_can_be_the_evidence() {
    let (mut image, _) = sample(NAMESPACE);
    let flight = Contents { records: Vec::new(), durable_lsn: Lsn(100) };
    let End::Damaged { damage, .. } = end_of(&mut image, 1, Some(&flight)) else { panic!("it is not damaged") };
    let plan = cut(&mut image, 1, Some(&flight));
    assert_eq!(plan.forget_flight, Some(ShardId(1)));
    let records = 100 - damage.expected_lsn.0 + 1;
    assert!(plan.losses[0].contains(&format!("at least {records} records")), "{plan:?}");
}

/// A cut of one shard must not cost what the flight recorders of the others hold.
#[test]
fn after_a_cut_the_other_shards_flight_recorders_still_count() {
    let (mut image, _) = sample(NAMESPACE);
    let length = bytes(&image);
    let before = Superblock::load(&mut image, length).unwrap();
    let owner = Owner { namespace: NAMESPACE, shard: ShardId(0), boot: [1; 16] };
    let file_bytes = flight::HEADER_BYTES + BLOCK;
    let (file, map) = SharedMap::create_sealed(c"flight", file_bytes).unwrap();
    Flight::new(Some(map), owner, before.epoch).reset(before.epoch, Lsn(0));
    let evidence = Contents { records: Vec::new(), durable_lsn: Lsn(100) };
    cut(&mut image, 1, Some(&evidence)).carry_out(&mut image).unwrap();
    let after = Superblock::load(&mut image, length).unwrap();
    let map = SharedMap::map_sealed(&file, file_bytes).unwrap();
    assert!(Flight::new(Some(map), owner, after.epoch).is_current());
}

#[test]
fn what_is_not_damaged_is_not_cut() {
    let (mut image, _) = sample(NAMESPACE);
    let plan = cut(&mut image, 0, None);
    assert!(plan.is_empty() && plan.notes[0].contains("not damaged"));
    let plan = mend_headers(&mut image);
    assert!(plan.is_empty() && plan.notes.is_empty());
}

#[test]
fn another_namespaces_superblock_is_not_taken_for_ours() {
    let (mut image, _) = sample(NAMESPACE);
    let (other, _) = sample(OTHER);
    let at = usize::try_from(Layout::superblock_addresses(bytes(&image))[1].0).unwrap();
    image.0[at..at + BLOCK].copy_from_slice(&other.0[at..at + BLOCK]);
    let error = error_of(&mut image);
    assert!(error.contains("superblock copies of two namespaces"), "{error}");
    let length = bytes(&image);
    assert!(repair::superblocks(&mut image, length).is_err());
}
