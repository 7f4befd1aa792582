// A guest as SMG's documents have one made: by cargo with wit-bindgen, for
// wasm32-wasip2. For bindgen-auth-sgl the world is "sgl-model-gateway", and smg::gateway
// is sgl::model_gateway.
wit_bindgen::generate!({ path: "wit", world: "smg" });

use exports::smg::gateway::{middleware_on_request, middleware_on_response};
use smg::gateway::middleware_types::{Action, Header, ModifyAction, Request, Response};
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    static SEEN: RefCell<HashMap<String, u64>> = RefCell::new(HashMap::new());
}

struct Guest;

fn changes() -> ModifyAction {
    ModifyAction { status: None, headers_set: vec![], headers_add: vec![], headers_remove: vec![], body_replace: None }
}

fn header(name: &str, value: String) -> Header {
    Header { name: name.into(), value }
}

impl middleware_on_request::Guest for Guest {
    fn on_request(r: Request) -> Action {
        let mut key = r.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("authorization"));
        if key.next().map(|h| h.value.as_str()) != Some("Bearer secret-api-key-12345") {
            return Action::Reject(401);
        }
        if r.query != "log" {
            return Action::Continue;
        }
        let seen = SEEN.with(|s| {
            let mut s = s.borrow_mut();
            let n = s.entry(r.path.clone()).or_insert(0);
            *n += 1;
            *n
        });
        println!("{} {}", r.method, r.path);
        let headers_add = vec![
            header("x-request-id", r.request_id),
            header("x-at", r.now_epoch_ms.to_string()),
            header("x-seen", seen.to_string()),
        ];
        Action::Modify(ModifyAction { headers_add, ..changes() })
    }
}

impl middleware_on_response::Guest for Guest {
    fn on_response(r: Response) -> Action {
        if r.status != 500 {
            return Action::Continue;
        }
        let body = format!("{} bytes", r.body.len());
        Action::Modify(ModifyAction { status: Some(503), body_replace: Some(body.into_bytes()), ..changes() })
    }
}

export!(Guest);
