//! MAC addresses, and the IPv6 addresses that follow from them.

use core::net::Ipv6Addr;
use std::fmt;
use std::str::FromStr;

/// A MAC address: two bytes of prefix and four that count through a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac {
    prefix: u16,
    low: u32,
}

/// A text that is no MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not six hexadecimal bytes with colons")]
pub struct MacError;

impl Mac {
    /// The address of prefix and remaining four bytes.
    pub const fn new(prefix: u16, low: u32) -> Self {
        Self { prefix, low }
    }

    /// The first two bytes.
    pub const fn prefix(self) -> u16 {
        self.prefix
    }

    /// The last four bytes; a range counts in these only.
    pub const fn low(self) -> u32 {
        self.low
    }

    /// The address `count` further, or nothing when the last four bytes would overflow.
    pub fn plus(self, count: u32) -> Option<Self> {
        Some(Self { low: self.low.checked_add(count)?, ..self })
    }

    /// Whether this is a group address (IEEE 802, lowest bit of the first byte), which no network card can have.
    pub const fn is_group(self) -> bool {
        self.prefix & 0x0100 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([a, b], [c, d, e, g]) = (self.prefix.to_be_bytes(), self.low.to_be_bytes());
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0_u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacError)?;
            let is_byte = (1..=2).contains(&part.len()) && part.bytes().all(|c| c.is_ascii_hexdigit());
            *byte = if is_byte { u8::from_str_radix(part, 16).map_err(|_| MacError)? } else { return Err(MacError) };
        }
        if parts.next().is_some() {
            return Err(MacError);
        }
        let [a, b, c, d, e, f] = bytes;
        Ok(Self { prefix: u16::from_be_bytes([a, b]), low: u32::from_be_bytes([c, d, e, f]) })
    }
}

/// The prefix of link-local addresses.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

/// The address that a guest gives itself from the upper 64 bits of `prefix` and its MAC (modified EUI-64, RFC 4291,
/// appendix A).
pub fn eui64(prefix: Ipv6Addr, mac: Mac) -> Ipv6Addr {
    let [p, q] = (mac.prefix ^ 0x0200).to_be_bytes();
    let [a, b, c, d] = mac.low.to_be_bytes();
    let identifier = u64::from_be_bytes([p, q, a, 0xff, 0xfe, b, c, d]);
    let upper = prefix.to_bits() & !u128::from(u64::MAX);
    Ipv6Addr::from_bits(upper | u128::from(identifier))
}
