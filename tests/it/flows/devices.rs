//! Every device gets every message (P3), the sender's own others too.

use parlor::client::{ClientOptions, Send, To};

use crate::harness::{Person, Stack, eventually, on_both, texts};

on_both!(every_device_hears_it, each_device_has_its_own_cursor);

async fn device(stack: &Stack, server: &str, user: &str, device: &str) -> Person {
    let options = ClientOptions::new(stack.ws_at(server), user).device(device);
    let mut person = Person::with(&options).await;
    assert_eq!(texts(&person.catch_up().await), [], "{user} on {device}");
    person
}

/// Two devices and two tabs of the recipient, and the sender's other device, over three servers.
async fn every_device_hears_it(stack: Stack) {
    let mut sending = device(&stack, "ws1", "userA", "laptop").await;
    let mut others = [
        device(&stack, "ws1", "userA", "laptop").await,
        device(&stack, "ws2", "userA", "phone").await,
    ];
    let mut theirs = [
        device(&stack, "ws2", "userB", "laptop").await,
        device(&stack, "ws3", "userB", "laptop").await,
        device(&stack, "ws3", "userB", "phone").await,
    ];
    if let Some(redis) = &stack.redis {
        let entry = redis.entry("userB").unwrap();
        assert_eq!((&entry["device"], &entry["server"]), (&"phone".into(), &"ws3".into()));
        assert_eq!(entry["others"].as_array().unwrap().len(), 2, "{entry}");
    }
    for number in 1..=5_u64 {
        let text = format!("message {number}");
        let send = Send::new(To::User("userB".into()), &text).reference(format!("ref-{number}"));
        assert_eq!(sending.send(&send).await, number);
        for person in &mut theirs {
            let entry = person.entry().await;
            assert_eq!((entry.seq, &entry.message), (number, &text));
            assert_eq!(entry.reference, None, "a ref is the sender's own");
        }
        for person in &mut others {
            let entry = person.entry().await;
            assert_eq!((entry.seq, &entry.message, entry.from.as_str()), (number, &text, "userA"));
            assert_eq!(entry.reference, Some(format!("ref-{number}")));
        }
    }
    for person in theirs.iter_mut().chain(&mut others) {
        person.hears_no_entry(50).await;
    }
    stack.stop().await;
}

/// What one device has is still offered to the other; a new one starts where the person is.
async fn each_device_has_its_own_cursor(stack: Stack) {
    let mut a = stack.at("ws1", "userA").await;
    let phone = device(&stack, "ws2", "userB", "phone").await;
    phone.leave().await;
    let mut laptop = device(&stack, "ws3", "userB", "laptop").await;
    for number in 1..=3 {
        assert_eq!(a.say("userB", &format!("message {number}")).await, number);
    }
    let three: Vec<_> = (1..=3).map(|number| (number, format!("message {number}"))).collect();
    assert_eq!(laptop.hear_all(3).await, three);
    a.told_delivered(3).await;
    laptop.leave().await;
    let connect = async |server: &str, device: &str| {
        let options = ClientOptions::new(stack.ws_at(server), "userB").device(device);
        Person::with(&options).await
    };
    let mut phone = connect("ws3", "phone").await;
    assert_eq!(texts(&phone.catch_up().await), three, "what the laptop has the phone still lacks");
    phone.leave().await;
    let again = async || {
        let mut phone = connect("ws1", "phone").await;
        texts(&phone.catch_up().await).is_empty().then_some(phone)
    };
    let mut phone = eventually("nothing is pushed to the phone again", again).await;
    let mut tablet = connect("ws2", "tablet").await;
    assert_eq!(texts(&tablet.catch_up().await), [], "older messages are history");
    let mut own = stack.at("ws2", "userA").await;
    own.catch_up().await;
    assert_eq!(a.say("userB", "message 4").await, 4);
    for person in [&mut phone, &mut tablet, &mut own] {
        assert_eq!(person.hear().await, (4, "message 4".to_owned()));
    }
    stack.stop().await;
}
