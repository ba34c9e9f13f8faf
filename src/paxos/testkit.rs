//! The value type of the core's tests.

use std::fmt;

use super::Value;
use crate::base::Checksum;

/// A short text, and how large it claims to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) size: usize,
}

impl Text {
    /// A text that counts for its own bytes.
    pub(super) fn new(text: &str) -> Text {
        Text { text: text.to_owned(), size: text.len() }
    }
}

impl Value for Text {
    fn noop() -> Text {
        Text::new("")
    }

    fn size(&self) -> usize {
        self.size
    }

    fn checksum(&self) -> Checksum {
        Checksum::of(self.text.as_bytes())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Text::noop() { write!(f, "no-op") } else { write!(f, "{:?}", self.text) }
    }
}
