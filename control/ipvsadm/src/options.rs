//! Splits a command line into options as popt does, on which ipvsadm is built: bundled short options (`-Ln`), attached
//! arguments (`-w5`, `-w=5`, `--weight=5`), optional arguments, `--` as the end of the options. Long names are not
//! abbreviated.

use self::Argument::{None as Flag, Optional, Required};

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    /// No argument.
    None,
    /// An argument, whatever it looks like.
    Required,
    /// An argument unless the next word is an option.
    Optional,
}

/// An option, whether written short or long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    Help,
    Version,
    Restore,
    Save,
    StartDaemon,
    StopDaemon,
    AddLocalAddress,
    DeleteLocalAddress,
    GetLocalAddress,
    Tcp,
    Udp,
    Sctp,
    Fwmark,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    Masquerading,
    Ipip,
    Gatewaying,
    Fullnat,
    Weight,
    UpperThreshold,
    LowerThreshold,
    Numeric,
    Connection,
    McastInterface,
    SyncId,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    Sort,
    Exact,
    Ipv6,
    OnePacket,
    PersistenceEngine,
    SchedulerFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    LocalAddress,
    Interface,
    SynProxy,
    ConnTimeout,
    LocalPorts,
}

/// Long name, short name, argument. `-b` is told apart in [`Options::short`].
const TABLE: &[(&str, Option<char>, Argument, Tag)] = &[
    ("add-service", Some('A'), Flag, Tag::AddService),
    ("edit-service", Some('E'), Flag, Tag::EditService),
    ("delete-service", Some('D'), Flag, Tag::DeleteService),
    ("clear", Some('C'), Flag, Tag::Clear),
    ("list", Some('L'), Flag, Tag::List),
    ("list", Some('l'), Flag, Tag::List),
    ("zero", Some('Z'), Flag, Tag::Zero),
    ("add-server", Some('a'), Flag, Tag::AddServer),
    ("edit-server", Some('e'), Flag, Tag::EditServer),
    ("delete-server", Some('d'), Flag, Tag::DeleteServer),
    ("set", None, Flag, Tag::Set),
    ("help", Some('h'), Flag, Tag::Help),
    ("version", Some('v'), Flag, Tag::Version),
    ("restore", Some('R'), Flag, Tag::Restore),
    ("save", Some('S'), Flag, Tag::Save),
    ("start-daemon", None, Required, Tag::StartDaemon),
    ("stop-daemon", None, Required, Tag::StopDaemon),
    ("add-laddr", Some('P'), Flag, Tag::AddLocalAddress),
    ("del-laddr", Some('Q'), Flag, Tag::DeleteLocalAddress),
    ("get-laddr", Some('G'), Flag, Tag::GetLocalAddress),
    ("tcp-service", Some('t'), Required, Tag::Tcp),
    ("udp-service", Some('u'), Required, Tag::Udp),
    ("sctp-service", None, Required, Tag::Sctp),
    ("fwmark-service", Some('f'), Required, Tag::Fwmark),
    ("scheduler", Some('s'), Required, Tag::Scheduler),
    ("persistent", Some('p'), Optional, Tag::Persistent),
    ("netmask", Some('M'), Required, Tag::Netmask),
    ("real-server", Some('r'), Required, Tag::RealServer),
    ("masquerading", Some('m'), Flag, Tag::Masquerading),
    ("ipip", Some('i'), Flag, Tag::Ipip),
    ("gatewaying", Some('g'), Flag, Tag::Gatewaying),
    ("fullnat", None, Flag, Tag::Fullnat),
    ("weight", Some('w'), Required, Tag::Weight),
    ("u-threshold", Some('x'), Required, Tag::UpperThreshold),
    ("l-threshold", Some('y'), Required, Tag::LowerThreshold),
    ("numeric", Some('n'), Flag, Tag::Numeric),
    ("connection", Some('c'), Flag, Tag::Connection),
    ("mcast-interface", None, Required, Tag::McastInterface),
    ("syncid", None, Required, Tag::SyncId),
    ("timeout", None, Flag, Tag::Timeout),
    ("daemon", None, Flag, Tag::Daemon),
    ("stats", None, Flag, Tag::Stats),
    ("rate", None, Flag, Tag::Rate),
    ("thresholds", None, Flag, Tag::Thresholds),
    ("persistent-conn", None, Flag, Tag::PersistentConn),
    ("nosort", None, Flag, Tag::NoSort),
    ("sort", None, Flag, Tag::Sort),
    ("exact", Some('X'), Flag, Tag::Exact),
    ("ipv6", Some('6'), Flag, Tag::Ipv6),
    ("ops", Some('o'), Flag, Tag::OnePacket),
    ("pe", None, Required, Tag::PersistenceEngine),
    ("sched-flags", Some('b'), Required, Tag::SchedulerFlags),
    ("mcast-group", None, Required, Tag::McastGroup),
    ("mcast-port", None, Required, Tag::McastPort),
    ("mcast-ttl", None, Required, Tag::McastTtl),
    ("sync-maxlen", None, Required, Tag::SyncMaxlen),
    ("tun-info", None, Flag, Tag::TunInfo),
    ("tun-type", None, Required, Tag::TunType),
    ("tun-port", None, Required, Tag::TunPort),
    ("tun-nocsum", None, Flag, Tag::TunNoCsum),
    ("tun-csum", None, Flag, Tag::TunCsum),
    ("tun-remcsum", None, Flag, Tag::TunRemCsum),
    ("laddr", Some('z'), Required, Tag::LocalAddress),
    ("ifname", Some('F'), Required, Tag::Interface),
    ("synproxy", Some('j'), Required, Tag::SynProxy),
    ("conn-timeout", None, Required, Tag::ConnTimeout),
    ("local-ports", None, Required, Tag::LocalPorts),
];

/// A command line that cannot be split, with the words popt has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    UnknownOption,
    MissingArgument,
    UnwantedArgument,
}

impl Malformed {
    pub fn words(self) -> &'static str {
        match self {
            Malformed::UnknownOption => "unknown option",
            Malformed::MissingArgument => "missing argument",
            Malformed::UnwantedArgument => "option does not take an argument",
        }
    }
}

/// The words of a command line, without the program's name, being split.
pub(crate) struct Options<'a> {
    words: &'a [String],
    next: usize,
    /// What is left of a bundle of short options.
    bundle: &'a str,
    ended: bool,
    server_command: bool,
    operands: Vec<&'a str>,
}

impl<'a> Options<'a> {
    pub fn new(words: &'a [String]) -> Self {
        Self { words, next: 0, bundle: "", ended: false, server_command: false, operands: Vec::new() }
    }

    /// From now on `-b` is DPVS's FULLNAT of a server, not the scheduler flags of a service.
    pub fn server_command(&mut self) {
        self.server_command = true;
    }

    /// The word that the last option was in.
    pub fn culprit(&self) -> &'a str {
        &self.words[self.next.saturating_sub(1)]
    }

    /// The words that are no options, once all options are taken.
    pub fn operands(self) -> Vec<&'a str> {
        self.operands
    }

    /// The next option with its argument.
    pub fn take(&mut self) -> Result<Option<(Tag, Option<&'a str>)>, Malformed> {
        while self.bundle.is_empty() {
            let Some(word) = self.words.get(self.next).map(String::as_str) else { return Ok(None) };
            self.next += 1;
            if self.ended || word == "-" || !word.starts_with('-') {
                self.operands.push(word);
            } else if word == "--" {
                self.ended = true;
            } else if let Some(long) = word.strip_prefix("--") {
                return self.long(long).map(Some);
            } else {
                self.bundle = &word[1..];
            }
        }
        self.short().map(Some)
    }

    fn long(&mut self, word: &'a str) -> Result<(Tag, Option<&'a str>), Malformed> {
        let (name, attached) = match word.split_once('=') {
            Some((name, attached)) => (name, Some(attached)),
            None => (word, None),
        };
        let entry = TABLE.iter().find(|(long, ..)| *long == name).ok_or(Malformed::UnknownOption)?;
        self.argument(entry.2, attached).map(|argument| (entry.3, argument))
    }

    fn short(&mut self) -> Result<(Tag, Option<&'a str>), Malformed> {
        let Some(letter) = self.bundle.chars().next() else { return Err(Malformed::UnknownOption) };
        self.bundle = &self.bundle[letter.len_utf8()..];
        let (kind, tag) = if letter == 'b' && self.server_command {
            (Flag, Tag::Fullnat)
        } else {
            let entry = TABLE.iter().find(|(_, short, ..)| *short == Some(letter)).ok_or(Malformed::UnknownOption)?;
            (entry.2, entry.3)
        };
        // "=..." belongs to the option before it; other text only to an option that takes an argument.
        let attached = match self.bundle.strip_prefix('=') {
            Some(attached) => Some(attached),
            None if kind != Flag && !self.bundle.is_empty() => Some(self.bundle),
            None => None,
        };
        if attached.is_some() {
            self.bundle = "";
        }
        self.argument(kind, attached).map(|argument| (tag, argument))
    }

    fn argument(&mut self, kind: Argument, attached: Option<&'a str>) -> Result<Option<&'a str>, Malformed> {
        let following = self.words.get(self.next).map(String::as_str);
        match (kind, attached) {
            (Flag, Some(_)) => Err(Malformed::UnwantedArgument),
            (Flag, None) => Ok(None),
            (_, Some(attached)) => Ok(Some(attached)),
            (Optional, None) if following.is_none_or(|word| word.starts_with('-')) => Ok(None),
            (_, None) => {
                let word = following.ok_or(Malformed::MissingArgument)?;
                self.next += 1;
                Ok(Some(word))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str, server_command: bool) -> Result<String, Malformed> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut options = Options::new(&words);
        if server_command {
            options.server_command();
        }
        let mut text = Vec::new();
        while let Some((tag, argument)) = options.take()? {
            text.push(argument.map_or_else(|| format!("{tag:?}"), |argument| format!("{tag:?}({argument})")));
        }
        text.extend(options.operands().into_iter().map(str::to_owned));
        Ok(text.join(" "))
    }

    #[test]
    fn spellings() {
        for (line, expected) in [
            ("-Ln", "List Numeric"),
            ("-w5", "Weight(5)"),
            ("-w=5", "Weight(5)"),
            ("-mw 5 x", "Masquerading Weight(5) x"),
            ("--weight=5 --weight 6", "Weight(5) Weight(6)"),
            ("-w -5", "Weight(-5)"),
            ("--weight=", "Weight()"),
            ("-p -o", "Persistent OnePacket"),
            ("-p 5", "Persistent(5)"),
            ("-p", "Persistent"),
            ("a -n - b -- -c --", "Numeric a - b -c --"),
        ] {
            assert_eq!(split(line, false).as_deref(), Ok(expected), "{line}");
        }
        assert_eq!(split("-b x", false).as_deref(), Ok("SchedulerFlags(x)"));
        assert_eq!(split("-b x", true).as_deref(), Ok("Fullnat x"));
        assert_eq!(split("-bw5", true).as_deref(), Ok("Fullnat Weight(5)"));
    }

    #[test]
    fn malformed() {
        for (line, expected) in [
            ("-k", Malformed::UnknownOption),
            ("-Lé", Malformed::UnknownOption),
            ("--weigh 5", Malformed::UnknownOption),
            ("-w", Malformed::MissingArgument),
            ("--weight", Malformed::MissingArgument),
            ("-n=1", Malformed::UnwantedArgument),
            ("--numeric=1", Malformed::UnwantedArgument),
        ] {
            assert_eq!(split(line, false), Err(expected), "{line}");
        }
    }
}
