//! What one PUBLISH carries: an envelope as a JSON object, several as an array, signed where there
//! is a key.

use std::sync::Arc;

use super::signing::Signer;
use crate::protocol::Envelope;

/// A PUBLISH that has reached this size takes no further envelope.
const PUBLISH_BYTES: usize = 256 * 1024;

/// One envelope as an object, several as an array; a new payload where one grows large.
pub(super) fn encode(
    batch: &[Arc<Envelope>],
    channel: &str,
    signer: Option<&Signer>,
) -> Vec<Vec<u8>> {
    let begin = || signer.map_or_else(Vec::new, Signer::begin);
    let mut payloads = Vec::new();
    let mut end = |mut payload: Vec<u8>| {
        if let Some(signer) = signer {
            signer.finish(&mut payload, channel);
        }
        payloads.push(payload);
    };
    let mut open: Option<Vec<u8>> = None;
    for envelope in batch {
        let mut payload = match open.take() {
            Some(mut payload) => {
                payload.push(b',');
                payload
            }
            None => {
                let mut payload = begin();
                payload.extend_from_slice(if batch.len() > 1 { b"[" } else { b"" });
                payload
            }
        };
        envelope.write(&mut payload);
        if payload.len() < PUBLISH_BYTES && batch.len() > 1 {
            open = Some(payload);
            continue;
        }
        payload.extend_from_slice(if batch.len() > 1 { b"]" } else { b"" });
        end(payload);
    }
    if let Some(mut payload) = open {
        payload.push(b']');
        end(payload);
    }
    payloads
}

/// The process that a batch names as its own, where one of its envelopes does.
pub(super) fn sender(batch: &[u8]) -> Option<String> {
    let named = |envelope: &Arc<Envelope>| match &**envelope {
        Envelope::Entry { via, .. } => Some(via.to_string()),
        Envelope::Hint { via, .. } => via.as_ref().map(ToString::to_string),
        Envelope::Receipt { server, .. } => Some(server.to_string()),
        _ => None,
    };
    decode(batch).0.iter().find_map(named)
}

/// What was published, and how many envelopes in it can't be read.
pub(crate) fn decode(payload: &[u8]) -> (Vec<Arc<Envelope>>, usize) {
    // Looked at once here, and not again for each text in it.
    let Ok(payload) = str::from_utf8(payload) else { return (Vec::new(), 1) };
    if !payload.starts_with('[') {
        return match serde_json::from_str(payload) {
            Ok(one) => (vec![Arc::new(one)], 0),
            Err(_) => (Vec::new(), 1),
        };
    }
    if let Ok(batch) = serde_json::from_str::<Vec<Envelope>>(payload) {
        return (batch.into_iter().map(Arc::new).collect(), 0);
    }
    // One of a later version must not take the others with it.
    let parts: Vec<&serde_json::value::RawValue> =
        serde_json::from_str(payload).unwrap_or_default();
    let read = |part: &&serde_json::value::RawValue| serde_json::from_str(part.get()).ok();
    let batch: Vec<_> = parts.iter().filter_map(read).map(Arc::new).collect();
    let bad = parts.len().max(1) - batch.len();
    (batch, bad)
}
