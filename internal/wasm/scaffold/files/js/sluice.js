// What the engine in the module has not, and browsers and Node.js have: TextDecoder
// and TextEncoder, for UTF-8, and console, which writes to the gateway's log.
import { log } from "sluice:gateway/host@0.1.0";

const ascii = /^[\0-\x7f]*$/;

// A character in UTF-8, each byte a letter, or so much of one as there is.
const sequence =
  /[\0-\x7f]|[\xc2-\xdf][\x80-\xbf]?|\xe0(?:[\xa0-\xbf][\x80-\xbf]?)?|[\xe1-\xec\xee\xef][\x80-\xbf]{0,2}|\xed(?:[\x80-\x9f][\x80-\xbf]?)?|\xf0(?:[\x90-\xbf][\x80-\xbf]{0,2})?|[\xf1-\xf3][\x80-\xbf]{0,3}|\xf4(?:[\x80-\x8f][\x80-\xbf]{0,2})?|[^]/g;

// fromUTF8 throws a URIError if s, each byte a letter, is not UTF-8.
const fromUTF8 = (s) => decodeURIComponent(escape(s));

function replaced(s) {
  return s.replace(sequence, (c) => {
    try {
      return fromUTF8(c);
    } catch {
      return "\ufffd";
    }
  });
}

globalThis.TextDecoder ??= class TextDecoder {
  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!/^\s*utf-?8\s*$/i.test(label)) throw new RangeError(`TextDecoder: ${label} is not there, only utf-8`);
    Object.assign(this, { encoding: "utf-8", fatal, ignoreBOM });
  }

  decode(input = new Uint8Array(), { stream = false } = {}) {
    if (stream) throw new TypeError("TextDecoder: stream is not there; decode what is whole");
    const bytes = ArrayBuffer.isView(input) ? new Uint8Array(input.buffer, input.byteOffset, input.byteLength) : new Uint8Array(input);
    let s = atob(bytes.toBase64()); // the quickest way here to a letter for each byte
    if (ascii.test(s)) return s;
    try {
      s = fromUTF8(s);
    } catch {
      if (this.fatal) throw new TypeError("TextDecoder: it is not UTF-8");
      s = replaced(s);
    }
    return s.startsWith("\ufeff") && !this.ignoreBOM ? s.slice(1) : s;
  }
};

globalThis.TextEncoder ??= class TextEncoder {
  encoding = "utf-8";

  encode(text = "") {
    const s = String(text);
    return Uint8Array.fromBase64(btoa(ascii.test(s) ? s : unescape(encodeURIComponent(s.toWellFormed()))));
  }
};

const shown = (v) => (typeof v === "string" ? v : v instanceof Error ? `${v}\n${v.stack}` : (JSON.stringify(v) ?? String(v)));
const line = (level) => (...values) => log(level, values.map(shown).join(" "));
globalThis.console ??= { debug: line("debug"), log: line("info"), info: line("info"), warn: line("warn"), error: line("error") };
