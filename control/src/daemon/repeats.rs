//! Keeps a message that comes again and again from filling the log.
//!
//! The first few of the same text pass, then the rest of the interval is silent, and one line says how many there were.
//! Messages that differ in details, such as an address, have a limit by the place in the program that they come from.
//! `debug` and `trace` are not limited: whoever asks for those wants them.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// How long a message is counted from its first appearance on.
const INTERVAL: Duration = Duration::from_secs(60);
/// Messages of the same text that pass in this time.
const SAME_TEXT: u32 = 5;
/// Messages of one place in the program that pass in this time.
const SAME_PLACE: u32 = 100;
/// Texts that are remembered. With more, only the places' limit holds.
const TEXTS: usize = 512;
/// Target of the lines that say how many there were, which are not counted themselves.
const TARGET: &str = "dpvsd::repeats";

/// Limits repeated messages. Clones share what they have counted.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    counts: Arc<Mutex<Counts>>,
}

/// What a repeated message has in common with the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Text(Identifier, String),
    Place(Identifier),
}

#[derive(Debug)]
struct Count {
    since: Instant,
    level: Level,
    passed: u32,
    suppressed: u64,
    /// An example of what was suppressed.
    text: String,
}

#[derive(Debug, Default)]
struct Counts {
    counts: HashMap<Key, Count>,
}

/// How often a message was suppressed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Summary {
    level: Level,
    line: String,
}

impl Repeats {
    /// Logs how many messages were suppressed in intervals that are over; with `all`, also in those that are not.
    pub fn report(&self, now: Instant, all: bool) {
        let summaries = self.counts.lock().unwrap_or_else(PoisonError::into_inner).finish(now, all);
        for Summary { level, line } in summaries {
            match level {
                Level::ERROR => tracing::error!(target: TARGET, "{line}"),
                Level::WARN => tracing::warn!(target: TARGET, "{line}"),
                _ => tracing::info!(target: TARGET, "{line}"),
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == TARGET {
            return true;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.admit(Instant::now(), *metadata.level(), metadata.callsite(), text.0)
    }
}

impl Counts {
    /// Counts a message and returns whether it passes.
    fn admit(&mut self, now: Instant, level: Level, place: Identifier, text: String) -> bool {
        let by_text = Key::Text(place.clone(), text.clone());
        if self.counts.contains_key(&by_text) || self.counts.len() < TEXTS {
            // A text that is silent counts no further against its place.
            if !self.count(by_text, now, level, &text, SAME_TEXT) {
                return false;
            }
        }
        self.count(Key::Place(place), now, level, &text, SAME_PLACE)
    }

    fn count(&mut self, key: Key, now: Instant, level: Level, text: &str, limit: u32) -> bool {
        let new = || Count { since: now, level, passed: 0, suppressed: 0, text: String::new() };
        let count = self.counts.entry(key).or_insert_with(new);
        // One with suppressed messages stays until they are reported.
        if now.saturating_duration_since(count.since) >= INTERVAL && count.suppressed == 0 {
            *count = new();
        }
        if count.passed < limit {
            count.passed += 1;
            return true;
        }
        if count.suppressed == 0 {
            count.text = text.to_owned();
        }
        count.suppressed += 1;
        false
    }

    /// Takes out what is over, and returns a line for each that suppressed something.
    fn finish(&mut self, now: Instant, all: bool) -> Vec<Summary> {
        let is_over = |count: &Count| now.saturating_duration_since(count.since) >= INTERVAL;
        let over = self.counts.extract_if(|_, count| is_over(count) || (all && count.suppressed > 0));
        let mut summaries: Vec<_> = over
            .filter(|(_, count)| count.suppressed > 0)
            .map(|(key, Count { since, level, suppressed, text, .. })| {
                let seconds = now.saturating_duration_since(since).as_secs();
                let line = match (key, suppressed) {
                    (Key::Text(..), 1) => format!("repeated once within {seconds} s: {text}"),
                    (Key::Text(..), _) => format!("repeated {suppressed} times within {seconds} s: {text}"),
                    (Key::Place(_), _) => {
                        format!("{suppressed} more messages like this within {seconds} s: {text}")
                    }
                };
                (since, Summary { level, line })
            })
            .collect();
        summaries.sort_by_key(|(since, _)| *since);
        summaries.into_iter().map(|(_, summary)| summary).collect()
    }
}

/// The message of an event and its other fields, as text.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn take(&self) -> Vec<String> {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap());
            String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;
        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// Runs `act` with a log of its own.
    fn logging(act: impl FnOnce(&Repeats, &Lines)) {
        let (repeats, lines) = (Repeats::default(), Lines::default());
        let layer = tracing_subscriber::fmt::layer()
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .with_writer(lines.clone());
        let everything = tracing_subscriber::filter::LevelFilter::TRACE;
        let subscriber = tracing_subscriber::registry().with(everything).with(repeats.clone()).with(layer);
        tracing::subscriber::with_default(subscriber, || act(&repeats, &lines));
    }

    #[test]
    fn the_same_message_is_silenced_and_counted() {
        logging(|repeats, lines| {
            let complain = || tracing::warn!(port = "lan", "no buffer");
            (0..SAME_TEXT + 3).for_each(|_| complain());
            assert_eq!(lines.take(), vec![" WARN no buffer port=\"lan\""; SAME_TEXT as usize]);
            let now = Instant::now();
            repeats.report(now, false);
            assert_eq!(lines.take(), [""; 0], "the interval is not over");
            repeats.report(now + INTERVAL, false);
            assert_eq!(lines.take(), [" WARN repeated 3 times within 60 s: no buffer port=\"lan\""]);
            complain();
            assert_eq!(lines.take().len(), 1, "a new interval");
            repeats.report(now + 3 * INTERVAL, false);
            assert_eq!(lines.take(), [""; 0], "nothing was suppressed in it");
        });
    }

    #[test]
    fn the_rest_is_reported_at_the_end() {
        logging(|repeats, lines| {
            (0..=SAME_TEXT).for_each(|_| tracing::error!("broken"));
            lines.take();
            repeats.report(Instant::now(), true);
            assert_eq!(lines.take(), ["ERROR repeated once within 0 s: broken"]);
            repeats.report(Instant::now(), true);
            assert_eq!(lines.take(), [""; 0]);
        });
    }

    #[test]
    fn messages_that_differ_in_details_are_limited_together() {
        logging(|repeats, lines| {
            (0..SAME_PLACE + 50).for_each(|n| tracing::info!("neighbour 10.0.0.{n} is unknown"));
            assert_eq!(lines.take().len(), SAME_PLACE as usize);
            repeats.report(Instant::now() + INTERVAL, false);
            let said = lines.take();
            assert_eq!(said, [" INFO 50 more messages like this within 60 s: neighbour 10.0.0.100 is unknown"]);
        });
    }

    #[test]
    fn others_and_debug_messages_pass() {
        logging(|_, lines| {
            (0..SAME_TEXT * 2).for_each(|_| tracing::debug!("detail"));
            (0..SAME_TEXT * 2).for_each(|_| tracing::info!("much"));
            lines.take();
            tracing::info!("another");
            tracing::info!("much");
            assert_eq!(lines.take(), [" INFO another", " INFO much"], "another place in the program");
            (0..SAME_TEXT * 2).for_each(|_| tracing::debug!("detail"));
            assert_eq!(lines.take().len(), 2 * SAME_TEXT as usize);
        });
    }

    #[test]
    fn memory_is_bounded() {
        let mut counts = Counts::default();
        let now = Instant::now();
        let place = tracing::callsite!(name: "test", kind: tracing::metadata::Kind::EVENT, fields: a);
        let place = tracing::Callsite::metadata(place).callsite();
        for n in 0..4 * TEXTS {
            counts.admit(now, Level::INFO, place.clone(), n.to_string());
        }
        assert!(counts.counts.len() <= TEXTS + 1);
        counts.finish(now + INTERVAL, false);
        assert_eq!(counts.counts.len(), 0);
    }
}
