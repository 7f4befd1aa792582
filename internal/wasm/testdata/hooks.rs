//! A module for tests, in Rust and with std. It has every hook, and does what the
//! request's query says: pairs hook=what, parted by &. It remembers the query from
//! hook to hook, and writes what it is told.
#[macro_use]
#[path = "../scaffold/files/rust/sluice.rs"]
mod sluice;
use sluice::{host, Action, Changes, Chunk, Failure, Request, Response, Summary};

/// What the query says of a hook.
fn told(hook: &str) -> String {
    host::count(hook, 1);
    let state = String::from_utf8(host::state()).unwrap();
    let does = state.split('&').filter_map(|p| p.split_once('=')).find(|(k, _)| *k == hook);
    let does = does.map_or(String::new(), |(_, v)| v.to_string());
    if does == "panic" {
        panic!("as the query says");
    }
    does
}

fn request(req: &Request) -> Action {
    if !host::set_state(req.query.as_bytes()) {
        return Action::Reject(414);
    }
    let seen = host::add("seen", 1, 0);
    match told("request").as_str() {
        "reject" => Action::Reject(403),
        "tell" => {
            let told = format!("{} {} {} {} {}", req.method, req.path, host::model(), req.headers.get("x-set").unwrap_or("-"), seen);
            Action::Modify(Changes { set: vec![("x-set".into(), told)], add: vec![("x-more".into(), "1".into())], remove: vec!["x-gone".into()], ..Changes::default() })
        }
        "body" => Action::Modify(Changes { body: Some(String::from_utf8_lossy(req.body).replace("\"m\"", "\"other\"").into_bytes()), ..Changes::default() }),
        _ => Action::Continue,
    }
}
on_request!(request);

fn response(resp: &Response) -> Action {
    match told("response").as_str() {
        "status" => Action::Modify(Changes { status: Some(201), ..Changes::default() }),
        "body" => Action::Modify(Changes { body: Some([b"[", resp.body, b"]"].concat()), ..Changes::default() }),
        _ => Action::Continue,
    }
}
on_response!(response);

fn chunk(event: &[u8]) -> Chunk {
    match told("chunk").as_str() {
        "drop" => Chunk::Drop,
        "replace" => Chunk::Replace([b"[", event, b"]"].concat()),
        "finish" => Chunk::Finish(b"data: the end\n\n".to_vec()),
        _ => Chunk::Pass,
    }
}
on_chunk!(chunk);

fn error(err: &Failure) {
    told("error");
    host::log(host::Level::Warn, &format!("error {} {}", err.status, err.code));
}
on_error!(error);

fn end(end: &Summary) {
    told("end");
    host::log(host::Level::Info, &format!("end {} {}+{}", end.status, end.input_tokens, end.output_tokens));
}
on_end!(end);
