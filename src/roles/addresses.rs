//! What `parlor up` says of itself once it accepts: to a script, and to a person.

use std::net::SocketAddr;

use serde_json::json;

use super::entrance::Entrance;
use crate::auth;
use crate::config::{Dm, Up};
use crate::node::{Node, Part};
use crate::protocol::ProcessId;

/// What a service says first where services alone open conversations.
const OPENING: &str = r#"{"from":"userA","to":"userB","message":"Here you can talk"}"#;

/// Where the parts of one process listen.
pub(super) struct Addresses {
    front: SocketAddr,
    servers: Vec<(ProcessId, SocketAddr)>,
    api: Option<SocketAddr>,
}

impl Addresses {
    pub fn of(front: SocketAddr, node: &Node) -> Self {
        let named = |part: &Part| (part.chat.me.id.clone(), part.address);
        let (servers, api): (Vec<_>, Vec<_>) =
            node.parts.iter().partition(|part| part.door.is_some());
        let api = api.first().map(|part| part.address);
        Self { front, servers: servers.into_iter().map(named).collect(), api }
    }

    /// The line of `--ready-json`.
    pub fn ready_json(&self) -> serde_json::Value {
        let servers: serde_json::Map<_, _> = self
            .servers
            .iter()
            .map(|(id, address)| (id.to_string(), json!(address.to_string())))
            .collect();
        json!({"ready": true, "balancer": self.front.to_string(), "servers": servers,
               "api": self.api.map(|api| api.to_string())})
    }

    /// What a person reads who has just started it.
    pub fn banner(&self, options: &Up, entrance: &Entrance) -> String {
        let secure = entrance.is_secure();
        let warning = entrance.warning(self.front);
        let warning = warning.map(|text| format!("\n\n  WARNING: {text}")).unwrap_or_default();
        let s = if secure { "s" } else { "" };
        let kept = match (&options.parts.dynamodb, options.memory) {
            (Some(dynamodb), _) => format!("DynamoDB ({dynamodb}), table {}", options.parts.table),
            (None, true) => "memory: gone at exit".to_owned(),
            (None, false) => options.data.display().to_string(),
        };
        let servers: Vec<_> = self.servers.iter().map(|(id, at)| format!("{id} {at}")).collect();
        let front = format!("{}:{}", host(self.front), self.front.port());
        let api = self.api.map(|api| format!("{}:{}", host(api), api.port())).unwrap_or_default();
        // As it was called, so that the line can be copied: cargo's binary is not on the PATH.
        let me = std::env::args().next().unwrap_or_else(|| "parlor".to_owned());
        let port = self.front.port();
        let url = match port {
            _ if secure => format!(" --url wss://{front}/ws"),
            8080 => String::new(),
            _ => format!(" --url ws://{front}/ws"),
        };
        let Caller { first, name, query, header, paste } = Caller::of(&options.common.tokens, &me);
        let ca = if secure { "; --ca FILE for an authority of your own" } else { "" };
        let chat = format!("{me} chat{name} --to userB{url}   (and the other way round{ca})");
        let opened = match options.dm {
            Dm::Open => String::new(),
            Dm::Existing => by_service(options, &format!("http{s}://{api}/v1/messages"), &me),
        };
        format!(
            "\n  Parlor is up.{warning}\n\n    page       http{s}://{front}/\n    \
             WebSocket  ws{s}://{front}/ws\n    servers    {}\n    \
             API        http{s}://{api}/openapi.json\n    kept in    {kept}\n\n  \
             {first}{opened}Three things to try:\n\n    \
             1. open http{s}://{front}/ : two people, side by side{paste}\n    \
             2. {chat}\n    \
             3. npx --yes wscat -c 'ws{s}://{front}/ws{query}'{header}\n       \
             then type  {{\"type\":\"message\",\"to\":\"userB\",\"message\":\"Hi\"}}\n\n  \
             ctrl-C stops it cleanly.\n",
            servers.join("  ")
        )
    }
}

/// How whoever tries it says who it is.
struct Caller {
    /// What comes first.
    first: String,
    /// For the terminal chat.
    name: &'static str,
    /// For a URL.
    query: &'static str,
    header: &'static str,
    /// For the page.
    paste: &'static str,
}

impl Caller {
    fn of(tokens: &auth::Options, me: &str) -> Self {
        let named = (" --as userA", "?userId=userA");
        let (first, (name, query)) = match tokens.jwt_secret_file.first() {
            None if !tokens.has_keys() => {
                let (first, (name, query)) = (String::new(), named);
                return Self { first, name, query, header: "", paste: "" };
            }
            Some(secret) => {
                let mint = format!("{me} token --sub userA --jwt-secret-file {}", secret.display());
                (format!("A token first:  export PARLOR_TOKEN=$({mint})"), named)
            }
            // Whom the others' tokens name is not known here.
            None => {
                let first = "Tokens are required. One of yours first:  export PARLOR_TOKEN=…";
                (first.to_owned(), ("", ""))
            }
        };
        let header = " -H \"Authorization: Bearer $PARLOR_TOKEN\"";
        let (first, paste) = (format!("{first}\n\n  "), ", a token for each");
        Self { first, name, query, header, paste }
    }
}

/// People write only where there is a conversation: what makes the one that is proposed.
fn by_service(options: &Up, url: &str, me: &str) -> String {
    let (token, whose) = match options.common.tokens.jwt_secret_file.first() {
        Some(secret) => {
            let token = "token --sub shop --scope service --jwt-secret-file";
            (format!("$({me} {token} {})", secret.display()), "")
        }
        // Whom the others' tokens name is not known here.
        None => (
            "$TOKEN_OF_SCOPE_SERVICE".to_owned(),
            ",\n  with two of your users for userA and userB, here and below",
        ),
    };
    format!(
        "Services alone open conversations here (--dm existing). One for what \
         follows{whose}:\n\n    curl {url} -H \"Authorization: Bearer {token}\" \\\n      \
         -H 'Content-Type: application/json' \\\n      \
         -d '{OPENING}'\n\n  "
    )
}

fn host(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_loopback() => "localhost".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    }
}
