//! Ways to change one line of a good history, so that it is good no more.

#![cfg(test)]

use std::collections::{BTreeSet, HashMap};

use super::super::history::*;
use super::random::Dice;
use super::story::Story;

type Way = fn(&mut Story, &mut Dice) -> Option<()>;

/// What each does; it says whether there was anything of the kind.
pub const WAYS: [(&str, Way); 10] = [
    ("a text that came once never came", lose),
    ("a text was altered", alter),
    ("a text names another sender", rename),
    ("a text has another seq", reseat),
    ("sent names another seq", reanswer),
    ("a message came again under another seq", double),
    ("the store lacks an entry", unstore),
    ("a history is out of order or has a hole", reorder_history),
    ("delivered came without any receipt", unacknowledge),
    ("two texts of a connection changed places", reorder),
];

fn places(story: &Story, is: impl Fn(&What) -> bool) -> Vec<usize> {
    (0..story.events.len()).filter(|at| is(&story.events[*at].what)).collect()
}

fn any(dice: &mut Dice, list: &[usize]) -> Option<usize> {
    (!list.is_empty()).then(|| list[dice.below(list.len())])
}

fn is_message(what: &What) -> bool {
    matches!(what, What::Received { kind, .. } if kind == "message")
}

/// Texts that came to a device once, so that their loss is a loss. Its own sends don't count: what
/// it sends it has.
fn only_receipts(story: &Story) -> Vec<usize> {
    let mut last: HashMap<(String, String, u64), Vec<usize>> = HashMap::new();
    let mut senders: HashMap<&str, &str> = HashMap::new();
    for (at, event) in story.events.iter().enumerate() {
        if let What::Send { connection, body, .. } = &event.what {
            senders.insert(body, &connection[..2]);
        }
        if let What::Received { connection, conversation, seq, body, .. } = &event.what {
            if senders.get(body.as_str()) == Some(&&connection[..2]) {
                continue;
            }
            let key = (connection[..2].to_owned(), conversation.clone(), *seq);
            last.entry(key).or_default().push(at);
        }
    }
    let mut once: Vec<usize> =
        last.into_values().filter(|all| all.len() == 1).map(|all| all[0]).collect();
    once.sort_unstable();
    once
}

/// What was not acked may come late where nobody else saw it, and so may be missing.
fn acked_once(story: &Story) -> Vec<usize> {
    let sent = story.events.iter().filter_map(|event| match &event.what {
        What::Sent { conversation, seq, .. } => Some((conversation.clone(), (*seq)?)),
        _ => None,
    });
    let acked: BTreeSet<(String, u64)> = sent.collect();
    let is_acked = |at: &usize| match &story.events[*at].what {
        What::Received { conversation, seq, .. } => acked.contains(&(conversation.clone(), *seq)),
        _ => false,
    };
    only_receipts(story).into_iter().filter(is_acked).collect()
}

fn lose(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let at = any(dice, &acked_once(story))?;
    story.events.remove(at);
    Some(())
}

fn alter(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let at = any(dice, &places(story, is_message))?;
    let What::Received { body, .. } = &mut story.events[at].what else { return None };
    body.push('!');
    Some(())
}

fn rename(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let at = any(dice, &places(story, is_message))?;
    let What::Received { from, .. } = &mut story.events[at].what else { return None };
    *from = if from == "a" { "b" } else { "a" }.to_owned();
    Some(())
}

fn reseat(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let at = any(dice, &places(story, is_message))?;
    let What::Received { seq, .. } = &mut story.events[at].what else { return None };
    *seq += 1;
    Some(())
}

fn reanswer(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let done = |what: &What| matches!(what, What::Sent { outcome: Outcome::Done, .. });
    let at = any(dice, &places(story, done))?;
    let What::Sent { seq, .. } = &mut story.events[at].what else { return None };
    *seq = seq.map(|seq| seq + 1);
    Some(())
}

fn double(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let at = any(dice, &places(story, is_message))?;
    let mut again = story.events[at].clone();
    let What::Received { seq, .. } = &mut again.what else { return None };
    *seq += 1_000;
    story.events.insert(at + 1, again);
    Some(())
}

fn unstore(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let stored = |what: &What| match what {
        What::Stored { entries, .. } => entries.iter().any(|listed| listed.kind == "message"),
        _ => false,
    };
    let at = any(dice, &places(story, stored))?;
    let What::Stored { entries, .. } = &mut story.events[at].what else { return None };
    entries.remove(dice.below(entries.len()));
    Some(())
}

fn reorder_history(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let long = |what: &What| matches!(what, What::Walked { entries, .. } if entries.len() > 1);
    let at = any(dice, &places(story, long))?;
    let What::Walked { entries, .. } = &mut story.events[at].what else { return None };
    let first = dice.below(entries.len() - 1);
    match dice.one_in(2) {
        true => entries.swap(first, first + 1),
        false => drop(entries.remove(first)),
    }
    Some(())
}

fn unacknowledge(story: &mut Story, dice: &mut Dice) -> Option<()> {
    // What a person wrote needs no receipt of that person.
    let needs = |what: &What| match what {
        What::Status { conversation, user, seq, .. } => story.logs[conversation][seq].from != *user,
        _ => false,
    };
    let at = any(dice, &places(story, needs))?;
    let Event { t, what: What::Status { conversation, user, .. } } = story.events[at].clone()
    else {
        return None;
    };
    let gave = |event: &Event| match &event.what {
        What::Acked { connection, conversation: of, .. } => {
            *of == conversation && connection.starts_with(&user) && event.t < t
        }
        _ => false,
    };
    story.events.retain(|event| !gave(event));
    Some(())
}

fn reorder(story: &mut Story, dice: &mut Dice) -> Option<()> {
    let once = only_receipts(story);
    let stream = |at: usize| match &story.events[at].what {
        What::Received { connection, conversation, .. } => Some((connection, conversation)),
        _ => None,
    };
    let neighbours: Vec<usize> =
        (1..once.len()).filter(|at| stream(once[*at - 1]) == stream(once[*at])).collect();
    let at = any(dice, &neighbours)?;
    let (earlier, later) = (story.events[once[at - 1]].t, story.events[once[at]].t);
    story.events[once[at - 1]].t = later;
    story.events[once[at]].t = earlier;
    Some(())
}
