//! Who listens to what.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::MARKER;
use super::inbox::Inbox;
use crate::wire::HEADER;
use crate::wire::backend as tag;

/// The channels, and the clients that listen to each. Dropped, they all learn that nothing comes any more.
#[derive(Default)]
pub(super) struct Table {
    channels: HashMap<String, HashMap<u64, Member>>,
    clients: HashMap<u64, HashSet<String>>,
    /// Moments that have not come yet, from which on a client hears.
    moments: HashMap<u64, Joining>,
}

struct Member {
    inbox: Arc<Inbox>,
    hears: bool,
}

struct Joining {
    client: u64,
    channels: Vec<String>,
    since: Instant,
}

impl Table {
    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Enters a client that hears at once, or from a moment on. Returns the channels that are new.
    pub(super) fn enter(&mut self, inbox: &Arc<Inbox>, channels: Vec<String>, moment: Option<u64>) -> Vec<String> {
        let client = inbox.client();
        let mut new = Vec::new();
        for channel in &channels {
            let members = self.channels.entry(channel.clone()).or_default();
            if members.is_empty() {
                new.push(channel.clone());
            }
            members.entry(client).or_insert_with(|| Member { inbox: inbox.clone(), hears: moment.is_none() });
            self.clients.entry(client).or_default().insert(channel.clone());
        }
        if let Some(moment) = moment {
            self.moments.insert(moment, Joining { client, channels, since: Instant::now() });
        }
        new
    }

    /// Takes a client off these channels. Returns those that nobody wants any more.
    pub(super) fn leave(&mut self, client: u64, channels: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut unwanted = Vec::new();
        for channel in channels {
            // A moment that it no longer waits for is not given up for it.
            self.moments.retain(|_, joining| {
                if joining.client == client {
                    joining.channels.retain(|joined| *joined != channel);
                }
                !joining.channels.is_empty()
            });
            let Some(members) = self.channels.get_mut(&channel) else { continue };
            members.remove(&client);
            if let Some(own) = self.clients.get_mut(&client) {
                own.remove(&channel);
            }
            if members.is_empty() {
                self.channels.remove(&channel);
                unwanted.push(channel);
            }
        }
        if self.clients.get(&client).is_some_and(HashSet::is_empty) {
            self.clients.remove(&client);
        }
        unwanted
    }

    /// Takes a client off all channels. Returns those that nobody wants any more.
    pub(super) fn remove(&mut self, client: u64) -> Vec<String> {
        let channels = self.clients.remove(&client).unwrap_or_default();
        self.leave(client, channels)
    }

    /// Passes a NotificationResponse on. Returns the inboxes that have no room for more.
    pub(super) fn dispatch(&mut self, message: &[u8]) -> Vec<Arc<Inbox>> {
        let body = message.get(HEADER..).unwrap_or_default();
        if let Some(moment) = mark(body) {
            self.begin(moment);
            return Vec::new();
        }
        let channel = tag::notification(body).and_then(|(_, channel)| std::str::from_utf8(channel).ok());
        let Some(members) = channel.and_then(|channel| self.channels.get(channel)) else { return Vec::new() };
        let message: Arc<[u8]> = message.into();
        let heard = members.values().filter(|member| member.hears);
        heard.filter(|member| !member.inbox.push(&message)).map(|member| member.inbox.clone()).collect()
    }

    /// A moment has come.
    fn begin(&mut self, moment: u64) {
        let Some(Joining { client, channels, .. }) = self.moments.remove(&moment) else { return };
        for channel in channels {
            if let Some(member) = self.channels.get_mut(&channel).and_then(|members| members.get_mut(&client)) {
                member.hears = true;
            }
        }
    }

    /// Clients whose moment has not come within `patience` would hear nothing for ever: they are told so.
    pub(super) fn give_up(&mut self, patience: Duration) {
        for (_, joining) in self.moments.extract_if(|_, joining| joining.since.elapsed() > patience) {
            let members = joining.channels.iter().filter_map(|channel| self.channels.get(channel));
            members.filter_map(|members| members.get(&joining.client)).for_each(|member| member.inbox.lose());
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.channels.values().flat_map(HashMap::values).for_each(|member| member.inbox.lose());
    }
}

/// The moment that a NotificationResponse marks.
pub(super) fn mark(body: &[u8]) -> Option<u64> {
    let payload = body.get(4..)?.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"\0")?.strip_suffix(b"\0")?;
    std::str::from_utf8(payload).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_waits_for_no_moment_any_more() {
        let mut table = Table::default();
        let joining = |channels: &[&str]| Joining {
            client: 1,
            channels: channels.iter().map(|channel| (*channel).to_owned()).collect(),
            since: Instant::now(),
        };
        table.moments.insert(1, joining(&["a"]));
        table.moments.insert(2, joining(&["a", "b"]));
        table.moments.insert(3, Joining { client: 2, ..joining(&["a"]) });
        table.channels.insert("a".to_owned(), HashMap::new());
        table.leave(1, ["a".to_owned()]);
        assert!(!table.moments.contains_key(&1), "it was all that it waited for");
        assert_eq!(table.moments[&2].channels, ["b"]);
        assert_eq!(table.moments[&3].channels, ["a"], "another's");
    }
}
