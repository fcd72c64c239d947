//! The status of an NVMe completion in words (NVM Express Base Specification 2.1, section 4.2.3; NVM Command Set
//! Specification 1.1, section 3.1.2).

use std::fmt;

/// The status field without its phase bit: SC in bits 7:0, SCT in bits 10:8, DNR in bit 14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvmeStatus(pub u16);

impl NvmeStatus {
    /// Status code type.
    #[must_use]
    pub fn code_type(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// Status code.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// The controller says that the same command would fail again.
    #[must_use]
    pub fn do_not_retry(self) -> bool {
        self.0 & 1 << 14 != 0
    }

    fn words(self) -> Option<&'static str> {
        Some(match (self.code_type(), self.code()) {
            (0, 0x00) => "success",
            (0, 0x01) => "invalid command opcode",
            (0, 0x02) => "invalid field in command",
            (0, 0x04) => "data transfer error",
            (0, 0x05) => "aborted: power is being lost",
            (0, 0x06) => "internal error",
            (0, 0x07) => "aborted on request",
            (0, 0x08) => "aborted: its submission queue was deleted",
            (0, 0x0b) => "invalid namespace or format",
            (0, 0x12) => "controller memory buffer in use wrongly",
            (0, 0x13) => "PRP offset invalid",
            (0, 0x20) => "namespace is write protected",
            (0, 0x80) => "LBA out of range",
            (0, 0x81) => "capacity exceeded",
            (0, 0x82) => "namespace not ready",
            (0, 0x83) => "reservation conflict",
            (0, 0x84) => "format in progress",
            (1, 0x80) => "conflicting attributes",
            (1, 0x81) => "invalid protection information",
            (1, 0x82) => "attempted write to a read-only range",
            (2, 0x80) => "write fault",
            (2, 0x81) => "unrecovered read error",
            (2, 0x82) => "end-to-end guard check error",
            (2, 0x83) => "end-to-end application tag check error",
            (2, 0x84) => "end-to-end reference tag check error",
            (2, 0x85) => "compare failure",
            (2, 0x86) => "access denied",
            (2, 0x87) => "deallocated or unwritten logical block",
            (3, 0x00) => "internal path error",
            (3, 0x01) => "asymmetric access: persistent loss",
            (3, 0x02) => "asymmetric access: inaccessible",
            (3, 0x03) => "asymmetric access: transition",
            (3, 0x60) => "controller path error",
            (3, 0x70) => "host path error",
            (3, 0x71) => "aborted by the host",
            _ => return None,
        })
    }
}

impl fmt::Display for NvmeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.code_type() {
            0 => "generic",
            1 => "command specific",
            2 => "media and data integrity",
            3 => "path",
            7 => "vendor specific",
            _ => "unknown type",
        };
        let retry = if self.do_not_retry() { ", do not retry" } else { "" };
        let words = self.words().unwrap_or("no name");
        write!(f, "NVMe: {words} ({kind}, SCT {:#x}, SC {:#04x}{retry})", self.code_type(), self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_words_and_numbers() {
        let text = |status: u16| NvmeStatus(status).to_string();
        assert_eq!(
            text(0x4281),
            "NVMe: unrecovered read error (media and data integrity, SCT 0x2, SC 0x81, do not retry)"
        );
        assert_eq!(text(0x0280), "NVMe: write fault (media and data integrity, SCT 0x2, SC 0x80)");
        assert_eq!(text(0x07ff), "NVMe: no name (vendor specific, SCT 0x7, SC 0xff)");
    }
}
