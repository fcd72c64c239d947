//! What an NVMe controller says of itself and of a namespace. Bytes and bits as in the NVM Express Base Specification
//! 2.1 (Identify: figures 313 and 312) and the NVM Command Set Specification 1.1 (Identify Namespace: figure 114).

use std::fs::File;
use std::io;

use forebay_sys::uring::nvme::{NvmeCommand, admin_read, namespace_id};

use super::BLOCK_BYTES;
use super::nvme_status::NvmeStatus;
use crate::bytes::{get_u16, get_u32, get_u64};

/// Admin command opcodes (Base Specification, figure 89).
const IDENTIFY: u8 = 0x06;
const GET_FEATURES: u8 = 0x0a;

/// Identify: controller or namespace structure (CNS, figure 309).
const CNS_NAMESPACE: u32 = 0x00;
const CNS_CONTROLLER: u32 = 0x01;
/// Of the NVM command set (CSI 0 in dword 11): what the controller bounds beside transfers (NVM Command Set
/// Specification 1.1, figure 118). Controllers before NVMe 2.0 do not have it, and old kernels ask for root.
const CNS_NVM_CONTROLLER: u32 = 0x06;
const IDENTIFY_BYTES: usize = 4096;

/// Feature 06h, Volatile Write Cache; bit 0 of the answer: it is enabled.
const FEATURE_WRITE_CACHE: u32 = 0x06;

/// MDTS counts in the smallest memory page of the controller, which is 4 KiB on every machine that Linux runs NVMe on.
const PAGE_BYTES: u32 = 4096;

/// A namespace, with what decides how it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    pub id: u32,
    pub blocks: u64,
    pub block_bytes: u32,
    /// Bytes of metadata with every block. Only 0 can be used.
    pub metadata_bytes: u16,
    /// There is a volatile write cache, and it is on: a write is durable only with FUA or after a flush.
    pub volatile_cache: bool,
    /// The largest transfer of one command.
    pub transfer_bytes_max: u32,
    /// What the drive writes whole when power fails (AWUPF).
    pub atomic_write_bytes: u32,
    /// The most that one Dataset Management command of one range may deallocate; 0: the drive has no such command.
    pub deallocate_bytes_max: u32,
    pub serial: String,
    pub model: String,
}

impl Namespace {
    /// Asks the controller behind a `/dev/ngXnY`. Blocks for a few admin commands.
    ///
    /// # Errors
    /// It is no NVMe device, or it refuses: the status in words.
    pub fn identify(device: &File) -> io::Result<Namespace> {
        let id = namespace_id(device)?;
        let controller = identify(device, CNS_CONTROLLER, 0)?;
        let namespace = identify(device, CNS_NAMESPACE, id)?;
        let command = NvmeCommand { opcode: GET_FEATURES, cdw10: FEATURE_WRITE_CACHE, ..NvmeCommand::default() };
        // Only root may ask; whoever may not has to take it that the cache is on.
        let cache_on =
            admin_read(device, command, &mut []).is_ok_and(|answer| answer.is_ok_and(|dword| dword & 1 == 0));
        let found = Namespace::parse(id, &controller, &namespace, !cache_on);
        let bounds = identify(device, CNS_NVM_CONTROLLER, 0).unwrap_or_else(|_| vec![0; IDENTIFY_BYTES]);
        Ok(Namespace { deallocate_bytes_max: found.deallocate_bytes_max.min(found.range_bytes_max(&bounds)), ..found })
    }

    /// The longest range of a Dataset Management command, as the NVM command set's identify data bounds it.
    fn range_bytes_max(&self, bounds: &[u8]) -> u32 {
        // DMRSL: blocks of one range; DMSL: of all of them. 0 is no bound.
        let bound = |blocks: u64| if blocks == 0 { u64::MAX } else { blocks };
        let blocks = bound(u64::from(get_u32(bounds, 4))).min(bound(get_u64(bounds, 8)));
        whole_blocks(blocks.saturating_mul(u64::from(self.block_bytes)))
    }

    fn parse(id: u32, controller: &[u8], namespace: &[u8], cache_on: bool) -> Namespace {
        // FLBAS: bits 3:0 and 6:5 are the number of the LBA format in use; its descriptor has 4 bytes.
        let format = usize::from(namespace[26] & 0x0f | (namespace[26] & 0x60) >> 1);
        let descriptor = 128 + 4 * format;
        let block_bytes = 1_u32.checked_shl(u32::from(namespace[descriptor + 2])).unwrap_or(0);
        // MDTS: a power of two of pages; 0 means no limit.
        let transfer_bytes_max = match controller[77] {
            0 => u32::MAX,
            power => PAGE_BYTES.checked_shl(u32::from(power)).filter(|bytes| *bytes > 0).unwrap_or(u32::MAX),
        };
        // VWC bit 0: a volatile write cache is present.
        let cache_present = controller[525] & 1 != 0;
        // AWUPF counts blocks, from 0; NAWUPF replaces it where the namespace has its own (NSFEAT bit 1).
        let own = namespace[24] & 2 != 0 && get_u16(namespace, 36) != 0;
        // ONCS bit 2: Dataset Management. Whoever has the command takes the attribute to deallocate.
        let deallocates = get_u16(controller, 520) & 1 << 2 != 0;
        let atomic_blocks = 1 + u32::from(if own { get_u16(namespace, 36) } else { get_u16(controller, 528) });
        Namespace {
            id,
            blocks: get_u64(namespace, 0),
            block_bytes,
            metadata_bytes: get_u16(namespace, descriptor),
            volatile_cache: cache_present && cache_on,
            transfer_bytes_max,
            atomic_write_bytes: atomic_blocks.saturating_mul(block_bytes),
            deallocate_bytes_max: if deallocates { whole_blocks(u64::MAX) } else { 0 },
            serial: ascii(&controller[4..24]),
            model: ascii(&controller[24..64]),
        }
    }

    /// Why this namespace cannot be used, and what to do; None when it can.
    #[must_use]
    pub fn unusable(&self) -> Option<String> {
        if !(512..=BLOCK_BYTES).contains(&self.block_bytes) || !self.block_bytes.is_power_of_two() {
            return Some(format!("blocks of {} B; format it with 512 B or 4 KiB blocks", self.block_bytes));
        }
        (self.metadata_bytes > 0).then(|| {
            format!("{} B of metadata with every block; format it without (`nvme format --ms=0`)", self.metadata_bytes)
        })
    }
}

/// At most so many bytes, in whole blocks of ours.
fn whole_blocks(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX) / BLOCK_BYTES * BLOCK_BYTES
}

fn identify(device: &File, cns: u32, nsid: u32) -> io::Result<Vec<u8>> {
    let mut data = vec![0; IDENTIFY_BYTES];
    admin(device, NvmeCommand { opcode: IDENTIFY, nsid, cdw10: cns, ..NvmeCommand::default() }, &mut data)?;
    Ok(data)
}

/// Sends an admin command that reads. Blocks.
pub(super) fn admin(device: &File, command: NvmeCommand, data: &mut [u8]) -> io::Result<u32> {
    let answer = admin_read(device, command, data)?;
    answer.map_err(|status| io::Error::other(NvmeStatus(status).to_string()))
}

/// Text of a fixed field: padded with spaces, and not to be trusted.
fn ascii(field: &[u8]) -> String {
    let text: String = field.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' }).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{put_u16, put_u32, put_u64};

    fn structures() -> (Vec<u8>, Vec<u8>) {
        let (mut controller, mut namespace) = (vec![0; IDENTIFY_BYTES], vec![0; IDENTIFY_BYTES]);
        controller[4..24].copy_from_slice(b"SERIAL-1            ");
        controller[24..28].copy_from_slice(b"A\0\x1bB");
        controller[77] = 5;
        put_u16(&mut controller, 520, 1 << 2);
        controller[525] = 0x07;
        put_u16(&mut controller, 528, 7);
        put_u64(&mut namespace, 0, 1 << 20);
        // The second LBA format is in use: 4 KiB.
        namespace[26] = 1;
        (namespace[128 + 2], namespace[132 + 2]) = (9, 12);
        (controller, namespace)
    }

    #[test]
    fn identify_is_read_as_the_specification_has_it() {
        let (controller, mut namespace) = structures();
        let found = Namespace::parse(3, &controller, &namespace, true);
        let expected = Namespace {
            id: 3,
            blocks: 1 << 20,
            block_bytes: 4096,
            metadata_bytes: 0,
            volatile_cache: true,
            transfer_bytes_max: 128 << 10,
            atomic_write_bytes: 8 * 4096,
            deallocate_bytes_max: u32::MAX - 4095,
            serial: "SERIAL-1".to_owned(),
            model: "A  B".to_owned(),
        };
        assert_eq!((found.unusable(), found), (None, expected));
        assert!(!Namespace::parse(3, &controller, &namespace, false).volatile_cache);
        namespace[24] = 2;
        put_u16(&mut namespace, 36, 1);
        assert_eq!(Namespace::parse(3, &controller, &namespace, true).atomic_write_bytes, 2 * 4096);
    }

    #[test]
    fn a_drive_bounds_what_it_deallocates_at_once() {
        let (mut controller, namespace) = structures();
        let found = Namespace::parse(1, &controller, &namespace, true);
        let mut bounds = vec![0; IDENTIFY_BYTES];
        assert_eq!(found.range_bytes_max(&bounds), u32::MAX - 4095, "no bound");
        put_u64(&mut bounds, 8, 100);
        assert_eq!(found.range_bytes_max(&bounds), 100 * 4096);
        put_u32(&mut bounds, 4, 10);
        assert_eq!(found.range_bytes_max(&bounds), 10 * 4096);
        let small = Namespace { block_bytes: 512, ..found };
        assert_eq!(small.range_bytes_max(&bounds), 4096, "5,120 B in whole blocks of ours");
        put_u16(&mut controller, 520, !(1 << 2));
        assert_eq!(Namespace::parse(1, &controller, &namespace, true).deallocate_bytes_max, 0);
    }

    #[test]
    fn no_answer_of_a_controller_makes_it_panic() {
        let (mut controller, mut namespace) = structures();
        controller[77] = 0;
        assert_eq!(Namespace::parse(1, &controller, &namespace, true).transfer_bytes_max, u32::MAX);
        controller.fill(0xff);
        namespace.fill(0xff);
        let found = Namespace::parse(1, &controller, &namespace, true);
        assert!(found.unusable().unwrap().contains("blocks of"), "{found:?}");
        let (controller, mut namespace) = structures();
        put_u16(&mut namespace, 132, 8);
        assert!(Namespace::parse(1, &controller, &namespace, true).unusable().unwrap().contains("8 B of metadata"));
    }
}
