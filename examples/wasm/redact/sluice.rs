//! What a module for sluice needs: the values of `sluice:gateway@0.1.0`, its
//! hooks as macros, and what the gateway does for a module, in `host`. No crate
//! is needed. Written by `sluice wasm new`; there is no need to change it.
//!
//! ```
//! #[macro_use]
//! mod sluice;
//! use sluice::{Action, Request};
//!
//! fn check(req: &Request) -> Action { Action::Continue }
//! on_request!(check);
//! ```
#![allow(dead_code, unused_macros)]

use std::cell::UnsafeCell;

/// A request. What it holds is good until the hook returns.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: Headers<'a>,
    pub body: &'a [u8],
    pub id: &'a str,
    pub now_ms: u64,
}

/// An answer that is whole.
pub struct Response<'a> {
    pub status: u16,
    pub headers: Headers<'a>,
    pub body: &'a [u8],
}

/// Why a request got no good answer.
pub struct Failure<'a> {
    pub status: u16,
    pub code: &'a str,
    pub message: &'a str,
}

/// How a request ended.
pub struct Summary {
    pub status: u16,
    pub duration_ms: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// What becomes of a request or an answer.
pub enum Action {
    /// Go on.
    Continue,
    /// Answer with this status and no body.
    Reject(u16),
    /// Go on with these changes.
    Modify(Changes),
}

/// Changes are made in this order: remove, set, add, body. A status is of
/// answers only.
#[derive(Default)]
pub struct Changes {
    pub status: Option<u16>,
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
    pub body: Option<Vec<u8>>,
}

/// What becomes of an event of a streamed answer.
pub enum Chunk {
    Pass,
    Drop,
    /// This is sent instead.
    Replace(Vec<u8>),
    /// This is sent instead, perhaps nothing, and the stream ends.
    Finish(Vec<u8>),
}

/// The header fields, in the order in which they came.
#[derive(Clone, Copy)]
pub struct Headers<'a>(&'a [[Raw; 2]]);

impl<'a> Headers<'a> {
    /// The first value of a field, by its name in any case.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().map(|[n, v]| unsafe { (n.text(), v.text()) })
    }
}

/// What the gateway does for a module; `sluice-gateway.wit` says it in full.
pub mod host {
    use super::{arena, Raw};

    #[derive(Clone, Copy)]
    pub enum Level {
        Debug,
        Info,
        Warn,
        Error,
    }

    /// Writes a line to the gateway's log.
    pub fn log(level: Level, message: &str) {
        unsafe { raw::log(level as i32, message.as_ptr(), message.len()) }
    }

    /// Adds to the metric `sluice_wasm_guest_total{module,name}`.
    pub fn count(name: &str, by: u64) {
        unsafe { raw::count(name.as_ptr(), name.len(), by) }
    }

    /// The model that is asked for; empty if the request names none.
    pub fn model() -> String {
        String::from_utf8_lossy(&taken(|r| unsafe { raw::model(r) })).into_owned()
    }

    /// What the module remembers of this request; empty at first.
    pub fn state() -> Vec<u8> {
        taken(|r| unsafe { raw::state(r) })
    }

    /// False, and nothing is changed, if it is more than 64 KiB.
    pub fn set_state(value: &[u8]) -> bool {
        unsafe { raw::set_state(value.as_ptr(), value.len()) != 0 }
    }

    /// Adds to a number that all requests of the module share, and returns it.
    /// It lives for `ttl_ms` from now on; 0 stands for as long as there is room.
    pub fn add(key: &str, by: i64, ttl_ms: u64) -> i64 {
        unsafe { raw::add(key.as_ptr(), key.len(), by, ttl_ms) }
    }

    /// The number, 0 if there is none.
    pub fn get(key: &str) -> i64 {
        unsafe { raw::get(key.as_ptr(), key.len()) }
    }

    /// Copies a list that the host put into the arena.
    fn taken(call: impl FnOnce(*mut Raw)) -> Vec<u8> {
        let mark = arena().used;
        let mut r = Raw { p: 1 as *const u8, n: 0 };
        call(&mut r);
        let v = unsafe { r.bytes() }.to_vec();
        arena().back(mark);
        v
    }

    mod raw {
        use super::Raw;
        #[link(wasm_import_module = "sluice:gateway/host@0.1.0")]
        extern "C" {
            pub fn log(level: i32, p: *const u8, n: usize);
            pub fn count(p: *const u8, n: usize, by: u64);
            pub fn model(r: *mut Raw);
            pub fn state(r: *mut Raw);
            #[link_name = "set-state"]
            pub fn set_state(p: *const u8, n: usize) -> i32;
            pub fn add(p: *const u8, n: usize, by: i64, ttl_ms: u64) -> i64;
            pub fn get(p: *const u8, n: usize) -> i64;
        }
    }
}

macro_rules! on_request {
    ($f:path) => {
        #[export_name = "sluice:gateway/on-request@0.1.0#on-request"]
        #[allow(clippy::too_many_arguments)]
        unsafe extern "C" fn sluice_on_request(mp: *const u8, mn: usize, pp: *const u8, pn: usize, qp: *const u8, qn: usize,
            hp: *const u8, hn: usize, bp: *const u8, bn: usize, ip: *const u8, inn: usize, now_ms: u64) -> *const u8 {
            use $crate::sluice::{list, text, Request};
            let action = $f(&Request { method: text(mp, mn), path: text(pp, pn), query: text(qp, qn), headers: $crate::sluice::headers(hp, hn),
                body: list(bp, bn), id: text(ip, inn), now_ms });
            action.lower()
        }
        #[export_name = "cabi_post_sluice:gateway/on-request@0.1.0#on-request"]
        unsafe extern "C" fn sluice_on_request_done(_: *const u8) {
            $crate::sluice::done()
        }
    };
}

macro_rules! on_response {
    ($f:path) => {
        #[export_name = "sluice:gateway/on-response@0.1.0#on-response"]
        unsafe extern "C" fn sluice_on_response(status: u32, hp: *const u8, hn: usize, bp: *const u8, bn: usize) -> *const u8 {
            let action = $f(&$crate::sluice::Response { status: status as u16, headers: $crate::sluice::headers(hp, hn), body: $crate::sluice::list(bp, bn) });
            action.lower()
        }
        #[export_name = "cabi_post_sluice:gateway/on-response@0.1.0#on-response"]
        unsafe extern "C" fn sluice_on_response_done(_: *const u8) {
            $crate::sluice::done()
        }
    };
}

macro_rules! on_chunk {
    ($f:path) => {
        #[export_name = "sluice:gateway/on-chunk@0.1.0#on-chunk"]
        unsafe extern "C" fn sluice_on_chunk(p: *const u8, n: usize) -> *const u8 {
            let action: $crate::sluice::Chunk = $f($crate::sluice::list(p, n));
            action.lower()
        }
        #[export_name = "cabi_post_sluice:gateway/on-chunk@0.1.0#on-chunk"]
        unsafe extern "C" fn sluice_on_chunk_done(_: *const u8) {
            $crate::sluice::done()
        }
    };
}

macro_rules! on_error {
    ($f:path) => {
        #[export_name = "sluice:gateway/on-error@0.1.0#on-error"]
        unsafe extern "C" fn sluice_on_error(status: u32, cp: *const u8, cn: usize, mp: *const u8, mn: usize) {
            $f(&$crate::sluice::Failure { status: status as u16, code: $crate::sluice::text(cp, cn), message: $crate::sluice::text(mp, mn) });
            $crate::sluice::done()
        }
    };
}

macro_rules! on_end {
    ($f:path) => {
        #[export_name = "sluice:gateway/on-end@0.1.0#on-end"]
        unsafe extern "C" fn sluice_on_end(status: u32, duration_ms: u64, input_tokens: u64, output_tokens: u64) {
            $f(&$crate::sluice::Summary { status: status as u16, duration_ms, input_tokens, output_tokens });
            $crate::sluice::done()
        }
    };
}

// What follows is how values cross the border (Component Model, CanonicalABI.md).
// What the host gives and what a hook returns stands in an arena, which is empty
// again after each call.

/// An address and a length.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Raw {
    p: *const u8,
    n: usize,
}

impl Raw {
    unsafe fn bytes<'a>(&self) -> &'a [u8] {
        list(self.p, self.n)
    }
    unsafe fn text<'a>(&self) -> &'a str {
        text(self.p, self.n)
    }
}

/// # Safety
/// The host gives addresses of lists that are there.
pub unsafe fn list<'a>(p: *const u8, n: usize) -> &'a [u8] {
    if n == 0 {
        return &[];
    }
    std::slice::from_raw_parts(p, n)
}

/// # Safety
/// As `list`; the host gives UTF-8 only.
pub unsafe fn text<'a>(p: *const u8, n: usize) -> &'a str {
    std::str::from_utf8_unchecked(list(p, n))
}

/// # Safety
/// As `list`.
pub unsafe fn headers<'a>(p: *const u8, n: usize) -> Headers<'a> {
    if n == 0 {
        return Headers(&[]);
    }
    Headers(std::slice::from_raw_parts(p as *const [Raw; 2], n))
}

struct Single<T>(UnsafeCell<T>);
unsafe impl<T> Sync for Single<T> {} // a module has one thread

struct Arena {
    more: Vec<Vec<u64>>, // chunks behind FIRST
    used: (usize, usize), // chunks before the one in use; bytes of that
}

static ARENA: Single<Arena> = Single(UnsafeCell::new(Arena { more: Vec::new(), used: (0, 0) }));

/// The first chunk is there from the start, so that most calls ask the allocator
/// for nothing: it would have to grow the memory anew in each.
static FIRST: Single<[u64; Arena::CHUNK / 8]> = Single(UnsafeCell::new([0; Arena::CHUNK / 8]));

fn arena() -> &'static mut Arena {
    unsafe { &mut *ARENA.0.get() }
}

impl Arena {
    const CHUNK: usize = 8 << 10;

    fn room(&mut self, n: usize) -> *mut u8 {
        loop {
            let (i, at) = self.used;
            if i > self.more.len() {
                self.more.push(vec![0; (n.max(Self::CHUNK) + 7) / 8]);
            }
            let c = if i == 0 { unsafe { &mut (*FIRST.0.get())[..] } } else { &mut self.more[i - 1][..] };
            if at + n <= 8 * c.len() {
                self.used = (i, (at + n + 7) & !7);
                return unsafe { (c.as_mut_ptr() as *mut u8).add(at) };
            }
            self.used = (i + 1, 0);
        }
    }

    fn back(&mut self, mark: (usize, usize)) {
        self.used = mark;
        self.more.truncate(mark.0);
    }

    fn copy(&mut self, b: &[u8]) -> Raw {
        let p = self.room(b.len());
        unsafe { std::ptr::copy_nonoverlapping(b.as_ptr(), p, b.len()) };
        Raw { p, n: b.len() }
    }

    fn list<T>(&mut self, items: &[T], words: usize, mut put: impl FnMut(&mut Self, &T, *mut Raw)) -> Raw {
        let p = self.room(items.len() * words * 8) as *mut Raw;
        for (i, it) in items.iter().enumerate() {
            put(self, it, unsafe { p.add(i * words) });
        }
        Raw { p: p as *const u8, n: items.len() }
    }

    fn fields(&mut self, fields: &[(String, String)]) -> Raw {
        self.list(fields, 2, |a, (n, v), at| unsafe {
            *at = a.copy(n.as_bytes());
            *at.add(1) = a.copy(v.as_bytes());
        })
    }
}

/// # Safety
/// The host calls it.
#[no_mangle]
pub unsafe extern "C" fn cabi_realloc(old: *const u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return align as *mut u8;
    }
    let p = arena().room(size);
    if old_size > 0 {
        std::ptr::copy_nonoverlapping(old, p, old_size.min(size));
    }
    p
}

pub fn done() {
    arena().back((0, 0))
}

impl Action {
    pub fn lower(self) -> *const u8 {
        let a = arena();
        let r = a.room(44);
        unsafe {
            std::ptr::write_bytes(r, 0, 44);
            match self {
                Action::Continue => {}
                Action::Reject(status) => {
                    *r = 1;
                    *(r.add(4) as *mut u16) = status;
                }
                Action::Modify(c) => {
                    *r = 2;
                    if let Some(s) = c.status {
                        *r.add(4) = 1;
                        *(r.add(6) as *mut u16) = s;
                    }
                    *(r.add(8) as *mut Raw) = a.fields(&c.set);
                    *(r.add(16) as *mut Raw) = a.fields(&c.add);
                    *(r.add(24) as *mut Raw) = a.list(&c.remove, 1, |a, n, at| *at = a.copy(n.as_bytes()));
                    if let Some(b) = c.body {
                        *r.add(32) = 1;
                        *(r.add(36) as *mut Raw) = a.copy(&b);
                    }
                }
            }
        }
        r
    }
}

impl Chunk {
    pub fn lower(self) -> *const u8 {
        let a = arena();
        let r = a.room(12);
        let (kind, data) = match self {
            Chunk::Pass => (0, Vec::new()),
            Chunk::Drop => (1, Vec::new()),
            Chunk::Replace(d) => (2, d),
            Chunk::Finish(d) => (3, d),
        };
        unsafe {
            *(r as *mut u32) = kind;
            *(r.add(4) as *mut Raw) = a.copy(&data);
        }
        r
    }
}
