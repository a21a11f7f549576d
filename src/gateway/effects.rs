//! What a session wants other parts to do, given to them.

use std::sync::Arc;

use super::admission::{Guard, renew};
use crate::chat::Chat;
use crate::chat::lane::Reply;
use crate::chat::session::Effect;
use crate::hub::Outbox;
use crate::limits::Address;
use crate::telemetry::Metrics;

/// Does it. With tokens in use a fresh one is looked at by the guard, and counts for the address of
/// the client where it does not hold.
pub(crate) fn hand_on(
    chat: &Arc<Chat>,
    outbox: &Arc<Outbox>,
    guard: Option<(&Arc<Guard>, Option<Address>)>,
    effect: Effect,
) {
    let who = &outbox.who;
    match effect {
        Effect::Send(frame) => {
            let reply = Reply::Socket(outbox.clone());
            chat.submit(&who.user, &who.device, frame, reply);
        }
        Effect::Received { conversation, seq, via, receipt } => {
            chat.received(who, &conversation, seq, via.as_ref(), receipt);
        }
        Effect::Seen(conversation, seq) => chat.seen(&who.user, &conversation, seq),
        Effect::Raised(conversation, seq) => chat.hint_own(who, &conversation, seq),
        Effect::Refused(code) => Metrics::count(&chat.metrics.refused, code.as_str()),
        Effect::Limited(bound) => chat.metrics.count_limited(bound),
        Effect::Rest(until) => chat.rest(outbox, until),
        Effect::Renew { token, reference } => renew(guard, chat, outbox, token, reference),
        Effect::Signal { target, data, reference } => {
            chat.submit_signal(outbox, target, data, reference);
        }
    }
}
