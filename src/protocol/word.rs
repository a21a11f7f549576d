//! A string of JSON, read where it stands: most have no escapes, and need no memory of their own.

use std::borrow::Cow;
use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// A string of JSON. (A bare `Cow` always takes a copy.)
#[derive(Debug, Deserialize)]
pub(super) struct Word<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Makes something of a string.
pub(crate) fn read_text<'de, D, T, E>(
    deserializer: D,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    let Word(text) = Word::deserialize(deserializer)?;
    read(&text).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_escapes_is_copied() {
        let plain: Word<'_> = serde_json::from_str(r#""as it is""#).unwrap();
        assert!(matches!(plain.0, Cow::Borrowed("as it is")));
        let escaped: Word<'_> = serde_json::from_str(r#""a\nb""#).unwrap();
        assert!(matches!(&escaped.0, Cow::Owned(text) if text == "a\nb"));
        let wrong = serde_json::from_str::<Word<'_>>("7").unwrap_err().to_string();
        assert!(wrong.contains("expected a string"), "{wrong}");
    }
}
