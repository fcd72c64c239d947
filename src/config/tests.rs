use std::path::Path;

use super::*;
use crate::wal::layout::Layout;

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("f.toml"))
}

fn errors(text: &str) -> Vec<String> {
    parse(text).expect_err("the file has errors").to_string().lines().map(String::from).collect()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("[wal]\n[log]\n").unwrap(), Config::default());
    Config::default().check().unwrap();
    assert_eq!(Config::default().reactors.count(), 1);
}

#[test]
fn every_kind_of_value() {
    let config = parse(
        r#"
        device.path = "/dev/x"
        [format]
        capacity = "1GiB"
        shards = 2
        [defaults]
        durability = "buffered"
        [reactors]
        cores = [2, 3]
        spin = "forever"
        [wal]
        window_interval = "10ms"
        [rings]
        mode = 0o660
        [flight]
        directory = ""
        [log]
        level = "debug"
        "#,
    )
    .unwrap();
    assert_eq!(config.device.path.as_deref(), Some(Path::new("/dev/x")));
    assert_eq!(config.format.capacity, Some(ByteSize::gib(1)));
    assert_eq!(config.defaults.durability, Durability::Buffered);
    assert_eq!((config.reactors.count(), config.reactors.spin), (2, Spin::Forever));
    assert_eq!(config.wal.window_interval, Nanos::millis(10));
    assert_eq!(config.rings.mode, 0o660);
    assert_eq!(config.warnings().len(), 1);
    assert_eq!(config.log.level.name(), "debug");
}

#[test]
fn all_errors_are_named_at_once_with_their_lines() {
    let errors = errors(
        "[wal]\n\
         frame_bytes = \"64KiB\"\n\
         frames_in_flight_max = 0\n\
         window_interval = \"5\"\n\
         \n\
         [limitz]\n\
         keys_max = 3\n\
         [limits]\n\
         value_bytes_max = \"17MiB\"\n\
         keys_max = \"many\"\n\
         [reactors]\n\
         cores = [1, 1]\n\
         [log]\n\
         level = \"loud\"\n",
    );
    let expected = [
        ("f.toml: 8 errors", ""),
        ("f.toml:2: ", "unknown field `frame_bytes`, expected one of `frame_bytes_max`"),
        ("f.toml:3: ", "wal.frames_in_flight_max is 0; use a value from 1 to 256"),
        ("f.toml:4: ", "\"5\" is not a duration"),
        ("f.toml:7: ", "unknown field `limitz`, expected one of `device`"),
        ("f.toml:9: ", "limits.value_bytes_max is 17MiB; use a value from 1B to 16MiB"),
        ("f.toml:10: ", "invalid type: string \"many\", expected u64"),
        ("f.toml:12: ", "reactors.cores names core 1 twice"),
        ("f.toml:14: ", "unknown variant `loud`"),
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, (start, text)) in errors.iter().zip(expected) {
        assert!(error.starts_with(start) && error.contains(text), "{error} is not {start}{text}");
    }
}

#[test]
fn broken_syntax_is_named_with_the_rest() {
    let errors = errors("[wal]\nwindow_interval = = \"5ms\"\nframes_in_flight_max = 999\n[limits\nshards = 3\n");
    assert!(errors.iter().any(|error| error.starts_with("f.toml:2: ")), "{errors:#?}");
    assert!(errors.iter().any(|error| error.starts_with("f.toml:3: ")), "{errors:#?}");
    assert!(errors.iter().any(|error| error.starts_with("f.toml:4: ")), "{errors:#?}");
}

#[test]
fn a_key_given_twice_is_an_error() {
    assert_eq!(errors("[log]\nlevel = \"info\"\nlevel = \"warn\"\n"), ["f.toml:3: duplicate key"]);
}

#[test]
fn a_section_that_is_a_value_is_an_error() {
    let errors = errors("wal = 3\n");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].starts_with("f.toml:1: invalid type: integer `3`"), "{errors:#?}");
}

#[test]
fn a_size_without_quotes_says_how_to_write_it() {
    let errors = errors("[wal]\nwindow_bytes = 1048576\n");
    assert!(errors[0].contains("expected a size in quotes, such as \"64MiB\""), "{errors:#?}");
}

#[test]
fn bounds_across_fields() {
    for (text, message) in [
        ("[wal]\nframe_bytes_max = \"5000B\"", "multiple of 4KiB"),
        (
            "[format]\nsegment_bytes = \"1MiB\"\n[wal]\nframe_bytes_max = \"1MiB\"",
            "at most half of format.segment_bytes",
        ),
        ("[format]\nsegment_bytes = \"64MiB\"\ncapacity = \"64MiB\"", "use at least 769MiB, fewer shards"),
        ("[format]\ncapacity = \"16MiB\"", "too small for 3 segments of 2MiB for each of 4 shards; use at least 25MiB"),
        ("[rings]\nsq_entries = 2048", "use at least rings.sq_entries (2048)"),
        ("[rings]\nsq_entries = 100", "use a power of two, such as 128"),
        ("[rings]\narena_bytes = \"1MiB\"", "twice the largest key and value"),
        ("[rings]\narena_bytes = \"2GiB\"", "at most rings.arena_bytes_max (256MiB)"),
        ("[rings]\nmode = 0o7777", "permission bits only"),
        ("[reactors]\ncount = 3\ncores = [1]", "names 1 cores for 3 reactors"),
        ("[flight]\ndirectory = \"shm\"", "absolute path"),
        ("[device]\npath = \"\"", "is empty"),
    ] {
        let errors = errors(text);
        assert!(errors.iter().any(|error| error.contains(message)), "{text}: {errors:#?}");
    }
}

#[test]
fn the_least_capacity_is_one_that_can_be_laid_out() {
    for (shards, segment_mib) in [(1, 1), (4, 64), (16, 256), (1_024, 1)] {
        let mut config = Config::default();
        config.wal.frame_bytes_max = ByteSize::kib(64);
        let segment_bytes = ByteSize::mib(segment_mib);
        (config.format.shards, config.format.segment_bytes) = (shards, Some(segment_bytes));
        let least = Layout::device_bytes_min(segment_bytes.0, shards);
        config.format.capacity = Some(ByteSize(least));
        config.check().unwrap();
        Layout::plan(least, segment_bytes.0, shards).unwrap();
        config.format.capacity = Some(ByteSize(least - 4_096));
        assert!(config.check().unwrap_err().to_string().contains("format.capacity"));
        Layout::plan(least - 4_096, segment_bytes.0, shards).unwrap_err();
    }
}

#[test]
fn chosen_segments_are_served() {
    let mut config = Config::default();
    for (value_kib, frame_kib, least_mib) in [(1_024, 256, 2), (1, 4, 1), (16 << 10, 256, 32), (1, 16 << 10, 64)] {
        config.limits.value_bytes_max = ByteSize::kib(value_kib);
        config.wal.frame_bytes_max = ByteSize::kib(frame_kib);
        let least = config.segment_bytes_chosen_min();
        assert_eq!(least, least_mib << 20);
        assert_eq!(config.segment_too_small(least), None);
        config.format.segment_bytes = Some(ByteSize(least));
        assert!(config.check().map_err(|error| error.to_string()).map_or_else(|e| !e.contains("frame"), |()| true));
    }
    // What is out of bounds is told of, and nothing overflows over it.
    config.format.segment_bytes = None;
    config.format.capacity = Some(ByteSize(u64::MAX));
    for bytes in [0, 1, 160, u64::MAX] {
        (config.wal.frame_bytes_max, config.limits.value_bytes_max) = (ByteSize(bytes), ByteSize(u64::MAX));
        config.check().unwrap_err();
    }
}

#[test]
fn an_override_is_checked_like_a_file() {
    let mut config = Config::default();
    config.reactors.count = Some(0);
    config.wal.frames_in_flight_max = 0;
    let error = config.check().unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("reactors.count is 0; "), "{error}");
}

#[test]
fn memory_is_the_sum_of_its_parts() {
    let mut config = Config::default();
    let parts = config.memory_parts(4);
    let bytes = |name: &str| parts.iter().find(|part| part.name == name).expect("the part is there").bytes;
    assert_eq!(bytes("spaces and streams"), 1 << 30);
    // The largest value takes 5 frames, its key and its end 2, a header 1; each of 4 shards 4 in flight and 2 more.
    let frames = 5 + 2 + 1 + 4 * (4 + 2);
    assert_eq!(bytes("frame buffers"), frames * (256 << 10));
    assert_eq!(bytes("flight recorder"), 4 * frames * (256 << 10));
    assert!(bytes("clients' rings") > 64 * (64 << 20));
    config.flight.directory = PathBuf::new();
    assert_eq!(config.memory_parts(4).len(), parts.len() - 1);
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = Config::load(Path::new("/nonexistent/forebay.toml")).unwrap_err().to_string();
    assert!(error.starts_with("read /nonexistent/forebay.toml: ") && error.contains("--config"), "{error}");
}

#[test]
fn every_preset_loads() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let config = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(config, Config::default(), "{} changes nothing", path.display());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} does not open with why and when", path.display());
        names.push(path.file_name().expect("a file has a name").to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["batch.toml", "dev.toml", "interactive.toml", "memory.toml", "throughput.toml"]);
}
