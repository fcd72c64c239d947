//! Images that every later version must read. Each stands in tests/golden/ as text: an address and the bytes there, in
//! hexadecimal, 32 to a line; what is not named is zero. To write the image of a new format version (never change an
//! old one): `FOREBAY_REGENERATE=1 cargo test --test images golden`.

use std::fmt::Write as _;

use crate::image::{BLOCK, Image, NAMESPACE, Open, formatted, read};
use forebay::types::{Durability, Lsn, ObjectId, ObjectKind, ShardId};
use forebay::wal::blocks::Blocks;
use forebay::wal::layout::{FORMAT_VERSION, Layout};
use forebay::wal::planted::Planted;
use forebay::wal::record::{Kind, Record};
use forebay::wal::recovery::{self, Walker};
use forebay::wal::superblock::{self, Superblock};

const V1: &str = include_str!("../golden/v1.img.txt");
const V1_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.img.txt");
const LINE_BYTES: usize = 32;

/// A record as the image of version 1 must give it back: shard, kind, object, version, key, value.
type Expected = (u32, Kind, u32, u64, Vec<u8>, Vec<u8>);

/// Every kind of record there is, one larger than a frame, over several segments and two lives.
fn expected() -> Vec<Expected> {
    let attributes = |kind: ObjectKind, durability: Durability| kind as u64 | (durability as u64) << 8;
    let mut large = vec![0; 18_000];
    large[..300].copy_from_slice(&crate::image::value(9, 300));
    large[17_990..].fill(9);
    let batch = [3_u32.to_le_bytes().as_slice(), b"one", &5_u32.to_le_bytes(), b"two.."].concat();
    let space = attributes(ObjectKind::Space, Durability::Strict);
    let stream = attributes(ObjectKind::Stream, Durability::Buffered);
    vec![
        (0, Kind::Create, 1, space, b"accounts".to_vec(), Vec::new()),
        (0, Kind::Create, 2, stream, b"events".to_vec(), Vec::new()),
        (0, Kind::Put, 1, 1, b"key".to_vec(), b"value".to_vec()),
        (1, Kind::Put, 1, 1, b"empty".to_vec(), Vec::new()),
        (0, Kind::Put, 1, 2, b"large".to_vec(), large.clone()),
        (1, Kind::Append, 2, 0, Vec::new(), b"event".to_vec()),
        (1, Kind::AppendBatch, 2, 1, Vec::new(), batch),
        // The second life begins here.
        (0, Kind::Put, 1, 3, b"larger".to_vec(), large),
        (0, Kind::Delete, 1, 4, b"key".to_vec(), Vec::new()),
        (1, Kind::Trim, 2, 2, Vec::new(), Vec::new()),
    ]
}

fn write_image() -> Image {
    let mut open = Open::start(&formatted(8, NAMESPACE));
    for (number, (shard, kind, object, version, key, value)) in expected().iter().enumerate() {
        if number == 7 {
            open.watermark(false);
            open = Open::start(&open.image());
        }
        open.record(*shard, *kind, ObjectId(*object), *version, key, value);
    }
    open.watermark(true);
    open.image()
}

pub fn to_text(image: &Image) -> String {
    let mut text = format!("bytes {}\n", image.0.len());
    for (number, line) in image.0.chunks(LINE_BYTES).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0))
    {
        write!(text, "{:x} ", number * LINE_BYTES).unwrap();
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

pub fn from_text(text: &str) -> Image {
    let mut lines = text.lines();
    let bytes = lines.next().and_then(|line| line.strip_prefix("bytes ")).unwrap().parse().unwrap();
    let mut image = vec![0; bytes];
    for line in lines {
        let (at, hex) = line.split_once(' ').unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        for (byte, digits) in image[at..].iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        }
    }
    Image(image)
}

fn records(image: &mut Image) -> Vec<Expected> {
    let bytes = image.0.len() as u64;
    let found = read(image, bytes).unwrap();
    let mut all = Vec::new();
    for number in 0..found.superblock.layout.shards {
        let mut walker = Walker::new(image, &found.superblock, ShardId(number), &found.survey.chains[number as usize]);
        let mut sink = |record: &Record<'_>, _| {
            let (key, value) = (record.key.to_vec(), record.value.to_vec());
            all.push((number, record.kind, record.object.0, record.version, key, value));
        };
        let recovered = recovery::recover(&mut walker, None, Planted::None, &mut sink, &mut |_| {}).unwrap();
        assert!(recovered.clean && recovered.cut.is_none());
        // Six records on shard 0, two of them in two parts; four on shard 1.
        assert_eq!(recovered.tail.next_lsn, Lsn(if number == 0 { 9 } else { 5 }));
    }
    all
}

#[test]
fn the_image_of_version_1_is_read_whole() {
    if std::env::var_os("FOREBAY_REGENERATE").is_some() {
        std::fs::write(V1_PATH, to_text(&write_image())).unwrap();
    }
    let text = std::fs::read_to_string(V1_PATH).unwrap_or_else(|_| V1.to_owned());
    assert!(text.len() < 64 << 10, "the golden image has {} B", text.len());
    let mut image = from_text(&text);
    let mut wanted = expected();
    wanted.sort_by_key(|record| record.0);
    assert_eq!(records(&mut image), wanted);
    let superblock = Superblock::load(&mut image, text_bytes(&text)).unwrap();
    assert_eq!((superblock.namespace, superblock.epoch, superblock.generation), (NAMESPACE, 2, 3));
}

fn text_bytes(text: &str) -> u64 {
    from_text(text).0.len() as u64
}

/// The image also goes on: a start on it writes behind what is there.
#[test]
fn the_image_of_version_1_can_be_written_on() {
    let image = from_text(V1);
    let mut open = Open::start(&image);
    open.put(0, b"later", b"value");
    open.watermark(true);
    let mut later = open.image();
    let bytes = later.0.len() as u64;
    let found = read(&mut later, bytes).unwrap();
    assert_eq!(found.superblock.epoch, 3);
    assert_eq!(found.data[&(0, b"later".to_vec())], b"value");
}

#[test]
fn a_later_version_is_refused_by_name() {
    let mut image = from_text(V1);
    let bytes = image.0.len() as u64;
    let address = Layout::superblock_addresses(bytes)[2];
    let mut block = vec![0; BLOCK];
    image.read(address, &mut block).unwrap();
    block[superblock::VERSION] = u8::try_from(FORMAT_VERSION + 1).unwrap();
    let crc = crc32c::crc32c(&block[superblock::VERSION..]).to_le_bytes();
    block[superblock::CRC..superblock::CRC + 4].copy_from_slice(&crc);
    image.write(address, &block).unwrap();
    let error = Superblock::load(&mut image, bytes).unwrap_err().to_string();
    assert_eq!(
        error,
        "the namespace has format version 2; this Forebay knows version 1; use the Forebay release that wrote it"
    );
}

#[test]
fn the_text_form_loses_nothing() {
    let image = write_image();
    assert!(from_text(&to_text(&image)).0 == image.0);
}
