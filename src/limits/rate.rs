//! How much a limit allows, as the command line says it.

use std::str::FromStr;

/// So many at once, and so many in each period on the average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many come back in a period.
    pub rate: u32,
    /// How many may go at once, after a rest.
    pub burst: u32,
}

impl Rate {
    /// `rate` in a period, `burst` at once.
    pub const fn new(rate: u32, burst: u32) -> Self {
        Self { rate, burst }
    }
}

/// What is no rate and no number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {1}, and not off")]
pub struct BadBound(String, &'static str);

/// `50:200`: 50 in a period, 200 at once. `50` is `50:50`.
impl FromStr for Rate {
    type Err = BadBound;

    fn from_str(text: &str) -> Result<Self, BadBound> {
        let bad = || BadBound(text.to_owned(), "a RATE, and not a RATE:BURST like 50:200");
        let (rate, burst) = text.split_once(':').unwrap_or((text, text));
        let [rate, burst] = [rate, burst].map(|part| number(part).filter(|number| *number > 0));
        Ok(Self { rate: rate.ok_or_else(bad)?, burst: burst.ok_or_else(bad)? })
    }
}

/// A whole number, in units of 1,024 with a K behind it, of 1,048,576 with an M.
pub fn number(text: &str) -> Option<u32> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u32>().ok().filter(|_| plain)?.checked_mul(unit)
}

/// A limit that may be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound<T> {
    /// `0` or `off`.
    Off,
    /// So much.
    At(T),
}

impl<T> Bound<T> {
    /// What it is, if it is any.
    pub fn limit(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::At(limit) => Some(limit),
        }
    }
}

impl FromStr for Bound<Rate> {
    type Err = BadBound;

    fn from_str(text: &str) -> Result<Self, BadBound> {
        if is_off(text) { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

impl FromStr for Bound<u32> {
    type Err = BadBound;

    fn from_str(text: &str) -> Result<Self, BadBound> {
        let bad = || BadBound(text.to_owned(), "a whole number");
        if is_off(text) { Ok(Self::Off) } else { number(text).map(Self::At).ok_or_else(bad) }
    }
}

fn is_off(text: &str) -> bool {
    matches!(text, "0" | "off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        for (text, rate, burst) in
            [("50:200", 50, 200), ("7", 7, 7), ("256K:1M", 262_144, 1_048_576)]
        {
            assert_eq!(text.parse(), Ok(Bound::At(Rate::new(rate, burst))), "{text}");
        }
        for off in ["0", "off"] {
            assert_eq!(off.parse(), Ok(Bound::<Rate>::Off));
            assert_eq!(off.parse(), Ok(Bound::<u32>::Off));
        }
        for bad in ["", ":", "5:", ":5", "0:5", "5:0", "+5", "-5", "5:5:5", "K", "5000M", "five"] {
            let error = bad.parse::<Bound<Rate>>().unwrap_err().to_string();
            assert!(error.contains("RATE:BURST"), "{bad}: {error}");
        }
        assert_eq!("10K".parse(), Ok(Bound::At(10_240_u32)));
        assert_eq!(Bound::At(3).limit(), Some(3));
        assert_eq!(Bound::<u32>::Off.limit(), None);
        assert!("5:5".parse::<Bound<u32>>().is_err());
    }
}
