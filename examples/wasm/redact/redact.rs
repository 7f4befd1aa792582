//! Takes e-mail addresses and card numbers out of answers. A stream cuts them into
//! pieces, so the beginning of a word waits in the request's state for its end:
//! what a client reads is at most one word behind.
//!
//! It looks at `"content":"…"` and `"text":"…"` as OpenAI's and Anthropic's answers
//! have them, and is for answers with one choice.
#[macro_use]
mod sluice;
use sluice::*;

fn response(resp: &Response) -> Action {
    let body = match std::str::from_utf8(resp.body) {
        Ok(body) => body,
        Err(_) => return Action::Continue,
    };
    let (mut out, mut rest) = (String::with_capacity(body.len()), body);
    while let Some((from, to)) = content(rest) {
        out.push_str(&rest[..from]);
        out.push_str(&clean(&rest[from..to]));
        rest = &rest[to..];
    }
    out.push_str(rest);
    if out == body {
        return Action::Continue;
    }
    Action::Modify(Changes { body: Some(out.into_bytes()), ..Changes::default() })
}
on_response!(response);

fn chunk(event: &[u8]) -> Chunk {
    let event = match std::str::from_utf8(event) {
        Ok(event) => event,
        Err(_) => return Chunk::Pass,
    };
    let state = String::from_utf8(host::state()).unwrap_or_default();
    // What waits, and the event that it came in, around it.
    let mut parts = state.splitn(3, '\0');
    let (waits, before, after) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let (from, to) = match content(event) {
        Some(at) => at,
        None if waits.is_empty() => return Chunk::Pass,
        None => {
            host::set_state(b"");
            return Chunk::Replace([before, &clean(waits), after, event].concat().into_bytes());
        }
    };
    let all = [waits, &event[from..to]].concat();
    let last = event.contains("\"finish_reason\":\"") || all.len() > 4096;
    let end = if last { all.len() } else { words(&all).last().map_or(0, |w| w.0) };
    host::set_state(if all[end..].is_empty() { String::new() } else { [&all[end..], "\0", &event[..from], "\0", &event[to..]].concat() }.as_bytes());
    let out = clean(&all[..end]);
    if out == event[from..to] {
        return Chunk::Pass;
    }
    Chunk::Replace([&event[..from], &out, &event[to..]].concat().into_bytes())
}
on_chunk!(chunk);

/// Where the first text is that a model wrote, between its quotes.
fn content(json: &str) -> Option<(usize, usize)> {
    let from = ["\"content\":", "\"text\":"].iter().filter_map(|name| {
        json.match_indices(name).find_map(|(at, name)| {
            let value = &json[at + name.len()..];
            let text = value.trim_start().strip_prefix('"')?;
            Some(json.len() - text.len())
        })
    }).min()?;
    let mut escaped = false;
    for (i, c) in json[from..].bytes().enumerate() {
        match c {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((from, from + i)),
            _ => {}
        }
    }
    None
}

/// The words of a JSON string with where they begin, and at last the end, where
/// perhaps a word has begun. What is escaped belongs to no word.
fn words(s: &str) -> Vec<(usize, usize)> {
    let b = s.as_bytes();
    let (mut all, mut i) = (Vec::new(), 0);
    let part = |c: u8| c.is_ascii_alphanumeric() || b"@._+-%".contains(&c) || c >= 0x80;
    while i < b.len() {
        let begin = i;
        if b[i] == b'\\' {
            i = (i + if b.get(i + 1) == Some(&b'u') { 6 } else { 2 }).min(b.len());
        } else if part(b[i]) {
            while i < b.len() && part(b[i]) {
                i += 1;
            }
            all.push((begin, i));
        } else {
            i += 1;
        }
    }
    if all.last().map_or(true, |&(_, end)| end < b.len()) {
        all.push((b.len(), b.len()));
    }
    all
}

fn clean(s: &str) -> String {
    let (mut out, mut at) = (String::with_capacity(s.len()), 0);
    for (from, to) in words(s) {
        let word = s[from..to].trim_end_matches(|c| c == '.' || c == '-');
        let label = if is_email(word) { "[e-mail]" } else if is_card(word) { "[card]" } else { continue };
        host::count("redacted", 1);
        out.push_str(&s[at..from]);
        out.push_str(label);
        at = from + word.len();
    }
    out.push_str(&s[at..]);
    out
}

fn is_email(word: &str) -> bool {
    match word.split_once('@') {
        Some((user, host)) => !user.is_empty() && host.split('.').filter(|p| !p.is_empty()).count() > 1,
        None => false,
    }
}

/// 13 to 19 digits whose check digit is right (ISO/IEC 7812).
fn is_card(word: &str) -> bool {
    let mut digits = Vec::new();
    for c in word.bytes() {
        match c {
            b'0'..=b'9' => digits.push(c - b'0'),
            b'-' => {}
            _ => return false,
        }
    }
    let sum = |(i, d): (usize, &u8)| if i % 2 == 0 { *d as u32 } else { (2 * *d as u32) / 10 + (2 * *d as u32) % 10 };
    (13..=19).contains(&digits.len()) && digits.iter().rev().enumerate().map(sum).sum::<u32>() % 10 == 0
}
