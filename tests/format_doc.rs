//! Ties the tables of docs/format.md to the constants of the code: offsets and sizes as the modules declare them, both
//! ways, and the values of the named constants.
#![cfg(feature = "server")]

use std::collections::BTreeMap;

use forebay::wal::record::Kind;
use forebay::wal::{flight, frame, layout, record, segment};

const DOCUMENT: &str = include_str!("../docs/format.md");

/// Field name to offset and bytes.
type Fields = BTreeMap<String, (usize, usize)>;

/// The structures: heading, magic, source of the module.
const STRUCTURES: [(&str, Option<&str>, &str); 5] = [
    ("Superblock", Some("FBSUPER1"), include_str!("../src/wal/superblock.rs")),
    ("Segment header", Some("FBSEGMT1"), include_str!("../src/wal/segment.rs")),
    ("Frame", Some("FBFRAME1"), include_str!("../src/wal/frame.rs")),
    ("Record", None, include_str!("../src/wal/record.rs")),
    ("Flight recorder", Some("FBFLIGH1"), include_str!("../src/wal/flight.rs")),
];

fn section(heading: &str) -> &'static str {
    let begin = format!("\n## {heading}\n");
    let rest = DOCUMENT.split(begin.as_str()).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().expect("a split has a first part")
}

/// The rows of the tables in `text` whose first column has this heading.
fn rows<'a>(text: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let Some(cells) = line.strip_prefix("| ") else {
            inside &= line.starts_with("|-");
            continue;
        };
        let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
        if inside {
            rows.push(cells);
        } else {
            inside = cells[0] == first;
        }
    }
    rows
}

fn documented(heading: &str) -> Fields {
    let rows = rows(section(heading), "offset");
    let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{heading}: {cell} is not a number"));
    rows.iter().map(|row| (row[2].to_owned(), (number(row[0]), number(row[1])))).collect()
}

/// The fields as a module declares them: `pub const NAME: usize = OFFSET; // TYPE`.
fn declared(source: &str) -> Fields {
    let mut fields = Fields::new();
    for line in source.lines().filter_map(|line| line.strip_prefix("pub const ")) {
        let Some((name, rest)) = line.split_once(": usize = ") else { continue };
        let Some((offset, comment)) = rest.split_once("; // ") else { continue };
        let bytes = match comment.split([' ', ',', ':']).next() {
            Some("u64") => 8,
            Some("u32") => 4,
            Some("u16") => 2,
            Some("u8") => 1,
            Some("16") => 16,
            Some("40") => 40,
            other => panic!("{name}: a field of type {other:?}"),
        };
        fields.insert(name.to_owned(), (offset.parse().expect("an offset is a number"), bytes));
    }
    fields
}

#[test]
fn every_field_is_documented_where_it_is() {
    for (heading, magic, source) in STRUCTURES {
        let declared = declared(source);
        assert!(declared.len() > 6, "{heading}: the fields are not declared as this test expects");
        assert_eq!(documented(heading), declared, "{heading}");
        if let Some(magic) = magic {
            assert!(section(heading).trim_start().starts_with(&format!("Magic `{magic}`")), "{heading}");
            assert!(source.contains(&format!("b\"{magic}\"")), "{heading}");
        }
        let mut ends: Vec<(usize, usize)> =
            declared.values().map(|(offset, bytes)| (*offset, offset + bytes)).collect();
        ends.sort_unstable();
        assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{heading}: fields overlap");
    }
}

#[test]
fn constants_have_the_documented_values() {
    let layout = [
        ("BLOCK_BYTES", layout::BLOCK_BYTES as u64),
        ("FORMAT_VERSION", layout::FORMAT_VERSION.into()),
        ("HEAD_BYTES", layout::HEAD_BYTES),
        ("TAIL_BYTES", layout::TAIL_BYTES),
        ("PARTITION_TABLE_BYTES", layout::PARTITION_TABLE_BYTES),
        ("SUPERBLOCK_COPIES", layout::SUPERBLOCK_COPIES as u64),
        ("SEGMENT_BYTES_MIN", layout::SEGMENT_BYTES_MIN),
        ("SEGMENT_BYTES_MAX", layout::SEGMENT_BYTES_MAX),
        ("SEGMENTS_PER_SHARD_MIN", layout::SEGMENTS_PER_SHARD_MIN),
    ];
    let frame = [
        ("FLAG_WATERMARK", u64::from(frame::FLAG_WATERMARK)),
        ("FLAG_CLEAN", frame::FLAG_CLEAN.into()),
        ("FLAG_CUT", frame::FLAG_CUT.into()),
    ];
    let record = [
        ("FLAG_MORE", u64::from(record::FLAG_MORE)),
        ("FLAG_CONTINUED", record::FLAG_CONTINUED.into()),
        ("FLAG_COPY", record::FLAG_COPY.into()),
        ("FLAG_CHECKPOINT", record::FLAG_CHECKPOINT.into()),
    ];
    let segment = [("FLAG_RESERVED", u64::from(segment::FLAG_RESERVED)), ("FLAG_FREED", segment::FLAG_FREED.into())];
    let expected: [(&str, &[(&str, u64)]); 4] =
        [("Layout", &layout), ("Frame", &frame), ("Record", &record), ("Segment header", &segment)];
    for (heading, constants) in expected {
        let rows = rows(section(heading), "constant");
        let documented: Vec<(&str, u64)> =
            rows.iter().map(|row| (row[0], row[1].parse().expect("a value is a number"))).collect();
        assert_eq!(documented, constants, "{heading}");
    }
    for (heading, bytes) in
        [("Segment header", segment::HEADER_BYTES), ("Frame", frame::HEADER_BYTES), ("Record", record::HEADER_BYTES)]
    {
        assert!(section(heading).contains(&format!("HEADER_BYTES is {bytes}")), "{heading}");
    }
    assert!(section("Flight recorder").contains(&format!("HEADER_BYTES, {}", flight::HEADER_BYTES)));
}

#[test]
fn every_kind_of_record_is_documented() {
    let kinds = (0..=u8::MAX).filter_map(|value| Some((format!("{:?}", Kind::from_wire(value)?), value)));
    let rows = rows(section("Record"), "kind");
    let documented = rows.iter().map(|row| (row[0].to_owned(), row[1].parse().expect("a value is a number")));
    assert_eq!(documented.collect::<Vec<(String, u8)>>(), kinds.collect::<Vec<_>>());
}

#[test]
fn superblock_copies_stand_where_the_layout_says() {
    const CAPACITY: u64 = 1 << 30;
    let copies = layout::Layout::superblock_addresses(CAPACITY);
    let mut found = 0;
    for row in rows(section("Layout"), "address") {
        let Some(copy) = row[2].strip_prefix("superblock copy ") else { continue };
        let kib = |text: &str| text.strip_suffix(" KiB").and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib << 10);
        let address = match row[0].strip_prefix("capacity - ") {
            Some(back) => CAPACITY - kib(back).expect("a distance in KiB"),
            None => kib(row[0]).expect("an address in KiB"),
        };
        assert_eq!(address, copies[copy.parse::<usize>().expect("a copy's number")].0, "copy {copy}");
        found += 1;
    }
    assert_eq!(found, layout::SUPERBLOCK_COPIES);
}
