//! `ZONE` (`one.zone.info`, `one.zonepool.info`).

use super::writer::Writer;

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
    let mut w = Writer::new();
    w.open("ZONE");
    w.number("ID", view.id);
    w.text("NAME", &view.name);
    w.number("STATE", view.state);
    w.open("TEMPLATE");
    w.text("ENDPOINT", &view.endpoint);
    w.close("TEMPLATE");
    w.open("SERVER_POOL");
    for server in &view.servers {
        w.open("SERVER");
        w.text("ENDPOINT", &server.endpoint);
        w.number("ID", server.id);
        w.text("NAME", &server.name);
        w.close("SERVER");
    }
    w.close("SERVER_POOL");
    w.close("ZONE");
    w.finish()
}
