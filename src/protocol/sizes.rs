//! How large what clients write may be: the protocol's own bounds, or lower ones.

/// The longest `message`, in UTF-8 bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// The longest `data` of a message or signal, in bytes of JSON as sent.
pub const DATA_BYTES_MAX: usize = 4 * 1024;
/// How deep `data` may be nested.
pub const DATA_DEPTH_MAX: usize = 32;
/// The longest frame, and the longest reassembled message, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// What a frame has around its message and data: names, ids, escapes of a few characters.
pub const AROUND_BYTES: usize = 2 * 1024;
/// The lowest bound of a frame: a token (8 KiB) has to come through.
pub const FRAME_BYTES_MIN: usize = 8 * 1024 + AROUND_BYTES;

/// The bounds that a server keeps, each at most the protocol's. `welcome` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of a frame, of a message in many frames, and of a request's body.
    pub frame: u32,
    /// UTF-8 bytes of `message`.
    pub message: u32,
    /// Bytes of `data`.
    pub data: u32,
    /// How deep `data` is nested.
    pub depth: u32,
}

impl Sizes {
    /// The protocol's own.
    pub const MOST: Self = Self {
        frame: FRAME_BYTES_MAX as u32,
        message: MESSAGE_BYTES_MAX as u32,
        data: DATA_BYTES_MAX as u32,
        depth: DATA_DEPTH_MAX as u32,
    };

    /// Bytes of the frame that the longest message with the longest `data` needs. (One that is
    /// mostly escapes may need up to six times that.)
    pub fn frame_needed(&self) -> u32 {
        self.message + self.data + AROUND_BYTES as u32
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self::MOST
    }
}
