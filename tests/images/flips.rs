//! Every byte of everything that was written to a namespace is flipped, one at a time, and images are cut off at every
//! structure. What is read then is exactly what was written, or an error that names the place. Never anything else.

use crate::image::{BLOCK, Data, Image, NAMESPACE, SEGMENT_BYTES, read};
use crate::sample::sample;
use forebay::types::{DeviceAddress, SegmentIndex};
use forebay::wal::blocks::Blocks;
use forebay::wal::layout::Layout;

/// How many bytes of blocks that were never written stand between two flips in them.
const UNWRITTEN_STRIDE: usize = 97;

/// An image with one byte flipped, without a copy of the rest.
struct Flipped<'a> {
    image: &'a Image,
    at: usize,
    mask: u8,
}

impl Blocks for Flipped<'_> {
    fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), forebay::device::DeviceError> {
        let begin = usize::try_from(address.0).unwrap();
        out.copy_from_slice(&self.image.0[begin..begin + out.len()]);
        if let Some(at) = self.at.checked_sub(begin).filter(|at| *at < out.len()) {
            out[at] ^= self.mask;
        }
        Ok(())
    }

    fn write(&mut self, _: DeviceAddress, _: &[u8]) -> Result<(), forebay::device::DeviceError> {
        panic!("reading writes nothing");
    }
}

/// What a flip may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Harmless,
    Reported,
}

/// # Panics
/// When data is wrong or missing, or an error does not name the place.
fn outcome(image: &Image, at: usize, mask: u8, data: &Data) -> Outcome {
    let mut flipped = Flipped { image, at, mask };
    match read(&mut flipped, image.0.len() as u64) {
        Ok(found) => {
            assert_eq!(&found.data, data, "flipping byte {at} changed the data silently");
            Outcome::Harmless
        }
        Err(error) => {
            let text = error.to_string();
            assert!(names(&text, at), "flipping byte {at} is reported elsewhere: {text}");
            Outcome::Reported
        }
    }
}

/// Whether an error names an extent that holds `at`: "address A (N B)", or the segment header at A.
fn names(text: &str, at: usize) -> bool {
    let number = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    if let Some(rest) = text.split("is damaged at address ").nth(1) {
        let begin: usize = number(rest).unwrap();
        let bytes: usize = rest.split('(').nth(1).and_then(number).unwrap();
        return (begin..begin + bytes).contains(&at);
    }
    let begin: Option<usize> = text.split(" at ").nth(1).and_then(number);
    begin.is_some_and(|begin| (begin..begin + BLOCK).contains(&at))
}

fn blocks_written(image: &Image) -> Vec<bool> {
    image.0.chunks(BLOCK).map(|block| block.iter().any(|byte| *byte != 0)).collect()
}

/// Flips bytes of `image` on all cores: all of what was written, a few of the rest. Gives how many were harmless, and
/// how many were reported.
fn flip_all(image: &Image, data: &Data) -> (usize, usize) {
    let written = blocks_written(image);
    let places: Vec<usize> =
        (0..image.0.len()).filter(|at| written[at / BLOCK] || at % UNWRITTEN_STRIDE == 0).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let reported: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                let places = &places;
                scope.spawn(move || {
                    let own = places.iter().skip(first).step_by(threads);
                    own.filter(|at| outcome(image, **at, 1 << (**at % 8), data) == Outcome::Reported).count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    (places.len() - reported, reported)
}

#[test]
fn every_flipped_byte_is_harmless_or_reported() {
    let (image, data) = sample(NAMESPACE);
    let mut whole = image.clone();
    let found = read(&mut whole, image.0.len() as u64).unwrap();
    assert_eq!(found.data, data);
    assert!(found.survey.chains[0].len() >= 3 && found.shards.iter().all(|shard| shard.clean));
    let (harmless, reported) = flip_all(&image, &data);
    eprintln!("{} flips: {harmless} harmless, {reported} reported", harmless + reported);
    assert!(harmless > 8 * BLOCK && reported > 20 * BLOCK, "the image holds too little to say anything");
}

/// The last block of a shard's log is its watermark: nothing is behind it, and nothing is lost with it.
#[test]
fn a_flip_in_the_last_watermark_is_harmless() {
    let (image, data) = sample(NAMESPACE);
    let mut whole = image.clone();
    let found = read(&mut whole, image.0.len() as u64).unwrap();
    for shard in &found.shards {
        let position = shard.tail.position.unwrap();
        let end = found.superblock.layout.segment_address(position.chained.segment).plus(position.offset as u64);
        let end = usize::try_from(end.0).unwrap();
        for at in end - BLOCK..end {
            assert_eq!(outcome(&image, at, 0xff, &data), Outcome::Harmless);
        }
        assert_eq!(outcome(&image, end - BLOCK - 1, 0xff, &data), Outcome::Reported);
    }
}

/// The one excused case, and the proof that the checker can fail: the last acknowledged frame before any evidence of it.
#[test]
#[should_panic(expected = "changed the data silently")]
fn a_flip_in_a_last_frame_without_a_watermark_loses_it() {
    let (image, mut data) = sample(NAMESPACE);
    let mut open = crate::image::Open::start(&image);
    open.put(1, b"last", b"nothing says yet that this is durable");
    data.insert((1, b"last".to_vec()), b"nothing says yet that this is durable".to_vec());
    let image = open.image();
    let at = image.0.windows(4).rposition(|bytes| bytes == b"last").unwrap();
    outcome(&image, at, 1, &data);
}

#[test]
fn a_truncated_image_is_reported() {
    let (image, _) = sample(NAMESPACE);
    let layout = Layout::plan(image.0.len() as u64, SEGMENT_BYTES, crate::image::SHARDS).unwrap();
    let mut ends: Vec<u64> =
        (0..layout.segments).map(|segment| layout.segment_address(SegmentIndex(segment)).0).collect();
    ends.extend(Layout::superblock_addresses(layout.capacity_bytes).map(|address| address.0));
    let blocks = blocks_written(&image);
    ends.extend((0..blocks.len()).filter(|block| blocks[*block]).map(|block| (block * BLOCK) as u64));
    ends.extend([0, 1, 100, layout.capacity_bytes - 1]);
    for end in ends {
        for cut in [end, end + 1, end + 512, end + BLOCK as u64] {
            let Ok(bytes) = usize::try_from(cut.min(layout.capacity_bytes - 1)) else { continue };
            let mut short = Image(image.0[..bytes].to_vec());
            let error = read(&mut short, bytes as u64).err().expect("a truncated image is not whole").to_string();
            assert!(error.contains("truncated") || error.contains("no Forebay superblock"), "{bytes}: {error}");
        }
    }
}

/// A frame that was written so, with a record that no version knows: a start says so, and does not look for ever.
#[test]
fn a_whole_frame_with_a_record_that_is_none_is_told() {
    use forebay::wal::{frame, record};
    let (mut image, _) = sample(NAMESPACE);
    let blocks = image.0.len() / BLOCK;
    let records = |block: &[u8]| u32::from_le_bytes(block[frame::RECORDS..frame::RECORDS + 4].try_into().unwrap());
    let mut frames = (0..blocks).filter(|number| {
        let block = &image.0[number * BLOCK..(number + 1) * BLOCK];
        block[..8] == frame::MAGIC_VALUE.to_le_bytes() && records(block) > 0
    });
    let at = frames.next_back().expect("the sample has frames") * BLOCK;
    let bytes = u32::from_le_bytes(image.0[at + frame::FRAME_BYTES..at + frame::FRAME_BYTES + 4].try_into().unwrap());
    let whole = &mut image.0[at..at + bytes as usize];
    whole[frame::HEADER_BYTES + record::KIND] = 99;
    let crc = crc32c::crc32c(&whole[frame::VERSION..]);
    whole[frame::CRC..frame::CRC + 4].copy_from_slice(&crc.to_le_bytes());
    let bytes = image.0.len() as u64;
    let error = read(&mut image, bytes).err().expect("it is refused").to_string();
    assert!(error.contains("a bad record at LSN"), "{error}");
}
