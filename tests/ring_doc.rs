//! Ties docs/ring.md and docs/forebay_ring.h to the constants of the code. To write the header anew after a change:
//! `FOREBAY_REGENERATE=1 cargo test --test ring_doc`.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;

    use forebay::ring::protocol::*;
    use forebay::types::{Compression, Durability, ObjectKind};

    const DOCUMENT: &str = include_str!("../docs/ring.md");
    const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/forebay_ring.h");

    /// A table of the document: a prefix for C, and names with their values.
    struct Table {
        name: &'static str,
        prefix: &'static str,
        rows: Vec<(String, u64)>,
    }

    fn table(name: &'static str, prefix: &'static str, rows: &[(&str, u64)]) -> Table {
        Table { name, prefix, rows: rows.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect() }
    }

    fn tables() -> Vec<Table> {
        let mut tables = vec![bounds()];
        tables.extend(handshake_tables());
        tables.extend(memory_tables());
        tables.extend(entry_tables());
        tables
    }

    fn bounds() -> Table {
        table(
            "bounds",
            "",
            &[
                ("MAGIC", MAGIC),
                ("VERSION", VERSION.into()),
                ("ENTRY_BYTES", ENTRY_BYTES as u64),
                ("RING_ENTRIES_MIN", RING_ENTRIES_MIN.into()),
                ("RING_ENTRIES_MAX", RING_ENTRIES_MAX.into()),
                ("REACTORS_MAX", REACTORS_MAX.into()),
                ("SHARDS_MAX", SHARDS_MAX.into()),
                ("KEY_BYTES_MAX", KEY_BYTES_MAX as u64),
                ("VALUE_BYTES_MAX", VALUE_BYTES_MAX as u64),
                ("NAME_BYTES_MAX", NAME_BYTES_MAX as u64),
                ("PAGES_MAX", PAGES_MAX as u64),
                ("PAGE_NUMBER_BYTES", PAGE_NUMBER_BYTES as u64),
                ("PAGE_ENTRY_BYTES", PAGE_ENTRY_BYTES as u64),
                ("PAGE_HEADER_BYTES", PAGE_HEADER_BYTES as u64),
                ("TTL_MS_MAX", TTL_MS_MAX),
                ("PRODUCER_WINDOW", PRODUCER_WINDOW as u64),
                ("BATCH_HEADER_BYTES", BATCH_HEADER_BYTES as u64),
                ("PAIR_HEADER_BYTES", PAIR_HEADER_BYTES as u64),
                ("EVENT_HEADER_BYTES", EVENT_HEADER_BYTES as u64),
                ("PAIR_TIMED", PAIR_TIMED.into()),
                ("TRIM_BEGINS", TRIM_BEGINS),
                ("CATALOG_HEADER_BYTES", CATALOG_HEADER_BYTES as u64),
                ("HEAD_BYTES", HEAD_BYTES as u64),
                ("ATTRIBUTE_CHAINED", ATTRIBUTE_CHAINED),
                ("CURSOR_HEADER_BYTES", CURSOR_HEADER_BYTES as u64),
                ("CURSOR_ABSENT", CURSOR_ABSENT),
                ("RETENTION_AS_IS", RETENTION_AS_IS),
                ("PLAIN_HEADER_BYTES", PLAIN_HEADER_BYTES as u64),
                ("COMPRESSED_HEADER_BYTES", COMPRESSED_HEADER_BYTES as u64),
                ("DELTA_PREFIX_BYTES", DELTA_PREFIX_BYTES as u64),
                ("DELTA_HEADER_BYTES", DELTA_HEADER_BYTES as u64),
                ("COMMIT_HEADER_BYTES", commit::HEADER_BYTES as u64),
                ("COMMIT_ENTRIES_MAX", commit::ENTRIES_MAX as u64),
                ("AUX_MORE", AUX_MORE),
                ("NOTICE_WAKE", notice::WAKE.into()),
            ],
        )
    }

    fn handshake_tables() -> Vec<Table> {
        vec![
            table(
                "hello",
                "HELLO_",
                &[
                    ("magic", hello::MAGIC as u64),
                    ("version", hello::VERSION as u64),
                    ("sq_entries", hello::SQ_ENTRIES as u64),
                    ("cq_entries", hello::CQ_ENTRIES as u64),
                    ("arena_bytes", hello::ARENA_BYTES as u64),
                    ("bytes", hello::BYTES as u64),
                ],
            ),
            table(
                "welcome",
                "WELCOME_",
                &[
                    ("magic", welcome::MAGIC as u64),
                    ("version", welcome::VERSION as u64),
                    ("status", welcome::STATUS as u64),
                    ("segment_bytes", welcome::SEGMENT_BYTES as u64),
                    ("reactors", welcome::REACTORS as u64),
                    ("text_bytes", welcome::TEXT_BYTES as u64),
                    ("text", welcome::TEXT as u64),
                    ("bytes", welcome::BYTES as u64),
                ],
            ),
            table(
                "welcome status",
                "",
                &[
                    ("WELCOME", welcome::WELCOME.into()),
                    ("REFUSED", welcome::REFUSED.into()),
                    ("ENDED", welcome::ENDED.into()),
                ],
            ),
            table(
                "order",
                "ORDER_",
                &[
                    ("magic", order::MAGIC as u64),
                    ("version", order::VERSION as u64),
                    ("verb", order::VERB as u64),
                    ("path", order::PATH as u64),
                    ("bytes_max", order::BYTES_MAX as u64),
                ],
            ),
            table("order values", "ORDER_", &[("MAGIC_VALUE", order::MAGIC_VALUE), ("RESUME", order::RESUME.into())]),
        ]
    }

    fn memory_tables() -> Vec<Table> {
        vec![
            table(
                "segment",
                "SEGMENT_",
                &[
                    ("magic", segment::MAGIC as u64),
                    ("version", segment::VERSION as u64),
                    ("reactors", segment::REACTORS as u64),
                    ("sq_entries", segment::SQ_ENTRIES as u64),
                    ("cq_entries", segment::CQ_ENTRIES as u64),
                    ("rings_offset", segment::RINGS_OFFSET as u64),
                    ("ring_stride", segment::RING_STRIDE as u64),
                    ("arena_offset", segment::ARENA_OFFSET as u64),
                    ("arena_bytes", segment::ARENA_BYTES as u64),
                    ("shards", segment::SHARDS as u64),
                    ("key_bytes_max", segment::KEY_BYTES_MAX as u64),
                    ("value_bytes_max", segment::VALUE_BYTES_MAX as u64),
                    ("ended", segment::ENDED as u64),
                    ("namespace", segment::NAMESPACE as u64),
                    ("cuts", segment::CUTS as u64),
                    ("header_bytes", segment::HEADER_BYTES as u64),
                ],
            ),
            table(
                "ring block",
                "RING_",
                &[
                    ("sq_head", segment::SQ_HEAD as u64),
                    ("server_need_wakeup", segment::SERVER_NEED_WAKEUP as u64),
                    ("cq_head", segment::CQ_HEAD as u64),
                    ("client_need_wakeup", segment::CLIENT_NEED_WAKEUP as u64),
                    ("sq_entries_offset", segment::SQ_ENTRIES_OFFSET as u64),
                ],
            ),
        ]
    }

    fn entry_tables() -> Vec<Table> {
        vec![
            submission_table(),
            completion_table(),
            table(
                "commit entry",
                "COMMIT_",
                &[
                    ("object", commit::OBJECT as u64),
                    ("value_bytes", commit::VALUE_BYTES as u64),
                    ("key_bytes", commit::KEY_BYTES as u64),
                    ("kind", commit::KIND as u64),
                ],
            ),
            table(
                "commit kinds",
                "COMMIT_",
                &[("READ", commit::READ.into()), ("PUT", commit::PUT.into()), ("DELETE", commit::DELETE.into())],
            ),
            named("opcodes", "OP_", (0..=u8::MAX).filter_map(|value| Some((Opcode::from_wire(value)?, value.into())))),
            table(
                "flags",
                "FLAG_",
                &[
                    ("DURABILITY_MASK", flag::DURABILITY_MASK.into()),
                    ("IF_VERSION", flag::IF_VERSION.into()),
                    ("RELAXED", flag::RELAXED.into()),
                    ("PREFIX", flag::PREFIX.into()),
                    ("EXPIRES", flag::EXPIRES.into()),
                    ("REWIND", flag::REWIND.into()),
                    ("KEYS_ONLY", flag::KEYS_ONLY.into()),
                ],
            ),
            named(
                "durabilities",
                "DURABILITY_",
                (0..=u8::MAX).filter_map(|v| Some((Durability::from_wire(v)?, v.into()))),
            ),
            named("kinds", "KIND_", (0..=u8::MAX).filter_map(|v| Some((ObjectKind::from_wire(v)?, v.into())))),
            named(
                "compressions",
                "COMPRESSION_",
                (0..=u8::MAX).filter_map(|v| Some((Compression::from_wire(v)?, v.into()))),
            ),
            named("statuses", "STATUS_", (0..=u16::MAX).filter_map(|v| Some((Status::from_wire(v)?, v.into())))),
            named("end reasons", "END_", (0..=1_000).filter_map(|v| Some((EndReason::from_wire(v)?, v.into())))),
        ]
    }

    fn named<T: std::fmt::Debug>(
        name: &'static str,
        prefix: &'static str,
        values: impl Iterator<Item = (T, u64)>,
    ) -> Table {
        Table { name, prefix, rows: values.map(|(value, wire)| (format!("{value:?}"), wire)).collect() }
    }

    /// Where a field lies in an entry: the first byte that it changes.
    fn offset(words: [u64; ENTRY_WORDS]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.iter().position(|byte| *byte != 0).unwrap() as u64
    }

    fn submission_table() -> Table {
        let empty = Submission::default();
        let at = |submission: Submission| offset(submission.to_words());
        table(
            "submission",
            "SQE_",
            &[
                ("user_data", at(Submission { user_data: u64::MAX, ..empty })),
                ("opcode", at(Submission { opcode: u8::MAX, ..empty })),
                ("flags", at(Submission { flags: u8::MAX, ..empty })),
                ("key_bytes", at(Submission { key_bytes: u16::MAX, ..empty })),
                ("object", at(Submission { object: u32::MAX, ..empty })),
                ("payload_offset", at(Submission { payload_offset: u64::MAX, ..empty })),
                ("value_bytes", at(Submission { value_bytes: u32::MAX, ..empty })),
                ("reply_bytes_max", at(Submission { reply_bytes_max: u32::MAX, ..empty })),
                ("reply_offset", at(Submission { reply_offset: u64::MAX, ..empty })),
                ("arg0", at(Submission { arg0: u64::MAX, ..empty })),
                ("arg1", at(Submission { arg1: u64::MAX, ..empty })),
                ("sequence", ENTRY_WORDS as u64 * 8),
            ],
        )
    }

    fn completion_table() -> Table {
        let empty = Completion::default();
        let at = |completion: Completion| offset(completion.to_words());
        table(
            "completion",
            "CQE_",
            &[
                ("user_data", at(Completion { user_data: u64::MAX, ..empty })),
                ("status", at(Completion { status: u16::MAX, ..empty })),
                ("reply_bytes", at(Completion { reply_bytes: u32::MAX, ..empty })),
                ("version", at(Completion { version: u64::MAX, ..empty })),
                ("aux", at(Completion { aux: u64::MAX, ..empty })),
                ("lsn", at(Completion { lsn: u64::MAX, ..empty })),
                ("sequence", ENTRY_WORDS as u64 * 8),
            ],
        )
    }

    /// The rows of a table of the document: its name stands in a comment above, values in the first column and names
    /// in the first column that is set as code.
    fn document_rows(name: &str) -> BTreeMap<String, u64> {
        let marker = format!("<!-- table: {name} -->\n");
        let (_, rest) = DOCUMENT.split_once(&marker).unwrap_or_else(|| panic!("docs/ring.md lacks {marker}"));
        let rows = rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        rows.filter_map(|row| {
            let mut cells = row.trim_matches('|').split('|').map(str::trim);
            let value = cells.next()?.trim_matches('`').replace(',', "");
            let value = match value.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok()?,
                None => value.parse().ok()?,
            };
            let name = cells.find_map(|cell| cell.strip_prefix('`')?.strip_suffix('`').map(str::to_owned))?;
            Some((name, value))
        })
        .collect()
    }

    #[test]
    fn the_document_says_what_the_code_does() {
        for table in tables() {
            let expected: BTreeMap<String, u64> = table.rows.into_iter().collect();
            assert_eq!(document_rows(table.name), expected, "table {:?} of docs/ring.md", table.name);
        }
    }

    #[test]
    fn the_worked_example_is_what_the_code_writes() {
        let submission = Submission {
            user_data: 7,
            opcode: Opcode::Put as u8,
            flags: Durability::Strict as u8,
            key_bytes: 3,
            object: 1,
            payload_offset: 64,
            value_bytes: 5,
            ..Submission::default()
        };
        let completion = Completion { user_data: 7, version: 41, lsn: 1_000, ..Completion::default() };
        for (words, sequence) in [(submission.to_words(), 1u64), (completion.to_words(), 1)] {
            let mut expected = String::new();
            for (at, word) in words.iter().chain([&sequence]).enumerate() {
                let bytes: Vec<String> = word.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                write!(expected, "{}{}", if at % 2 == 0 { "" } else { "  " }, bytes.join(" ")).unwrap();
                expected += if at % 2 == 0 { "" } else { "\n" };
            }
            let plain: String = DOCUMENT
                .lines()
                .filter_map(|line| line.strip_prefix("    ")?.split_once(": ").map(|(_, bytes)| format!("{bytes}\n")))
                .collect();
            assert!(plain.contains(&expected), "docs/ring.md should show\n{expected}");
        }
        for (key, shards) in [("abc", 8), ("", 8), ("abc", 1_000)] {
            let shard = shard_of_key(1, key.as_bytes(), shards);
            let row = format!("| 1 | `{key}` | {shards} | {shard} |");
            assert!(DOCUMENT.contains(&row), "docs/ring.md should have the row {row}");
        }
        let row = format!("| 2 | (a stream) | 8 | {} |", shard_of_stream(2, 8));
        assert!(DOCUMENT.contains(&row), "docs/ring.md should have the row {row}");
    }

    fn upper_snake(name: &str) -> String {
        let mut out = String::new();
        for (at, letter) in name.char_indices() {
            if letter.is_uppercase() && at > 0 && name.chars().any(char::is_lowercase) {
                out.push('_');
            }
            out.extend(letter.to_uppercase());
        }
        out
    }

    fn render_header() -> String {
        let mut out = String::from(
            "/* Forebay's shared-memory rings, for C. Generated from the code by `cargo test --test ring_doc`; the rules\n\
             \x20* stand in docs/ring.md. Offsets are in bytes, and everything is little-endian. */\n\
             #ifndef FOREBAY_RING_H\n#define FOREBAY_RING_H\n\n#include <stdint.h>\n",
        );
        for table in tables() {
            write!(out, "\n/* {} */\n", table.name).unwrap();
            for (name, value) in table.rows {
                let name = format!("FB_{}{}", table.prefix, upper_snake(&name));
                let literal =
                    if value > u64::from(u32::MAX) { format!("UINT64_C({value:#x})") } else { value.to_string() };
                writeln!(out, "#define {name:<28} {literal}").unwrap();
            }
        }
        out.push_str(STRUCTS);
        out
    }

    const STRUCTS: &str = r"
struct fb_submission {
    uint64_t user_data;
    uint8_t opcode;
    uint8_t flags;
    uint16_t key_bytes;
    uint32_t object;
    uint64_t payload_offset;
    uint32_t value_bytes;
    uint32_t reply_bytes_max;
    uint64_t reply_offset;
    uint64_t arg0;
    uint64_t arg1;
    uint64_t sequence; /* stored last, with release */
};

struct fb_completion {
    uint64_t user_data;
    uint16_t status;
    uint16_t zero;
    uint32_t reply_bytes;
    uint64_t version;
    uint64_t aux;
    uint64_t lsn;
    uint64_t zeros[2];
    uint64_t sequence; /* loaded first, with acquire */
};

#endif
";

    #[test]
    fn the_c_header_is_up_to_date() {
        let rendered = render_header();
        if std::env::var_os("FOREBAY_REGENERATE").is_some() {
            std::fs::write(HEADER, &rendered).unwrap();
        }
        let present = std::fs::read_to_string(HEADER).unwrap_or_default();
        assert!(present == rendered, "docs/forebay_ring.h is stale; see the top of this file for how to write it anew");
    }

    #[test]
    fn the_c_header_compiles_and_its_structs_have_the_layout() {
        let mut source = format!("#include <stddef.h>\n#include \"{HEADER}\"\n");
        for (table, name) in [(submission_table(), "fb_submission"), (completion_table(), "fb_completion")] {
            writeln!(source, "_Static_assert(sizeof(struct {name}) == FB_ENTRY_BYTES, \"size\");").unwrap();
            for (field, at) in table.rows {
                writeln!(source, "_Static_assert(offsetof(struct {name}, {field}) == {at}, \"{field}\");").unwrap();
            }
        }
        let path = std::env::temp_dir().join(format!("forebay-header-{}.c", std::process::id()));
        std::fs::write(&path, source).unwrap();
        let result = std::process::Command::new("cc")
            .args(["-std=c11", "-Wall", "-Werror", "-fsyntax-only"])
            .arg(&path)
            .output();
        std::fs::remove_file(&path).unwrap();
        match result {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => println!("skipped: no C compiler ({error})"),
        }
    }
}
