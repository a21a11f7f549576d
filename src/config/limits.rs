//! Options of whoever serves clients: how much each of them may do.

use std::ops::RangeInclusive;

use clap::Args;

use crate::limits::{Bound, Rate, Settings, number};
use crate::protocol::SOCKETS_PER_USER_MAX;
use crate::protocol::sizes::{
    DATA_BYTES_MAX, DATA_DEPTH_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN, MESSAGE_BYTES_MAX, Sizes,
};

/// What all roles that serve clients take. Without tokens (development mode) only what is given
/// here is limited, and sockets of a server and of a user.
#[derive(Debug, Clone, Default, Args)]
pub struct LimitOptions {
    /// Sockets that each server holds, or a balancer passes on [default: by the limit of open
    /// files]
    #[arg(long, value_name = "COUNT|off", env = "PARLOR_MAX_SOCKETS", help_heading = "Limits")]
    pub max_sockets: Option<Bound<u32>>,
    /// Sockets of a user on all servers together, 1 to 64: the oldest gives way to one more. Give
    /// all servers of a fleet the same [default: 16]
    #[arg(
        long,
        value_name = "COUNT",
        env = "PARLOR_SOCKETS_PER_USER",
        help_heading = "Limits",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(SOCKETS_PER_USER_MAX))
    )]
    pub sockets_per_user: Option<u16>,
    /// Sockets of a client's address (IPv6: of its /64; this machine and trusted proxies are not
    /// counted) [default: 1000; this and all that follow: with tokens]
    #[arg(
        long,
        value_name = "COUNT|off",
        env = "PARLOR_SOCKETS_PER_ADDRESS",
        help_heading = "Limits"
    )]
    pub sockets_per_address: Option<Bound<u32>>,
    /// Connections of such an address whose request has not come yet, and as many of plain HTTP:
    /// one option for both [default: 256]
    #[arg(
        long,
        value_name = "COUNT|off",
        env = "PARLOR_HALF_OPEN_PER_ADDRESS",
        help_heading = "Limits"
    )]
    pub half_open_per_address: Option<Bound<u32>>,
    /// Connections of this process whose request has not come yet [default: half of the open files
    /// that the default of --max-sockets leaves, at most 4096, also without tokens]
    #[arg(
        long,
        value_name = "COUNT",
        env = "PARLOR_HALF_OPEN",
        help_heading = "Limits",
        value_parser = clap::value_parser!(u32).range(4..)
    )]
    pub half_open: Option<u32>,
    /// Connections of this process that are plain HTTP [default: a quarter of those files, at most
    /// 4096, also without tokens]
    #[arg(
        long,
        value_name = "COUNT",
        env = "PARLOR_PLAIN_CONNECTIONS",
        help_heading = "Limits",
        value_parser = clap::value_parser!(u32).range(4..)
    )]
    pub plain_connections: Option<u32>,
    /// Handshakes of such an address: RATE in a second, BURST at once [default: 50:500]
    #[arg(
        long,
        value_name = "RATE:BURST|off",
        env = "PARLOR_HANDSHAKES_PER_ADDRESS",
        help_heading = "Limits"
    )]
    pub handshakes_per_address: Option<Bound<Rate>>,
    /// Sockets that a user opens in a second [default: 5:100]
    #[arg(
        long,
        value_name = "RATE:BURST|off",
        env = "PARLOR_HANDSHAKES_PER_USER",
        help_heading = "Limits"
    )]
    pub handshakes_per_user: Option<Bound<Rate>>,
    /// Messages of a user in a second, over all sockets on this process [default: 50:200]
    #[arg(
        long,
        value_name = "RATE:BURST|off",
        env = "PARLOR_USER_MESSAGES",
        help_heading = "Limits"
    )]
    pub user_messages: Option<Bound<Rate>>,
    /// Bytes of a user's frames and requests in a second [default: 256K:1M]
    #[arg(long, value_name = "RATE:BURST|off", env = "PARLOR_USER_BYTES", help_heading = "Limits")]
    pub user_bytes: Option<Bound<Rate>>,
    /// Frames of a user in a second, of every kind [default: 200:1000]
    #[arg(
        long,
        value_name = "RATE:BURST|off",
        env = "PARLOR_USER_FRAMES",
        help_heading = "Limits"
    )]
    pub user_frames: Option<Bound<Rate>>,
    /// Signals of a user in a second [default: 20:100]
    #[arg(
        long,
        value_name = "RATE:BURST|off",
        env = "PARLOR_USER_SIGNALS",
        help_heading = "Limits"
    )]
    pub user_signals: Option<Bound<Rate>>,
    /// Direct conversations that a user opens, rooms made, and people brought into rooms, in an
    /// hour [default: 100:100]
    #[arg(
        long,
        value_name = "RATE:BURST|off",
        env = "PARLOR_NEW_CONVERSATIONS",
        help_heading = "Limits"
    )]
    pub new_conversations: Option<Bound<Rate>>,
    /// Direct conversations that a user has, and rooms (half of them by being brought in), looked
    /// at when one is opened [default: 10000]
    #[arg(
        long,
        value_name = "COUNT|off",
        env = "PARLOR_CONVERSATIONS_PER_USER",
        help_heading = "Limits"
    )]
    pub conversations_per_user: Option<Bound<u32>>,
    /// Requests of a user to the Message API in a second [default: 50:200]
    #[arg(
        long,
        value_name = "RATE:BURST|off",
        env = "PARLOR_API_REQUESTS",
        help_heading = "Limits"
    )]
    pub api_requests: Option<Bound<Rate>>,
    /// Bytes of a message's text, at most the default. Give all servers of a fleet the same, of
    /// this and of the three that follow [default: 16K, also without tokens]
    #[arg(
        long,
        value_name = "BYTES",
        env = "PARLOR_MESSAGE_BYTES",
        help_heading = "Limits",
        value_parser = sized(1..=MESSAGE_BYTES_MAX)
    )]
    pub message_bytes: Option<u32>,
    /// Bytes of the data of a message or signal, at most the default [default: 4K, also without
    /// tokens]
    #[arg(
        long,
        value_name = "BYTES",
        env = "PARLOR_DATA_BYTES",
        help_heading = "Limits",
        value_parser = sized(2..=DATA_BYTES_MAX)
    )]
    pub data_bytes: Option<u32>,
    /// How deep such data is nested, at most the default [default: 32, also without tokens]
    #[arg(
        long,
        value_name = "COUNT",
        env = "PARLOR_DATA_DEPTH",
        help_heading = "Limits",
        value_parser = sized(1..=DATA_DEPTH_MAX)
    )]
    pub data_depth: Option<u32>,
    /// Bytes of a frame, of a message in many frames, and of a request's body: at most the default,
    /// and 2K more than message and data together [default: 64K, also without tokens]
    #[arg(
        long,
        value_name = "BYTES",
        env = "PARLOR_FRAME_BYTES",
        help_heading = "Limits",
        value_parser = sized(FRAME_BYTES_MIN..=FRAME_BYTES_MAX)
    )]
    pub frame_bytes: Option<u32>,
}

/// Reads a whole number, maybe with a K behind it, within a range.
fn sized(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| {
        let size = number(text).filter(|size| range.contains(&(*size as usize)));
        let (least, most) = (range.start(), range.end());
        size.ok_or_else(|| format!("it is a whole number from {least} to {most}"))
    }
}

impl LimitOptions {
    /// What holds: as it is given, else as usual where tokens say who somebody is. `sockets` are
    /// as many as there is room for.
    ///
    /// # Errors
    /// What does not go together, and what to do.
    pub fn settings(&self, tokens: bool, sockets: u32) -> Result<Settings, String> {
        let usual = if tokens { Settings::USUAL } else { Settings::default() };
        Ok(Settings {
            sockets: given(self.max_sockets, Some(sockets)),
            sockets_per_user: self.sockets_per_user,
            sockets_per_address: given(self.sockets_per_address, usual.sockets_per_address),
            half_open: self.half_open,
            plain: self.plain_connections,
            half_open_per_address: given(self.half_open_per_address, usual.half_open_per_address),
            conversations: given(self.conversations_per_user, usual.conversations),
            handshakes: given(self.handshakes_per_address, usual.handshakes),
            user_handshakes: given(self.handshakes_per_user, usual.user_handshakes),
            frames: given(self.user_frames, usual.frames),
            bytes: given(self.user_bytes, usual.bytes),
            messages: given(self.user_messages, usual.messages),
            signals: given(self.user_signals, usual.signals),
            requests: given(self.api_requests, usual.requests),
            new_conversations: given(self.new_conversations, usual.new_conversations),
            sizes: self.sizes()?,
        })
    }

    fn sizes(&self) -> Result<Sizes, String> {
        let most = Sizes::MOST;
        let sizes = Sizes {
            frame: self.frame_bytes.unwrap_or(most.frame),
            message: self.message_bytes.unwrap_or(most.message),
            data: self.data_bytes.unwrap_or(most.data),
            depth: self.data_depth.unwrap_or(most.depth),
        };
        let (frame, needed) = (sizes.frame, sizes.frame_needed());
        if frame < needed {
            return Err(format!(
                "--frame-bytes {frame} has no room for the longest message and its data: give \
                 {needed} or more, or lower --message-bytes ({}) or --data-bytes ({})",
                sizes.message, sizes.data
            ));
        }
        Ok(sizes)
    }
}

fn given<T>(option: Option<Bound<T>>, usual: Option<T>) -> Option<T> {
    option.map_or(usual, Bound::limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cli, Command};
    use crate::protocol::SOCKETS_PER_USER;
    use clap::{CommandFactory, Parser};

    #[test]
    fn what_is_given_holds_and_the_rest_is_usual_with_tokens() {
        let options = LimitOptions {
            user_messages: Some(Bound::Off),
            user_frames: Some(Bound::At(Rate::new(5, 9))),
            ..LimitOptions::default()
        };
        let with = options.settings(true, 896).unwrap();
        let changed = (with.sockets, with.messages, with.frames);
        assert_eq!(changed, (Some(896), None, Some(Rate::new(5, 9))));
        let usual = Settings::USUAL;
        assert_eq!(
            Settings { sockets: None, ..with },
            Settings { messages: None, frames: with.frames, ..usual }
        );
        let without = options.settings(false, 896).unwrap();
        let only = Settings { sockets: Some(896), frames: with.frames, ..Settings::default() };
        assert_eq!(without, only);
    }

    #[test]
    fn sizes_can_be_lowered_to_what_still_goes_together() {
        let given = |arguments: &[&str]| {
            let cli =
                Cli::try_parse_from(["parlor", "up"].iter().chain(arguments)).map_err(|error| {
                    assert_eq!(error.exit_code(), 2);
                    error.to_string()
                })?;
            let Command::Up(up) = cli.command else { panic!("up") };
            up.limits.settings(true, 896).map(|settings| settings.sizes)
        };
        assert_eq!(given(&[]), Ok(Sizes::MOST));
        let lower = ["--message-bytes", "1K", "--data-bytes=512", "--data-depth=4"];
        let lower = [&lower[..], &["--frame-bytes", "16K"]].concat();
        let sizes = Sizes { frame: 16_384, message: 1_024, data: 512, depth: 4 };
        assert_eq!(given(&lower), Ok(sizes));
        let whole = Sizes { frame: 22 << 10, ..Sizes::MOST };
        assert_eq!(given(&["--frame-bytes", "22K"]), Ok(whole));
        let error = given(&["--frame-bytes", "22527"]).unwrap_err();
        assert!(error.contains("give 22528 or more"), "{error}");
        for bad in [
            "--message-bytes=0",
            "--message-bytes=16385",
            "--data-bytes=1",
            "--data-bytes=off",
            "--data-depth=0",
            "--data-depth=33",
            "--frame-bytes=10239",
            "--frame-bytes=65K",
        ] {
            let error = given(&[bad]).unwrap_err();
            assert!(error.contains("whole number from"), "{bad}: {error}");
        }
    }

    /// The help tells the numbers that hold.
    #[test]
    fn the_defaults_are_told() {
        let command = Cli::command();
        let server = command.get_subcommands().find(|c| c.get_name() == "server").unwrap();
        let help = |id: &str| {
            let option = server.get_arguments().find(|option| option.get_id() == id).unwrap();
            option.get_help().unwrap().to_string()
        };
        let usual = Settings::USUAL;
        let size = |bytes: u32| match bytes >> 20 {
            0 => format!("{}K", bytes >> 10),
            mega => format!("{mega}M"),
        };
        for (id, rate) in [
            ("handshakes_per_address", usual.handshakes),
            ("handshakes_per_user", usual.user_handshakes),
            ("user_messages", usual.messages),
            ("user_frames", usual.frames),
            ("user_signals", usual.signals),
            ("new_conversations", usual.new_conversations),
            ("api_requests", usual.requests),
        ] {
            let Rate { rate, burst } = rate.unwrap();
            let told = help(id);
            assert!(told.ends_with(&format!("[default: {rate}:{burst}]")), "{id}: {told}");
        }
        let Rate { rate, burst } = usual.bytes.unwrap();
        let bytes = format!("[default: {}:{}]", size(rate), size(burst));
        assert!(help("user_bytes").ends_with(&bytes));
        let sockets = format!("[default: {};", usual.sockets_per_address.unwrap());
        assert!(help("sockets_per_address").contains(&sockets));
        let each = format!(", 1 to {SOCKETS_PER_USER_MAX}: ");
        assert!(help("sockets_per_user").contains(&each));
        let each = format!("[default: {SOCKETS_PER_USER}]");
        assert!(help("sockets_per_user").ends_with(&each));
        let half_open = format!("[default: {}]", usual.half_open_per_address.unwrap());
        assert!(help("half_open_per_address").ends_with(&half_open));
        let Sizes { frame, message, data, depth } = Sizes::MOST;
        for (id, most) in [
            ("message_bytes", size(message)),
            ("data_bytes", size(data)),
            ("data_depth", depth.to_string()),
            ("frame_bytes", size(frame)),
        ] {
            let told = help(id);
            let default = format!("[default: {most}, also without tokens]");
            assert!(told.ends_with(&default), "{id}: {told}");
        }
        let conversations = format!("[default: {}]", usual.conversations.unwrap());
        assert!(help("conversations_per_user").ends_with(&conversations));
    }
}
