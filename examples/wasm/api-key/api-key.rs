//! Lets those in who have a key, and tells the workers whose it is, not which.
#[macro_use]
mod sluice;
use sluice::*;

/// The keys, and who has them. A module has no files and no environment: what it
/// knows is built in, so keep its source where you keep keys.
const KEYS: &[(&str, &str)] = &[("sk-acme-0123456789", "acme"), ("sk-initech-9876543210", "initech")];

fn request(req: &Request) -> Action {
    let given = req.headers.get("authorization").and_then(|a| a.strip_prefix("Bearer ")).or_else(|| req.headers.get("x-api-key"));
    let tenant = given.and_then(|g| KEYS.iter().find(|(key, _)| equal(key, g))).map(|(_, tenant)| *tenant);
    match tenant {
        None => {
            host::count("refused", 1);
            Action::Reject(401)
        }
        Some(tenant) => Action::Modify(Changes {
            remove: vec!["authorization".into(), "x-api-key".into()],
            set: vec![("x-tenant".into(), tenant.into())],
            ..Changes::default()
        }),
    }
}
on_request!(request);

/// Compares in a time that does not tell how much of a key is right.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}
