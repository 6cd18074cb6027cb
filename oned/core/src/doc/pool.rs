//! Pools: many objects in one answer, written one after the other into one buffer.
//!
//! A pool is begun, given each object as soon as its view is made, and finished. Nothing of an object is kept but its
//! text, so that beside the answer itself only one view is in memory, however many objects there are.

use super::writer::Writer;

/// Something that becomes one element of an answer.
pub trait Render {
    /// Appends the element.
    fn render(&self, w: &mut Writer);
}

/// The element as an answer of its own.
pub fn alone(object: &impl Render) -> String {
    let mut w = Writer::new();
    object.render(&mut w);
    w.finish()
}

/// A pool document that grows: `VM_POOL`, `HISTORY_RECORDS`, `MONITORING_DATA` …
///
/// Users and groups have pools of their own form: [`super::UserPool`], [`super::GroupPool`].
#[derive(Debug)]
pub struct Pool<'a> {
    root: &'a str,
    w: Writer,
}

impl<'a> Pool<'a> {
    /// A pool without objects so far; `root` is the name of its element.
    pub fn begin(root: &'a str) -> Self {
        let mut w = Writer::new();
        w.open(root);
        Self { root, w }
    }

    /// Adds an object.
    pub fn push(&mut self, object: &impl Render) {
        object.render(&mut self.w);
        self.w.keep_apart();
    }

    /// Adds a document that is finished already.
    pub fn push_document(&mut self, document: &str) {
        self.w.raw(document);
        self.w.keep_apart();
    }

    /// The finished document; without objects `<VM_POOL></VM_POOL>`.
    pub fn finish(mut self) -> String {
        self.w.close_long(self.root);
        self.w.finish()
    }
}

/// A pool of finished documents.
pub fn pool(root: &str, documents: impl Iterator<Item = String>) -> String {
    let mut pool = Pool::begin(root);
    documents.for_each(|document| pool.push_document(&document));
    pool.finish()
}
