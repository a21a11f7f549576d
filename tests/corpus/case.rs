//! One line of the table: what is sent, what is answered, and how to tell.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::harness::SOON;
use crate::raw::{self, ACCEPT, Answer as Http, Raw, request};

/// A scene for the table: an async function of the fleet.
macro_rules! scene {
    ($play:path) => {
        $crate::case::Send::Scene(|fleet| Box::pin($play(fleet)))
    };
}
pub(crate) use scene;

type Played<'a> = Pin<Box<dyn Future<Output = ()> + std::marker::Send + 'a>>;

/// What is sent.
#[derive(Clone)]
pub enum Send {
    /// Bytes to the balancer and to a server itself.
    Head(Vec<u8>),
    /// Bytes to the Message API itself and through the balancer.
    Api(Vec<u8>),
    /// A request of each kind with this `Authorization`; empty: without one.
    Bearer(String),
    /// Bytes on an open socket.
    Frames(Vec<u8>),
    /// A text frame on an open socket.
    Text(String),
    /// More than one exchange; it judges the answers itself.
    Scene(for<'a> fn(&'a Fleet) -> Played<'a>),
}

/// What is answered.
#[derive(Clone, Copy)]
pub enum Answer {
    /// A refusal over HTTP, as a problem.
    Status(u16),
    /// The same within a second, and then the end: what else was sent is not read as a request.
    Last(u16),
    /// The same from the HTTP library, without a body.
    Bare(u16),
    /// A success over HTTP.
    Fine(u16),
    /// 101 and `welcome`, no extension and no subprotocol agreed to.
    Opens,
    /// 101, an `error` of this code, and a close: what a browser's script can see.
    Shown(&'static str, u16),
    /// The connection ends within a second, or a 400 says why.
    Ends,
    /// An `error` frame of this code that says this; the socket stays open.
    Error(&'static str, &'static str),
    /// The socket is closed with this code.
    Closes(u16),
    /// `sent`.
    Sent,
    /// Nothing is said, and the socket stays open.
    Ignored,
    /// What the scene finds right.
    Seen,
}

/// How soon what is no request is answered.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The ref of a frame in the table begins so, and is made unique.
pub const REF: &str = "r-1";

/// A line.
#[derive(Clone)]
pub struct Case {
    /// The row of the corpus, like `A3`.
    pub row: &'static str,
    /// What it is.
    pub what: &'static str,
    pub send: Send,
    pub answer: Answer,
    /// What the corpus states, where Parlor answers something else by design.
    pub differs: Option<&'static str>,
    /// Needs Redis and DynamoDB.
    pub real: bool,
    /// Needs a fleet with tokens.
    pub guarded: bool,
    /// Takes seconds: all of these run at once.
    pub slow: bool,
    /// Takes more than a minute: `./test full`.
    pub long: bool,
}

/// A line of the table.
pub fn row(row: &'static str, what: &'static str, send: Send, answer: Answer) -> Case {
    let [real, guarded, slow, long] = [false; 4];
    Case { row, what, send, answer, differs: None, real, guarded, slow, long }
}

impl Case {
    pub fn differs(mut self, stated: &'static str) -> Self {
        self.differs = Some(stated);
        self
    }

    pub fn real(mut self) -> Self {
        self.real = true;
        self
    }

    pub fn guarded(mut self) -> Self {
        self.guarded = true;
        self
    }

    pub fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    pub fn long(mut self) -> Self {
        self.long = true;
        self.slow()
    }

    /// Does it; panics where the answer is another one.
    pub async fn run(&self, fleet: &Fleet, number: usize) {
        match &self.send {
            Send::Head(bytes) => {
                for address in fleet.doors() {
                    self.head(&address, bytes).await;
                }
            }
            Send::Api(bytes) => {
                for address in [&fleet.api, &fleet.balancer] {
                    self.http(request(address, bytes).await, bytes, address == &fleet.api);
                }
            }
            Send::Bearer(value) => {
                let line = match value.as_str() {
                    "" => String::new(),
                    value => format!("Authorization: {value}\r\n"),
                };
                let head = raw::upgrade_head("", &line);
                for address in fleet.doors() {
                    self.head(&address, head.as_bytes()).await;
                }
                for address in [&fleet.api, &fleet.balancer] {
                    let get = get("/v1/users/tokens/conversations", &line);
                    self.http(request(address, &get).await, get.as_bytes(), false);
                }
            }
            Send::Frames(bytes) => {
                for (door, address) in fleet.doors().iter().enumerate() {
                    self.frames(fleet, address, &format!("c-{number}-{door}"), bytes).await;
                }
            }
            Send::Text(text) => {
                for (door, address) in fleet.doors().iter().enumerate() {
                    // The same ref again would be the same message.
                    let unique = format!("{REF}{}", fleet.next());
                    let frame = raw::text(&text.replace(REF, &unique));
                    self.frames(fleet, address, &format!("c-{number}-{door}"), &frame).await;
                }
            }
            Send::Scene(play) => play(fleet).await,
        }
    }

    async fn head(&self, address: &str, bytes: &[u8]) {
        match self.answer {
            Answer::Opens => drop(open(address, bytes).await),
            Answer::Shown(code, close) => {
                let mut socket = Raw::dial(address).await;
                socket.write(bytes).await;
                assert_eq!(socket.head().await.expect("an answer").status, 101);
                let (closed, said) = socket.closed().await;
                assert_eq!(closed, Some(close), "after {said:?}");
                let codes: Vec<_> =
                    said.iter().map(|said| (&said["type"], &said["code"])).collect();
                assert_eq!(codes, [(&json!("error"), &json!(code))]);
            }
            Answer::Last(status) => self.last(address, bytes, status).await,
            Answer::Ends => {
                let mut socket = Raw::dial(address).await;
                socket.patience = Duration::from_secs(2);
                socket.write(bytes).await;
                let answer = socket.answer().await;
                assert!(answer.as_ref().is_none_or(|a| a.status == 400), "{answer:?}");
            }
            _ => self.http(request(address, bytes).await, bytes, false),
        }
    }

    /// The quickest of some tries counts: what else the machine does makes an answer slower.
    async fn last(&self, address: &str, bytes: &[u8], status: u16) {
        let mut quickest = Duration::MAX;
        for _ in 0..3 {
            let mut socket = Raw::dial(address).await;
            let begun = Instant::now();
            socket.write(bytes).await;
            let answer = socket.answer().await;
            quickest = quickest.min(begun.elapsed());
            self.http(answer, bytes, false);
            socket.patience = Duration::from_secs(3);
            assert!(socket.ends().await, "something follows the {status}");
            if quickest < AT_ONCE {
                return;
            }
        }
        panic!("{status} after {quickest:?}");
    }

    fn http(&self, answer: Option<Http>, bytes: &[u8], direct: bool) {
        let answer = answer.expect("an answer");
        assert!(answer.header("access-control-allow-origin").is_none(), "{answer:?}");
        match self.answer {
            Answer::Fine(status) => assert_eq!(answer.status, status, "{}", answer.text()),
            Answer::Bare(status) if direct => {
                assert_eq!((answer.status, answer.body.len()), (status, 0));
            }
            Answer::Status(status) | Answer::Bare(status) if bytes.starts_with(b"HEAD") => {
                assert_eq!(answer.status, status);
            }
            Answer::Status(status) | Answer::Last(status) | Answer::Bare(status) => {
                answer.is_problem(status);
            }
            _ => panic!("no answer of HTTP is stated"),
        }
    }

    /// Something good, the bytes and something good, in one write. What is good is stored once, and
    /// nothing between.
    async fn frames(&self, fleet: &Fleet, address: &str, user: &str, bytes: &[u8]) {
        let mut socket = Raw::ready(address, &format!("userId={user}")).await;
        let good = |word: &str| {
            let frame = json!({"type": "message", "to": "friend", "message": word, "ref": word});
            raw::text(&frame.to_string())
        };
        let unique = fleet.next();
        let (before, after) = (format!("before-{unique}"), format!("after-{unique}"));
        let place = |said: &Value, word: &str| {
            (said["type"] == "sent" && said["ref"] == word).then(|| said["seq"].as_u64().unwrap())
        };
        let known = fleet.seq_of(user);
        if let Answer::Closes(code) = self.answer {
            socket.write(&[good(&before), bytes.to_vec(), good(&after)].concat()).await;
            let (closed, said) = socket.closed().await;
            assert_eq!(closed, Some(code), "after {said:?}");
            assert!(!said.iter().any(|said| place(said, &after).is_some()), "after the end");
            // The answer may have met a closed door, the message is stored all the same.
            let conversation = format!("dm:{user}:friend");
            let until = Instant::now() + SOON;
            loop {
                let page = fleet.history(user, &conversation).await;
                if page.last().is_some_and(|entry| entry["ref"] == before) {
                    assert_eq!(page.last().unwrap()["seq"], known + 1, "and nothing else");
                    break;
                }
                assert!(Instant::now() < until, "what was said before is kept");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            return fleet.set_seq(user, known + 1);
        }
        socket.write(&[good(&before), bytes.to_vec(), good(&after)].concat()).await;
        let (mut seqs, mut others) = (Vec::new(), Vec::new());
        while seqs.len() < 2 || (others.is_empty() && !matches!(self.answer, Answer::Ignored)) {
            let said = socket.json().await.expect("the socket stays open");
            match place(&said, &before).or_else(|| place(&said, &after)) {
                Some(seq) => seqs.push(seq),
                None if said["type"] == "delivered" => {}
                None => others.push(said),
            }
        }
        assert!(socket.is_open().await, "it stays open");
        let stored = u64::from(matches!(self.answer, Answer::Sent));
        assert_eq!(seqs, [known + 1, known + 2 + stored], "both good ones, once: {others:?}");
        fleet.set_seq(user, known + 2 + stored);
        match self.answer {
            Answer::Error(code, says) => {
                // A text with a field twice is no object, so nothing of it is read.
                let read = says != "duplicate field";
                let named = matches!(&self.send, Send::Text(text) if read && text.contains(REF));
                is_error(&others, code, says, named);
            }
            Answer::Sent => assert_eq!(others[0]["seq"], known + 2, "{others:?}"),
            Answer::Ignored => assert!(others.is_empty(), "{others:?}"),
            _ => panic!("no answer of a socket is stated"),
        }
    }
}

/// One `error` with its code, its sentence, and the ref of the frame where that had a good one.
fn is_error(said: &[Value], code: &str, says: &str, named: bool) {
    let retryable = ["rate_limited", "unavailable"].contains(&code);
    let detail = said[0]["detail"].as_str().unwrap_or_default().to_owned();
    let mut expected = json!({"type": "error", "code": code, "detail": detail});
    expected["retryable"] = json!(retryable);
    if named {
        let reference = said[0]["ref"].as_str().expect("a ref");
        assert!(reference.starts_with(REF), "{said:?}");
        expected["ref"] = json!(reference);
    } else if said[0]["ref"] == "~1" {
        // A good one, but not for a client.
        expected["ref"] = json!("~1");
    }
    if retryable {
        expected["retryAfterMs"] = said[0]["retryAfterMs"].clone();
        assert!(expected["retryAfterMs"].is_u64(), "{said:?}");
    }
    assert_eq!(said, [expected]);
    assert!(detail.contains(says) && (8..400).contains(&detail.len()), "{detail}");
}

/// Opens a socket by these bytes.
pub async fn open(address: &str, bytes: &[u8]) -> Raw {
    let mut socket = Raw::dial(address).await;
    socket.write(bytes).await;
    let answer = socket.head().await.expect("an answer");
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert!(answer.header("x-parlor-server").is_some_and(|name| name.starts_with("ws")));
    for agreed in ["sec-websocket-extensions", "sec-websocket-protocol"] {
        assert!(answer.header(agreed).is_none(), "nothing is agreed to: {answer:?}");
    }
    assert_eq!(socket.json().await.expect("welcome")["type"], "welcome");
    assert!(socket.is_open().await);
    socket
}

/// A GET of its own connection.
pub fn get(target: &str, more: &str) -> String {
    plain("GET", target, more)
}

/// Any request without a body.
pub fn plain(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

/// A POST with a body.
pub fn post(target: &str, more: &str, body: &str) -> String {
    let length = body.len();
    let head = plain("POST", target, &format!("Content-Length: {length}\r\n{more}"));
    format!("{head}{body}")
}
