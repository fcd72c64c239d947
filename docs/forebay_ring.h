/* Forebay's shared-memory rings, for C. Generated from the code by `cargo test --test ring_doc`; the rules
 * stand in docs/ring.md. Offsets are in bytes, and everything is little-endian. */
#ifndef FOREBAY_RING_H
#define FOREBAY_RING_H

#include <stdint.h>

/* bounds */
#define FB_MAGIC                     UINT64_C(0x3130474e49524246)
#define FB_VERSION                   1
#define FB_ENTRY_BYTES               64
#define FB_RING_ENTRIES_MIN          2
#define FB_RING_ENTRIES_MAX          65536
#define FB_REACTORS_MAX              250
#define FB_SHARDS_MAX                1024
#define FB_KEY_BYTES_MAX             1024
#define FB_VALUE_BYTES_MAX           16777216
#define FB_NAME_BYTES_MAX            255
#define FB_PAGES_MAX                 64
#define FB_PAGE_NUMBER_BYTES         8
#define FB_PAGE_ENTRY_BYTES          20
#define FB_PAGE_HEADER_BYTES         16
#define FB_TTL_MS_MAX                UINT64_C(0x2de41353000)
#define FB_PRODUCER_WINDOW           8
#define FB_BATCH_HEADER_BYTES        4
#define FB_PAIR_HEADER_BYTES         16
#define FB_EVENT_HEADER_BYTES        16
#define FB_PAIR_TIMED                1
#define FB_TRIM_BEGINS               1
#define FB_CATALOG_HEADER_BYTES      8
#define FB_HEAD_BYTES                32
#define FB_ATTRIBUTE_CHAINED         65536
#define FB_CURSOR_HEADER_BYTES       16
#define FB_CURSOR_ABSENT             UINT64_C(0xffffffffffffffff)
#define FB_RETENTION_AS_IS           UINT64_C(0xffffffffffffffff)
#define FB_PLAIN_HEADER_BYTES        1
#define FB_COMPRESSED_HEADER_BYTES   5
#define FB_DELTA_PREFIX_BYTES        5
#define FB_DELTA_HEADER_BYTES        17
#define FB_COMMIT_HEADER_BYTES       12
#define FB_COMMIT_ENTRIES_MAX        1024
#define FB_AUX_MORE                  UINT64_C(0x100000000)
#define FB_NOTICE_WAKE               1

/* hello */
#define FB_HELLO_MAGIC               0
#define FB_HELLO_VERSION             8
#define FB_HELLO_SQ_ENTRIES          12
#define FB_HELLO_CQ_ENTRIES          16
#define FB_HELLO_ARENA_BYTES         24
#define FB_HELLO_BYTES               64

/* welcome */
#define FB_WELCOME_MAGIC             0
#define FB_WELCOME_VERSION           8
#define FB_WELCOME_STATUS            12
#define FB_WELCOME_SEGMENT_BYTES     16
#define FB_WELCOME_REACTORS          24
#define FB_WELCOME_TEXT_BYTES        28
#define FB_WELCOME_TEXT              32
#define FB_WELCOME_BYTES             512

/* welcome status */
#define FB_WELCOME                   0
#define FB_REFUSED                   1
#define FB_ENDED                     2

/* order */
#define FB_ORDER_MAGIC               0
#define FB_ORDER_VERSION             8
#define FB_ORDER_VERB                12
#define FB_ORDER_PATH                16
#define FB_ORDER_BYTES_MAX           4112

/* order values */
#define FB_ORDER_MAGIC_VALUE         UINT64_C(0x31524544524f4246)
#define FB_ORDER_RESUME              1

/* segment */
#define FB_SEGMENT_MAGIC             0
#define FB_SEGMENT_VERSION           8
#define FB_SEGMENT_REACTORS          12
#define FB_SEGMENT_SQ_ENTRIES        16
#define FB_SEGMENT_CQ_ENTRIES        20
#define FB_SEGMENT_RINGS_OFFSET      24
#define FB_SEGMENT_RING_STRIDE       32
#define FB_SEGMENT_ARENA_OFFSET      40
#define FB_SEGMENT_ARENA_BYTES       48
#define FB_SEGMENT_SHARDS            56
#define FB_SEGMENT_KEY_BYTES_MAX     60
#define FB_SEGMENT_VALUE_BYTES_MAX   64
#define FB_SEGMENT_ENDED             68
#define FB_SEGMENT_NAMESPACE         72
#define FB_SEGMENT_CUTS              88
#define FB_SEGMENT_HEADER_BYTES      4096

/* ring block */
#define FB_RING_SQ_HEAD              0
#define FB_RING_SERVER_NEED_WAKEUP   64
#define FB_RING_CQ_HEAD              128
#define FB_RING_CLIENT_NEED_WAKEUP   192
#define FB_RING_SQ_ENTRIES_OFFSET    256

/* submission */
#define FB_SQE_USER_DATA             0
#define FB_SQE_OPCODE                8
#define FB_SQE_FLAGS                 9
#define FB_SQE_KEY_BYTES             10
#define FB_SQE_OBJECT                12
#define FB_SQE_PAYLOAD_OFFSET        16
#define FB_SQE_VALUE_BYTES           24
#define FB_SQE_REPLY_BYTES_MAX       28
#define FB_SQE_REPLY_OFFSET          32
#define FB_SQE_ARG0                  40
#define FB_SQE_ARG1                  48
#define FB_SQE_SEQUENCE              56

/* completion */
#define FB_CQE_USER_DATA             0
#define FB_CQE_STATUS                8
#define FB_CQE_REPLY_BYTES           12
#define FB_CQE_VERSION               16
#define FB_CQE_AUX                   24
#define FB_CQE_LSN                   32
#define FB_CQE_SEQUENCE              56

/* commit entry */
#define FB_COMMIT_OBJECT             0
#define FB_COMMIT_VALUE_BYTES        4
#define FB_COMMIT_KEY_BYTES          8
#define FB_COMMIT_KIND               10

/* commit kinds */
#define FB_COMMIT_READ               0
#define FB_COMMIT_PUT                1
#define FB_COMMIT_DELETE             2

/* opcodes */
#define FB_OP_NOOP                   0
#define FB_OP_PUT                    1
#define FB_OP_GET                    2
#define FB_OP_DELETE                 3
#define FB_OP_SCAN                   4
#define FB_OP_APPEND                 5
#define FB_OP_APPEND_BATCH           6
#define FB_OP_READ                   7
#define FB_OP_TRIM                   8
#define FB_OP_SYNC                   9
#define FB_OP_OPEN                   10
#define FB_OP_CATALOG                11
#define FB_OP_STATS                  12
#define FB_OP_COMMIT                 13
#define FB_OP_APPEND_ONCE            15
#define FB_OP_SET_CURSOR             16
#define FB_OP_GET_CURSOR             17
#define FB_OP_CURSORS                18
#define FB_OP_DROP_CURSOR            19
#define FB_OP_READ_CHAIN             20
#define FB_OP_SNAPSHOT               21
#define FB_OP_RELEASE                22
#define FB_OP_GET_AT                 23
#define FB_OP_SCAN_AT                24
#define FB_OP_EXTENT                 25
#define FB_OP_WRITE_PAGES            26
#define FB_OP_READ_PAGES             27
#define FB_OP_RETAIN                 28

/* flags */
#define FB_FLAG_DURABILITY_MASK      3
#define FB_FLAG_IF_VERSION           4
#define FB_FLAG_RELAXED              8
#define FB_FLAG_PREFIX               16
#define FB_FLAG_EXPIRES              32
#define FB_FLAG_REWIND               64
#define FB_FLAG_KEYS_ONLY            64

/* durabilities */
#define FB_DURABILITY_MEMORY         1
#define FB_DURABILITY_BUFFERED       2
#define FB_DURABILITY_STRICT         3

/* kinds */
#define FB_KIND_SPACE                1
#define FB_KIND_STREAM               2
#define FB_KIND_PAGES                3

/* compressions */
#define FB_COMPRESSION_NONE          0
#define FB_COMPRESSION_LZ4           1
#define FB_COMPRESSION_ZSTD          2
#define FB_COMPRESSION_DELTA         3

/* statuses */
#define FB_STATUS_OK                 0
#define FB_STATUS_NOT_FOUND          1
#define FB_STATUS_VERSION_MISMATCH   2
#define FB_STATUS_NO_SPACE           3
#define FB_STATUS_NO_MEMORY          4
#define FB_STATUS_TOO_LARGE          5
#define FB_STATUS_BAD_REQUEST        6
#define FB_STATUS_UNKNOWN_OBJECT     7
#define FB_STATUS_WRONG_KIND         8
#define FB_STATUS_FENCED             9
#define FB_STATUS_TRIMMED            10
#define FB_STATUS_TIMED_OUT          11
#define FB_STATUS_WRONG_REACTOR      12
#define FB_STATUS_REPLY_TOO_SMALL    13
#define FB_STATUS_BUSY               14
#define FB_STATUS_STOPPING           15
#define FB_STATUS_DENIED             16
#define FB_STATUS_CONFLICT           17
#define FB_STATUS_TRANSACTION_TOO_LARGE 18
#define FB_STATUS_LOCKED             19
#define FB_STATUS_OUT_OF_SEQUENCE    20
#define FB_STATUS_CURSOR_TRIMMED     21
#define FB_STATUS_CURSOR_MOVED       22
#define FB_STATUS_SNAPSHOT_GONE      23
#define FB_STATUS_TOO_MANY_SNAPSHOTS 24
#define FB_STATUS_UNREADABLE         30

/* end reasons */
#define FB_END_STOPPING              1
#define FB_END_BAD_SEQUENCE          2
#define FB_END_BAD_COMPLETION_HEAD   3
#define FB_END_BAD_OPCODE            4
#define FB_END_BAD_FLAGS             5
#define FB_END_BAD_RANGE             6
#define FB_END_BAD_PAYLOAD           7

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
