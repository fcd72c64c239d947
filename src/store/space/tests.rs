//! What a space takes of the memory budget.

use super::*;
use crate::store::cache::CHUNK_BYTES;

#[test]
fn the_index_counts_against_the_budget() {
    const BUDGET_BYTES: u64 = 4 << 20;
    let mut heap = Heap::new(BUDGET_BYTES);
    let mut spaces = Spaces::new(1_000_000, 0, 0, Cache::new(CHUNK_BYTES, 0));
    let put = |spaces: &mut Spaces, heap: &mut Heap, number: u32| {
        let key = number.to_le_bytes();
        spaces.place(
            heap,
            spaces.find(heap, spaces.hash(ObjectId(1), &key), ObjectId(1), &key),
            ObjectId(1),
            &key,
            key.len(),
        )
    };
    let refused = (0..).find(|number| put(&mut spaces, &mut heap, *number).is_err()).unwrap();
    let each = KEY_OVERHEAD_BYTES as u64;
    assert!(u64::from(refused) * each <= BUDGET_BYTES && u64::from(refused) * each > BUDGET_BYTES / 2);
    let (full, kept) = (heap.used_bytes(), refused / 2);
    (kept..refused).for_each(|number| spaces.remove(&mut heap, ObjectId(1), &number.to_le_bytes(), Lsn::NONE));
    assert_eq!(heap.used_bytes(), full - u64::from(refused - kept) * each);
    (kept..refused).for_each(|number| _ = put(&mut spaces, &mut heap, number).unwrap());
    assert!(put(&mut spaces, &mut heap, refused).is_err());
}
