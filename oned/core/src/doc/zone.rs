//! `ZONE` (`one.zone.info`, `one.zonepool.info`) and `RAFT` (`one.zone.raftstatus`).

use super::writer::Writer;
use super::{Render, alone};

/// What a zone document shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneView {
    /// Zone id; a single daemon is zone 0.
    pub id: i64,
    /// Name.
    pub name: String,
    /// STATE number: ENABLED 0, DISABLED 1.
    pub state: i32,
    /// URL of its XML-RPC endpoint.
    pub endpoint: String,
    /// Servers of a high-availability zone.
    pub servers: Vec<ServerView>,
}

/// A server of a zone (`SERVER`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerView {
    /// Server id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// URL of its XML-RPC endpoint.
    pub endpoint: String,
}

/// The document (`one.zone.info`, and an element of ZONE_POOL).
pub fn zone(view: &ZoneView) -> String {
    alone(view)
}

impl Render for ZoneView {
    fn render(&self, w: &mut Writer) {
        w.open("ZONE");
        w.number("ID", self.id);
        w.text("NAME", &self.name);
        w.number("STATE", self.state);
        w.open("TEMPLATE");
        w.text("ENDPOINT", &self.endpoint);
        w.close("TEMPLATE");
        w.open("SERVER_POOL");
        for server in &self.servers {
            w.open("SERVER");
            w.text("ENDPOINT", &server.endpoint);
            w.number("ID", server.id);
            w.text("NAME", &server.name);
            w.close("SERVER");
        }
        w.close("SERVER_POOL");
        w.close("ZONE");
    }
}

/// State of a server among those of its zone (`RAFT`).
///
/// The default is what a daemon without companions says: it takes no part in any election and has replicated nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftView {
    /// Server id, −1 for a daemon that is alone.
    pub server_id: i64,
    /// STATE number: SOLO 0, CANDIDATE 1, FOLLOWER 2, LEADER 3.
    pub state: i32,
    /// Election term.
    pub term: i64,
    /// Server voted for in this term, −1 none.
    pub voted_for: i64,
    /// Last record that is on most servers.
    pub commit: i64,
    /// Last record here.
    pub log_index: i64,
    /// Its term.
    pub log_term: i64,
    /// Last record shared with other zones, −1 none.
    pub fedlog_index: i64,
}

impl Default for RaftView {
    fn default() -> Self {
        Self { server_id: -1, state: 0, term: 0, voted_for: -1, commit: 0, log_index: 0, log_term: 0, fedlog_index: -1 }
    }
}

/// The document (`one.zone.raftstatus`).
pub fn raft(view: &RaftView) -> String {
    let mut w = Writer::new();
    w.open("RAFT");
    w.number("SERVER_ID", view.server_id);
    w.number("STATE", view.state);
    w.number("TERM", view.term);
    w.number("VOTEDFOR", view.voted_for);
    w.number("COMMIT", view.commit);
    w.number("LOG_INDEX", view.log_index);
    w.number("LOG_TERM", view.log_term);
    w.number("FEDLOG_INDEX", view.fedlog_index);
    w.close("RAFT");
    w.finish()
}
