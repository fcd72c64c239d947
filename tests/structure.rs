//! Holds the shape of the source tree: who may import whom, where `unsafe` may stand, and how large things may be.
//! docs/architecture.md says why. The checkers read text, so each is first shown a snippet that it must refuse.

#[path = "structure/scan.rs"]
mod scan;

use std::fs;
use std::path::{Path, PathBuf};

use scan::{Source, functions, imports, unsafe_blocks};

/// A module, and the modules of ours that it may name. A child is checked as its parent unless it has a row of its
/// own; every module may name itself, `types`, `error` and `bytes`.
const IMPORTS: &[(&str, &[&str])] = &[
    ("main", &["cli", "sys"]),
    // Of the store only what a catalog record means, for `inspect`.
    (
        "cli",
        &[
            "appliance",
            "config",
            "device",
            "doctor",
            "load",
            "ring::client",
            "ring::protocol",
            "ring::server",
            "run",
            "sim",
            "soak",
            "store::catalog",
            "timing",
            "wal",
        ],
    ),
    ("appliance", &["buffer", "config", "device", "metrics", "reactor", "ring", "store", "sys", "wal"]),
    ("reactor", &["buffer", "device", "metrics", "ring::protocol", "ring::server", "store", "sys", "timing", "wal"]),
    ("load", &["ring::client", "ring::protocol", "sys", "timing"]),
    ("run", &["ring::client", "ring::protocol"]),
    ("sim", &["appliance", "buffer", "config", "device", "reactor", "ring", "store", "sys", "wal"]),
    // A client like any other, that also lays down and verifies what its daemon runs on.
    ("soak", &["appliance", "config", "load", "ring::client", "ring::protocol", "wal"]),
    // The store answers in the words of the protocol, appends what it decides with buffers it does not look at, and gives
    // memory back to the machine.
    ("store", &["buffer", "ring::protocol", "sys", "wal"]),
    ("wal", &["buffer", "device", "ring::protocol", "sys", "timing"]),
    ("device", &["buffer", "sys"]),
    // It holds a configuration against the machine.
    ("doctor", &["config", "device", "sys"]),
    ("buffer", &["sys"]),
    ("ring", &["sys"]),
    ("ring::client", &["ring::protocol", "ring::segment", "sys", "timing"]),
    // The shard of a key is a checksum.
    ("ring::protocol", &["sys::crc"]),
    // The server pairs a client with itself in one process, for the simulator, and hands over what makes the client.
    ("ring::server", &["ring::client::ClientParts", "ring::protocol", "ring::segment", "sys"]),
    ("ring::segment", &["ring::protocol", "sys"]),
    // Only in tests: a whole reactor in one thread, and a daemon without one.
    ("reactor::tests", &["appliance", "reactor", "buffer", "device", "ring", "store", "sys", "wal"]),
    ("load::fake", &["ring", "sys"]),
    // Of the log only what a size has to hold: one rule for the smallest device.
    ("config", &["buffer", "ring::protocol", "wal::layout"]),
    ("metrics", &["ring::protocol"]),
    // Everyone who is on the way of a request tells it so.
    ("timing", &[]),
    ("bytes", &["types"]),
    ("error", &[]),
    ("types", &[]),
];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that may be longer, as ("file", "function", "reason").
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// What a finished tree does not contain. Spelt in halves, so that this file does not refuse itself.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
];

fn import_problems(source: &Source) -> Vec<String> {
    let module = source.module();
    if module == "lib" {
        return Vec::new();
    }
    let Some(row) = row(&module) else {
        return vec![format!("{}: module {module} has no row in the import table", source.path)];
    };
    let mut problems = Vec::new();
    for (line, target) in imports(source) {
        let own =
            within(&target, row.0) || (row.0 != "ring::server" && row.0 != "ring::client" && within(row.0, &target));
        let common = ["types", "error", "bytes"].iter().any(|module| within(&target, module));
        if !own && !common && !row.1.iter().any(|allowed| within(&target, allowed)) {
            problems.push(format!("{}:{line}: {module} may not name {target}", source.path));
        }
    }
    problems
}

/// The most exact row for a module: its own, else its parent's.
fn row(module: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    IMPORTS.iter().filter(|(name, _)| within(module, name)).max_by_key(|(name, _)| name.len())
}

/// `path` is `module` or lies in it.
fn within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn unsafe_problems(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for block in unsafe_blocks(source) {
        let place = format!("{}:{}", source.path, block.line);
        if !source.path.starts_with("sys/") {
            problems.push(format!("{place}: unsafe outside sys/"));
        } else if block.is_block && !block.has_comment {
            problems.push(format!("{place}: no SAFETY comment above"));
        } else if block.is_block && block.statements > 1 {
            problems.push(format!("{place}: {} operations in one block", block.statements));
        }
    }
    problems
}

fn size_problems(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        problems.push(format!("{}: {lines} lines, more than {FILE_LINES_MAX}", source.path));
    }
    for function in functions(source) {
        let excused = LONG_FUNCTIONS.iter().any(|(file, name, _)| *file == source.path && *name == function.name);
        if function.lines > FUNCTION_LINES_MAX && !excused {
            problems.push(format!(
                "{}:{}: {} has {} lines, more than {FUNCTION_LINES_MAX}",
                source.path, function.line, function.name, function.lines
            ));
        }
    }
    problems
}

fn word_problems(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
            problems.push(format!("{}:{}: {word} stands in a finished tree", source.path, index + 1));
        }
    }
    for (index, line) in source.code.lines().enumerate() {
        if line.trim_start().starts_with(concat!("#![", "allow(")) {
            problems.push(format!("{}:{}: a blanket allow", source.path, index + 1));
        }
    }
    problems
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of these folders, with paths relative to the repository.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the tree is readable");
            pending.extend(entries.map(|entry| entry.expect("the tree is readable").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(Source::new(&relative(&path), &fs::read_to_string(&path).expect("a source file is UTF-8")));
        }
    }
    assert!(!found.is_empty(), "no sources under {folders:?}");
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("the path lies in the tree").to_string_lossy().into_owned()
}

fn assert_none(problems: impl Iterator<Item = String>) {
    let problems: Vec<String> = problems.collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn modules_import_what_the_table_allows() {
    assert_none(sources(&["src"]).iter().flat_map(import_problems));
    assert_none(sources(&["sys/src"]).iter().flat_map(|source| {
        let path = source.path.clone();
        let ours = source.code.lines().enumerate().filter(|(_, line)| line.contains("forebay::"));
        ours.map(|(index, _)| format!("{path}:{}: sys imports nothing of ours", index + 1)).collect::<Vec<_>>()
    }));
}

#[test]
fn unsafe_stands_in_sys_alone() {
    let all = sources(&["src", "sys", "tests", "benches", "examples"]);
    // A peer's library that has no safe way to be opened.
    let ours = all.iter().filter(|source| source.path != "benches/peers/src/peers/lmdb.rs");
    assert_none(ours.flat_map(unsafe_problems));
    for file in ["src/lib.rs", "src/main.rs"] {
        let text = fs::read_to_string(root().join(file)).expect("the file is there");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{file} does not forbid unsafe code");
    }
}

#[test]
fn files_and_functions_stay_small() {
    assert_none(sources(&["src", "sys", "tests"]).iter().flat_map(size_problems));
}

#[test]
fn nothing_is_left_unfinished() {
    assert_none(sources(&["src", "sys", "tests"]).iter().flat_map(word_problems));
}

#[test]
fn every_preset_is_loaded_by_a_test() {
    let tests = fs::read_to_string(root().join("src/config/tests.rs")).expect("the test is there");
    for entry in fs::read_dir(root().join("configs")).expect("configs/ is there") {
        let name = entry.expect("configs/ is readable").file_name().to_string_lossy().into_owned();
        if name.ends_with(".toml") {
            assert!(tests.contains(&format!("\"{name}\"")), "no test loads configs/{name}");
        }
    }
}

fn at(path: &str, text: &str) -> Source {
    Source::new(path, text)
}

#[test]
fn the_import_checker_can_fail() {
    let refused = |path, text| import_problems(&at(path, text)).len();
    assert_eq!(refused("src/wal.rs", "use crate::ring::server::Server;"), 1);
    assert_eq!(refused("src/wal/frame.rs", "use crate::{types::Lsn, store::Store, buffer::{Pool, Buffer}};"), 1);
    assert_eq!(refused("src/store.rs", "fn f() { crate::reactor::turn(); }"), 1);
    assert_eq!(refused("src/load/job.rs", "use crate::ring::{client::Client, server::Server};"), 1);
    assert_eq!(refused("src/main.rs", "use forebay::wal::scan;"), 1);
    assert_eq!(refused("src/metrics.rs", "use forebay_sys::shm::Shm;"), 1);
    assert_eq!(refused("src/ring/client.rs", "use crate::ring::server::Server;"), 1);
    assert_eq!(refused("src/ring/client.rs", "use super::server::Server;"), 1);
    assert_eq!(refused("src/ring/protocol.rs", "mod inner { use super::super::server::X; use super::Y; }"), 1);
    assert_eq!(refused("src/novel.rs", ""), 1);
    assert_eq!(refused("src/wal/frame.rs", "use crate::wal::record::Record;\nuse crate::types::Lsn;"), 0);
    assert_eq!(refused("src/wal.rs", "// use crate::store::Store;\nconst X: &str = \"crate::store::X\";"), 0);
    assert_eq!(refused("src/cli/get.rs", "use crate::cli::Context;\nuse forebay::ring::client::Client;"), 0);
}

#[test]
fn the_unsafe_checker_can_fail() {
    let refused = |path, text| unsafe_problems(&at(path, text)).len();
    let good = "fn f() {\n    // SAFETY: the pointer is valid.\n    unsafe { read(p) };\n}\n";
    assert_eq!(refused("sys/src/shm.rs", good), 0);
    assert_eq!(refused("src/shm.rs", good), 1);
    assert_eq!(refused("sys/src/shm.rs", "fn f() {\n    unsafe { read(p) };\n}\n"), 1);
    assert_eq!(refused("sys/src/shm.rs", "// SAFETY: both.\nlet x = unsafe { a(); b() };\n"), 1);
    assert_eq!(refused("src/a.rs", "unsafe impl Send for X {}"), 1);
    assert_eq!(refused("src/a.rs", "// unsafe { }\nconst X: &str = \"unsafe { }\";"), 0);
    assert_eq!(refused("src/a.rs", "#![forbid(unsafe_code)]"), 0);
}

#[test]
fn the_size_checker_can_fail() {
    let refused = |text: &str| size_problems(&at("src/a.rs", text)).len();
    let body = |lines: usize| format!("fn f() {{\n{}}}\n", "    x();\n".repeat(lines));
    assert_eq!(refused(&body(FUNCTION_LINES_MAX - 2)), 0);
    assert_eq!(refused(&body(FUNCTION_LINES_MAX)), 1);
    assert_eq!(refused(&format!("struct F(fn(u8) -> u8);\n{}", body(80))), 1);
    assert_eq!(refused(&"// a line\n".repeat(FILE_LINES_MAX + 1)), 1);
    assert_eq!(refused(&"fn f() { let c = '{'; let s = \"{{\"; }\n".repeat(200)), 0);
}

#[test]
fn the_word_checker_can_fail() {
    for word in UNFINISHED {
        assert_eq!(word_problems(&at("src/a.rs", &format!("{word}x)"))).len(), 1, "{word}");
    }
    assert_eq!(word_problems(&at("src/a.rs", concat!("#![", "allow(dead_code)]"))).len(), 1);
    assert_eq!(word_problems(&at("src/a.rs", "#[expect(dead_code, reason = \"none\")]")).len(), 0);
}
