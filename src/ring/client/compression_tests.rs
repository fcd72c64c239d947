use super::*;
use crate::ring::client::pairs;
use crate::types::{Durability, ObjectKind};

fn space(compression: Compression) -> Object {
    let (id, kind, durability) = (ObjectId(1), ObjectKind::Space, Durability::Strict);
    Object { id, kind, durability, compression }
}

/// The codecs that this build has.
fn codecs() -> impl Iterator<Item = Compression> {
    [Compression::Lz4, Compression::Zstd].into_iter().filter(|compression| Codecs::has(*compression))
}

/// Bytes that nothing compresses.
fn noise(bytes: usize) -> Vec<u8> {
    let mut word = 1u64;
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

fn stored(compressor: &mut Compressor, space: Object, plain: &[u8]) -> Vec<u8> {
    let mut room = Vec::new();
    let encoded = compressor.encode(space, plain, &mut room);
    compressor.count(space, encoded);
    room.truncate(encoded.bytes);
    room
}

fn decoded(stored: &[u8], value_bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut out = b"before".to_vec();
    let result = Compressor::default().decode(stored, value_bytes_max, &mut out);
    assert!(out.starts_with(b"before"));
    match result {
        Ok(()) => Ok(out.split_off(6)),
        Err(cause) => {
            assert_eq!(out, b"before", "what failed leaves nothing behind");
            Err(cause)
        }
    }
}

#[test]
fn every_value_comes_back() {
    for compression in codecs() {
        let mut compressor = Compressor::default();
        for bytes in [0, 1, 63, 64, 65, 1_000, 4_096, 65_534, 65_535, 65_536, 300_000] {
            for plain in [vec![b'a'; bytes], noise(bytes), [noise(bytes / 2), vec![0; bytes - bytes / 2]].concat()] {
                let stored = stored(&mut compressor, space(compression), &plain);
                assert!(stored.len() <= bytes + 1, "never more than a byte longer");
                assert_eq!(decoded(&stored, bytes).as_ref(), Ok(&plain), "{compression:?}, {bytes} B");
            }
        }
        let stats = compressor.stats;
        assert_eq!(stats.values, 33);
        assert!(stats.compressed >= 8 && stats.compressed < stats.tried && stats.tried < stats.values, "{stats:?}");
        assert!(stats.ratio() > 1.2 && stats.skipped() >= 9, "{stats:?}");
    }
}

#[test]
fn what_saves_little_stays_plain() {
    for compression in codecs() {
        // 60 of 1,000 bytes can be saved.
        let plain = [noise(930), vec![7; 70]].concat();
        let stored = stored(&mut Compressor::default(), space(compression), &plain);
        assert_eq!((stored.len(), stored[0]), (1_001, 0));
        let plain = [noise(600), vec![7; 400]].concat();
        let stored = super::tests::stored(&mut Compressor::default(), space(compression), &plain);
        assert_eq!((stored.len() < 700, stored[0]), (true, compression as u8));
    }
}

#[test]
fn values_that_never_shrink_are_tried_rarely_until_one_does() {
    for compression in codecs() {
        let mut compressor = Compressor::default();
        let (hopeless, good) = (noise(1_000), vec![7; 1_000]);
        for _ in 0..8 + 16 * 10 {
            stored(&mut compressor, space(compression), &hopeless);
        }
        assert_eq!((compressor.stats.tried, compressor.stats.skipped()), (8 + 10, 150));
        let other = Object { id: ObjectId(2), ..space(compression) };
        assert_eq!(stored(&mut compressor, other, &good)[0], compression as u8, "each space is judged by itself");
        let compressed = (0..16).filter(|_| stored(&mut compressor, space(compression), &good)[0] != 0).count();
        assert_eq!(compressed, 1, "the sixteenth pays");
        let compressed = (0..16).filter(|_| stored(&mut compressor, space(compression), &good)[0] != 0).count();
        assert_eq!(compressed, 16);
    }
}

#[test]
fn a_request_that_found_no_room_counts_nothing() {
    let mut compressor = Compressor::default();
    let mut room = Vec::new();
    for compression in codecs() {
        for _ in 0..20 {
            let encoded = compressor.encode(space(compression), &noise(100), &mut room);
            assert_eq!(encoded.tried, Tried::Missed);
        }
    }
    assert_eq!(compressor.stats, CompressionStats::default());
}

#[test]
fn bombs_are_refused_before_there_is_room_for_them() {
    for form in [1u8, 2] {
        for length in [1_001u32, u32::MAX] {
            let bomb = [&[form][..], &length.to_le_bytes(), &[0; 40]].concat();
            let mut out = Vec::new();
            let cause = Compressor::default().decode(&bomb, 1_000, &mut out).unwrap_err();
            assert!(cause.contains("over the limit of 1000 B"), "{cause}");
            assert_eq!(out.capacity(), 0);
        }
    }
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    assert!(decoded(&[], 100).is_err());
    assert!(decoded(&[4, 1, 2], 100).unwrap_err().contains("form 4"));
    assert!(decoded(&[3, 1, 0, 0, 0, 9], 100).unwrap_err().contains("delta"));
    for compression in codecs() {
        let plain = [noise(100), vec![7; 900]].concat();
        let good = stored(&mut Compressor::default(), space(compression), &plain);
        for end in 1..good.len() {
            assert!(decoded(&good[..end], 1_000).is_err(), "{compression:?} cut at {end}");
        }
        for at in 1..5 {
            let mut wrong = good.clone();
            wrong[at] ^= 1;
            assert!(decoded(&wrong, 1 << 20).is_err(), "{compression:?}: a length that is not its own");
        }
        for at in 5..good.len() {
            let mut wrong = good.clone();
            wrong[at] ^= 0x55;
            // There is no checksum here: the log has one. It is enough that the length holds.
            assert!(decoded(&wrong, 1_000).is_ok_and(|plain| plain.len() == 1_000) || decoded(&wrong, 1_000).is_err());
        }
    }
}

#[test]
fn without_the_feature_values_stay_plain_and_compressed_ones_name_it() {
    for compression in [Compression::Lz4, Compression::Zstd].into_iter().filter(|codec| !Codecs::has(*codec)) {
        let mut compressor = Compressor::default();
        let plain = vec![7; 1_000];
        let stored = stored(&mut compressor, space(compression), &plain);
        assert_eq!(decoded(&stored, 1_000), Ok(plain));
        let foreign = [&[compression as u8][..], &10u32.to_le_bytes(), &[0; 10]].concat();
        let cause = decoded(&foreign, 1_000).unwrap_err();
        assert!(cause.contains(&format!("without the feature {:?}", compression.name())), "{cause}");
    }
}

fn pair(key: &str, stored: &[u8]) -> Vec<u8> {
    let mut pair = low_u32(key.len() as u64).to_le_bytes().to_vec();
    pair.extend_from_slice(&low_u32(stored.len() as u64).to_le_bytes());
    pair.extend_from_slice(&9u64.to_le_bytes());
    pair.extend_from_slice(key.as_bytes());
    pair.extend_from_slice(stored);
    pair
}

#[test]
fn a_scan_is_decoded_pair_by_pair_and_cut_where_it_would_grow_too_far() {
    let compression = Compression::Zstd;
    if !Codecs::has(compression) {
        return;
    }
    let mut compressor = Compressor::default();
    let large = stored(&mut compressor, space(compression), &vec![7; 6 << 20]);
    let keys = ["a", "b", "c", "d", "e"];
    let reply: Vec<u8> = keys.iter().flat_map(|key| pair(key, &large)).collect();
    let mut out = Vec::new();
    let (decoded, cut) = compressor.decode_pairs(&reply, VALUE_BYTES_MAX, &mut out).unwrap();
    assert_eq!((decoded, cut), (3, true), "three make more than 16 MiB");
    let found: Vec<_> = pairs(&out).map(Result::unwrap).collect();
    assert_eq!((found.len(), found[2].0, found[2].1, found[2].2.len()), (3, &b"c"[..], 9, 6 << 20));

    let reply = [pair("good", &[0, b'v']), pair("bad", &[9])].concat();
    let error = compressor.decode_pairs(&reply, VALUE_BYTES_MAX, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("\"bad\"") && error.contains("form 9"), "{error}");
}
